"""Laws of checkpoints: what is written comes back, damage and foreign files are one error."""

import random
import resource

import numpy as np
import pytest
import torch
from easydict import EasyDict
from torch import nn

from farfield.common import checkpoint
from tests.support.toy_training import toy_model

CPU = torch.device("cpu")


def test_random_states_come_back(tmp_path):
    draw = lambda: (random.random(), np.random.rand(), torch.rand(1).item())  # noqa: E731, NPY002
    np.random.randn(1)  # noqa: NPY002 - leaves a cached normal number, which belongs to the state
    checkpoint.save_checkpoint(tmp_path / "c.pt", {"random": checkpoint.random_states(CPU)})
    first = draw()
    checkpoint.restore_random_states(checkpoint.read_checkpoint(tmp_path / "c.pt")["random"], CPU)
    assert draw() == first


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_flipped_byte_is_found(tmp_path, place):
    path = tmp_path / "c.pt"
    checkpoint.save_checkpoint(path, {"weights": {"w": torch.zeros(10_000)}})
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="c.pt is damaged or not a checkpoint"):
        checkpoint.read_checkpoint(path)


def test_any_flipped_bit_is_found(tmp_path):
    """Also in the directory of the file, where a wrong bit can point to other bytes."""
    path = tmp_path / "c.pt"
    checkpoint.save_checkpoint(path, {"weights": {"w": torch.zeros(100)}})
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    directory = data.index(b"PK\x01\x02")
    for place in [*range(directory, len(data), 7), *rng.integers(0, directory, 60).tolist()]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="c.pt is damaged"):
            checkpoint.read_checkpoint(path)


def test_a_checkpoint_without_its_checksum_is_damaged(tmp_path):
    """Files of earlier formats have none, and are read."""
    torch.save({"format": 6, "weights": {}}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"c.pt is damaged \(its checksum is missing\)"):
        checkpoint.read_checkpoint(tmp_path / "c.pt")
    torch.save({"format": 5, "weights": {}}, tmp_path / "c.pt")
    assert checkpoint.read_checkpoint(tmp_path / "c.pt")["weights"] == {}


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_truncated_and_foreign_files_are_one_line(tmp_path, content):
    path = tmp_path / "c.pt"
    checkpoint.save_checkpoint(path, {"weights": {"w": torch.zeros(1000)}})
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(ValueError, match="damaged or not a checkpoint") as error:
        checkpoint.read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"format": 1, "config": EasyDict(a=1)}, tmp_path / "c.pt")
    with pytest.raises(
        ValueError, match=r"damaged or not a checkpoint \(it holds more than numbers\)"
    ):
        checkpoint.read_checkpoint(tmp_path / "c.pt")


def test_a_missing_file_and_another_format_are_named(tmp_path):
    with pytest.raises(ValueError, match=f"is a folder; give {tmp_path}/checkpoint_best.pt"):
        checkpoint.read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist; give the checkpoint_best.pt"):
        checkpoint.read_checkpoint(tmp_path / "none.pt")
    torch.save({"format": 0}, tmp_path / "old.pt")
    with pytest.raises(ValueError, match="has format 0, this version reads 2"):
        checkpoint.read_checkpoint(tmp_path / "old.pt")


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save_checkpoint(path, {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save_checkpoint(path, {"step": 2, "bad": lambda: None})
    assert checkpoint.read_checkpoint(path)["step"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.pt"]


def test_a_full_disk_is_one_line_and_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save_checkpoint(path, {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(
            OSError, match="c.pt cannot be written .*is the disk full.*--resume"
        ) as error:
            checkpoint.save_checkpoint(path, {"weights": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value)
    assert checkpoint.read_checkpoint(path)["step"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("name", ["config", "averaged", "position", "history"])
def test_a_checkpoint_without_all_parts_is_not_of_a_run(tmp_path, name):
    whole = {
        name: {} if kind is checkpoint.MAYBE else kind()
        for name, kind in checkpoint.ENTRIES.items()
    }
    whole["config"] = {section: {} for section in checkpoint.SECTIONS}
    checkpoint.save_checkpoint(tmp_path / "c.pt", whole | {"averaged": None, "best": None})
    assert checkpoint.read_run(tmp_path / "c.pt")["averaged"] is None
    for part in ({name: 3}, {}):
        checkpoint.save_checkpoint(
            tmp_path / "c.pt", {key: value for key, value in whole.items() if key != name} | part
        )
        with pytest.raises(ValueError, match=f"c.pt is not of a run: it has no {name}; give the"):
            checkpoint.read_run(tmp_path / "c.pt")


@pytest.mark.parametrize(
    "other, message",
    [
        (toy_model(9), r"weight '0.weight' has shape \(9, 3\), here \(8, 3\)"),
        (nn.Sequential(nn.Linear(3, 8)), "no weight '3.weight'"),
        (nn.Sequential(*toy_model(), nn.Linear(1, 1)), "weight '4.weight' has no place here"),
    ],
)
def test_weights_of_another_model_name_the_key(other, message):
    with pytest.raises(ValueError, match=message):
        checkpoint.load_weights(toy_model(), other.state_dict(), "c.pt")
