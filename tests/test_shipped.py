"""Shipped checkpoints: each is found by its name, has a model card, and has the errors it says."""

import json
from pathlib import Path

import pytest

import farfield
from farfield.common import checkpoint
from farfield.common.shipped import FOLDER, find_checkpoint, shipped_names
from farfield.common.trained import TrainedRun
from farfield.preprocess import preprocess_md17, preprocess_nbody
from farfield.train import evaluate, pack

MAX_BYTES = 500_000


@pytest.mark.parametrize("name", shipped_names())
def test_each_has_a_card_and_is_small(name):
    assert (FOLDER / f"{name}.pt").stat().st_size < MAX_BYTES
    card = (FOLDER / f"{name}.md").read_text()
    errors = json.loads((FOLDER / f"{name}.json").read_text())["test"]
    for word in ("licence", "seed", "split", "python -m train.", "## Limits"):
        assert word in card
    for value in errors.values():
        assert f"{value:.3g}" in card
    assert {"ethanol", "nbody"} <= set(shipped_names())


def test_ethanol_has_its_errors_on_the_bundled_test_frames(tmp_path):
    preprocess_md17.main(["--sample", "--out", str(tmp_path / "data")])
    rows = evaluate.evaluate_checkpoint("ethanol", data_path=tmp_path / "data")
    said = json.loads((FOLDER / "ethanol.json").read_text())["test"]
    assert {name: rows[0][name] for name in said} == pytest.approx(said, rel=2e-3)


@pytest.mark.slow
def test_nbody_has_its_errors_on_the_public_simulations(tmp_path):
    preprocess_nbody.main(["--out", str(tmp_path)])
    rows = evaluate.evaluate_checkpoint("nbody", data_path=tmp_path)
    said = json.loads((FOLDER / "nbody.json").read_text())["test"]
    assert {name: rows[0][name] for name in said} == pytest.approx(said, rel=2e-3)


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match="a shipped one: ethanol"):
        farfield.load("ethanal")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        farfield.load(tmp_path / "absent.pt")


def test_a_file_of_the_user_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("ethanol") == FOLDER / "ethanol.pt"
    (tmp_path / "ethanol").write_bytes(b"")
    assert find_checkpoint("ethanol") == Path("ethanol")


def test_packing_keeps_the_judged_weights_and_drops_the_rest(tmp_path):
    run = Path(__file__).parent / "support" / "run_of_format_2" / checkpoint.BEST
    file = tmp_path / "packed.pt"
    pack.main([str(run), "--output", str(file)])
    before, after = TrainedRun.read(run), TrainedRun.read(file)
    assert before.config == after.config
    assert all((value == after.weights[name]).all() for name, value in before.weights.items())
    assert file.stat().st_size < run.stat().st_size / 2

    with pytest.raises(ValueError, match="--overwrite"):
        pack.main([str(run), "--output", str(file)])
    with pytest.raises(ValueError, match="--output FILE"):
        pack.main([str(run)])
