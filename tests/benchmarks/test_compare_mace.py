"""The tables of the comparison: what is read of a run, and what a run without data says."""

import pytest

from benchmarks.compare_mace import errors_on_test, main


def test_test_errors_are_those_of_the_model():
    table = [{"row": "mean", "energy_mae": 90.0, "force_mae": 900.0}, {"row": "model", "energy_mae": 3.0, "force_mae": 11.0}]
    found = errors_on_test({"test": table, "cpu_minutes": 5.0, "steps": 10})
    assert found == {"minutes": 5.0, "steps": 10, "energy": 3.0, "forces": 11.0}


def test_missing_data_are_refused_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no train.npz .*python -m preprocess.preprocess_md17"):
        main(["--data-path", str(tmp_path), "--run-dir", str(tmp_path / "runs")])
    assert not (tmp_path / "runs").exists()
