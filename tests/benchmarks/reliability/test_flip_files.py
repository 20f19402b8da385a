"""Changes of stored files are refused or change nothing; the benchmark notices one that does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.reliability import flip_files, stored_files
from benchmarks.reliability.stored_files import STORED, Stored

QUICK = ("batches of sampling", "bad step", "compiled program")


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    """Stored files that need no training."""
    folder = tmp_path_factory.mktemp("all")
    stored_files.make_sampled([str(folder / "sampled")])
    stored_files.make_bad_step([str(folder / "bad")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        stored_files.make_compiled([str(folder / "compiled")])
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_wrong_bits_and_lost_ends_change_no_number(quick, name):
    (stored,) = [one for one in STORED if one.name == name]
    row = flip_files.measure(stored, quick, 24, 0)
    assert row["wrong"] == 0, row["faults"]
    assert row["flips"] + row["cuts"] == row["refused"] + row["same"] == 24
    assert row["cuts"] == 4 and row["refused"] > 10


def test_a_file_without_a_checksum_is_noticed(tmp_path):
    (tmp_path / "numbers").mkdir()
    np.arange(40.0).tofile(tmp_path / "numbers" / "values.bin")

    def read(folder: Path) -> np.ndarray:
        return np.fromfile(folder / "values.bin")

    plain = Stored("plain numbers", "numbers", read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flip_files, "STORED", (plain,))
        row = flip_files.measure(plain, tmp_path, 12, 0)
    assert row["wrong"] == 12 and "values.bin, change 0" in row["faults"][0]
