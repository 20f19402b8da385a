"""Kills and second processes on the smallest programs; a program that loses its work is noticed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reliability import kill_programs, second_processes
from benchmarks.reliability.digests import files_digest
from benchmarks.reliability.forked_programs import call_forked, run_forked
from benchmarks.reliability.small_programs import PROGRAMS, SmallProgram, write_property_file
from farfield.common.folder_lock import only_process
from farfield.dataloader.storage.files import atomic_write


def program_of(name: str) -> SmallProgram:
    (found,) = [one for one in PROGRAMS if one.name == name]
    return found


def test_a_killed_preprocessing_ends_with_the_same_files(tmp_path):
    write_property_file(tmp_path / "molecules.npz", 48)
    generator = np.random.default_rng(1)
    program = program_of("preprocessing of molecules")
    row = kill_programs.measure(program, tmp_path, tmp_path / "work", 1, generator)
    assert row["kills"] == row["identical"] == 1, row["faults"]


def careful(arguments: list[str]) -> None:
    """Counts to 20 in a file, and goes on where it was; one process at a time."""
    folder = Path(arguments[0])
    with only_process(folder):
        path = folder / "count"
        for number in range(len(path.read_bytes()) if path.exists() else 0, 20):
            with atomic_write(path) as temporary:
                temporary.write_bytes(b"x" * (number + 1))
            time.sleep(0.01)


def careless(arguments: list[str]) -> None:
    """Appends without looking."""
    folder = Path(arguments[0])
    folder.mkdir(exist_ok=True)
    for _ in range(20):
        with open(folder / "count", "ab") as file:
            file.write(b"x")
        time.sleep(0.01)


def counting(main) -> SmallProgram:
    """A program of the tests."""
    return SmallProgram(main.__name__, main, *(lambda inputs, run: [str(run)],) * 2, files_digest)


def test_a_program_that_loses_its_work_is_noticed(tmp_path):
    rows = [
        kill_programs.measure(
            counting(main), tmp_path, tmp_path / main.__name__, 3, np.random.default_rng(0)
        )
        for main in (careful, careless)
    ]
    assert rows[0]["identical"] == 3 > rows[1]["identical"]  # a kill may come before all work
    assert "other results" in rows[1]["faults"][0]


def test_a_second_process_is_refused_and_the_first_goes_on(tmp_path):
    rows = [
        second_processes.measure(counting(main), tmp_path, tmp_path / main.__name__, 2)
        for main in (careful, careless)
    ]
    assert (rows[0]["refused"], rows[0]["unharmed"]) == (2, 2)
    assert (rows[1]["refused"], rows[1]["unharmed"]) == (0, 0)


def test_how_a_program_ends_is_told(tmp_path):
    def main(arguments: list[str]) -> None:
        print("begins")
        raise {"value": ValueError("no\nline"), "key": KeyError("x")}[arguments[0]]

    refused = run_forked(main, ["value"], tmp_path / "output")
    assert refused.is_refusal and refused.last_line == "error: no line"
    defect = run_forked(main, ["key"], tmp_path / "output")
    assert defect.code == 70 and not defect.is_refusal and "KeyError" in defect.text
    assert call_forked(lambda: b"answer", tmp_path / "output") == b"answer"
    with pytest.raises(RuntimeError, match="ended with code 70"):
        call_forked(lambda: {}["x"], tmp_path / "output")
