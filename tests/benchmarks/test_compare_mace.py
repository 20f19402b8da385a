"""The tables of the comparison: what is read at which minute, and what a run without data says."""

import pytest

from benchmarks.compare_mace import curve_rows, errors_on_test, main


def test_curve_takes_the_first_validation_after_each_mark_and_the_last():
    history = [{"cpu_minutes": m, "step": int(100 * m), "energy_mae": 9 - m, "force_mae": 20 - m} for m in (0.6, 1.2, 2.5, 4.0)]
    rows = curve_rows({"program": "x"}, history, 4.0)
    assert [row["minutes"] for row in rows] == [1.2, 2.5, 4.0, 4.0]  # after 1, 2 and 3 minutes, and at the end
    assert rows[0] == {"program": "x", "split": "validation", "minutes": 1.2, "steps": 120, "energy": 7.8, "forces": 18.8}


def test_test_errors_are_those_of_the_model():
    table = [{"row": "mean", "energy_mae": 90.0, "force_mae": 900.0}, {"row": "model", "energy_mae": 3.0, "force_mae": 11.0}]
    found = errors_on_test({"test": table, "cpu_minutes": 5.0, "steps": 10})
    assert found == {"minutes": 5.0, "steps": 10, "energy": 3.0, "forces": 11.0}


def test_missing_data_are_refused_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no train.npz .*python -m preprocess.preprocess_md17"):
        main(["--data-path", str(tmp_path), "--run-dir", str(tmp_path / "runs")])
    assert not (tmp_path / "runs").exists()
