"""How compared programs are started, and which of their validations a table shows."""

import json
import sys

import pytest

from benchmarks.rivals.side_by_side import (
    curve_rows,
    divide,
    farfield_command,
    farfield_results,
    start,
)


def test_curve_takes_the_first_validation_after_each_mark_and_the_last_each_once():
    history = [{"minutes": m, "steps": int(100 * m), "energy": 9 - m} for m in (0.6, 2.5, 3.1, 4.0)]
    rows = curve_rows({"program": "x"}, history, 4.0)

    # 2.5 is the first after both one and two minutes.
    assert [row["minutes"] for row in rows] == [2.5, 3.1, 4.0]
    place = {"program": "x", "split": "validation", "minutes": 2.5, "steps": 250}
    assert rows[0] == {**place, "energy": 6.5}
    assert curve_rows({}, [], 4.0) == []


def test_options_behind_two_dashes_are_farfields():
    own, more = divide(["--minutes", "3", "--", "--lr", "1e-3"])
    assert own == ["--minutes", "3"] and more == ["--lr", "1e-3"]
    assert divide(["--minutes", "3"]) == (["--minutes", "3"], [])
    assert divide(["--"]) == ([], [])


def test_a_begun_run_goes_on_without_new_options(tmp_path):
    command = farfield_command("train.train_md17", tmp_path, ["--lr", "1e-3"])
    assert command[1:] == ["-m", "train.train_md17", "--run-dir", str(tmp_path), "--lr", "1e-3"]
    (tmp_path / "config.yaml").touch()
    again = farfield_command("train.train_md17", tmp_path, ["--lr", "1e-3"])
    assert again[1:] == [*command[1:5], "--resume"]


def test_a_finished_run_is_read_and_not_trained_again(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"steps": 5}))
    assert farfield_results("no.such.module", tmp_path, 2.0, []) == {"steps": 5}


def test_a_program_that_fails_or_is_not_there_is_named_in_one_line():
    with pytest.raises(FileNotFoundError, match="no python no-such-python; .* how to make it"):
        start(["no-such-python", "-c", ""])
    with pytest.raises(ValueError, match="python.* ended with code 3"):
        start([sys.executable, "-c", "raise SystemExit(3)"])


def test_programs_have_one_thread():
    start([sys.executable, "-c", "import os; assert os.environ['OMP_NUM_THREADS'] == '1'"])
