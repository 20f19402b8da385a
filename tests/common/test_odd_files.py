"""Odd text, odd yaml and odd checkpoints: one line that acts on no terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from farfield.common import checkpoint
from farfield.common.log import RunLog
from farfield.common.script import run_script, user_message
from farfield.common.terminal import printable
from farfield.common.trained import TrainedRun
from farfield.common.yaml_files import load_yaml
from tests.support.processes import ROOT
from tests.support.toy_training import toy_trainer

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(9 * ['*' + old])}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_no_control_sequence_reaches_the_terminal(capsys):
    odd = "frame \x1b[2J\x1b]0;title\x07 of \u202egnp.x\x9b31m\rgone"

    def fails():
        raise ValueError(odd)

    with pytest.raises(SystemExit) as end:
        run_script(fails)
    assert end.value.code == 2
    RunLog()(odd)
    shown = capsys.readouterr()
    for text in (shown.err, shown.out):
        assert text.rstrip("\n").isprintable()
        assert r"\x1b[2J" in text and r"\u202e" in text
    assert printable("a\tb\nc, Å, 水") == "a\tb\nc, Å, 水"


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise ValueError("shard 3 is damaged; preprocess again")


def test_an_error_in_a_loader_process_is_its_message_alone():
    with pytest.raises(ValueError, match="worker process") as error:
        list(DataLoader(Broken(), batch_size=None, num_workers=1))
    assert user_message(error.value) == "shard 3 is damaged; preprocess again"


def test_memory_that_the_cpu_lacks_is_one_line(tmp_path):
    code = (
        "import torch; from farfield.common.script import run_script;"
        "run_script(lambda: torch.empty(1 << 60, dtype=torch.uint8))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "out of memory" in done.stderr and "--max-atoms-per-batch" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "its aliases stand for .* values"),
        ("a: &a [*a]", "alias stands inside its own value|undefined alias"),
        ("[" * 5000 + "]" * 5000, "nested deeper than 20 levels"),
        ("a: " + "x" * (1 << 20), "characters, allowed are"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: [", "expected"),
    ],
)
def test_yaml_that_no_configuration_holds_is_one_line(text, words):
    with pytest.raises(ValueError, match=words) as error:
        load_yaml(text)
    assert "\n" not in str(error.value)


def test_yaml_with_a_few_aliases_is_read():
    shared = {"width": 4}
    text = yaml.safe_dump({"one": shared, "two": shared})
    assert "*" in text
    assert load_yaml(text) == {"one": shared, "two": shared}


def test_weights_that_are_not_finite_are_refused(tmp_path):
    trainer = toy_trainer(tmp_path, "--epochs", "1")
    trainer.fit()
    path = tmp_path / checkpoint.BEST
    content = checkpoint.read_checkpoint(path)
    assert TrainedRun.read(path).weights
    content["weights"]["0.weight"][0, 0] = float("nan")
    checkpoint.save_checkpoint(path, content)
    with pytest.raises(ValueError, match=r"1 weights that are not finite \(0.weight\)"):
        TrainedRun.read(path)


@pytest.mark.parametrize("part", ["weights", "averaged"])
def test_entries_that_are_no_weights_are_refused(part, tmp_path):
    trainer = toy_trainer(tmp_path, "--epochs", "1", "--ema-decay", "0.9")
    trainer.fit()
    path = tmp_path / checkpoint.BEST
    content = checkpoint.read_run(path)
    content[part] = {**content[part], "0.weight": [1.0]}
    checkpoint.save_checkpoint(path, content)
    with pytest.raises(ValueError, match=f"'0.weight' in its {part} is no weight"):
        TrainedRun.read(path)
