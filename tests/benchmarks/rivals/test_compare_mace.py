"""The tables of the comparison: what is read of a run, and what a run without data says."""

import json

import pytest
from easydict import EasyDict

from benchmarks.rivals.compare_mace import errors_on_test, main, run_farfield


def test_a_finished_run_of_ours_gives_its_curve_and_its_test_errors(tmp_path):
    history = [
        {"cpu_minutes": m, "step": int(100 * m), "energy_mae": 9 - m, "force_mae": 20 - m}
        for m in (0.6, 1.2, 2.5, 4.0)
    ]
    results = {
        "config": {"model": {"schedule": "first-order2"}},
        "parameters": 7,
        "history": history,
        "cpu_minutes": 4.0,
        "steps": 400,
    }
    results["test"] = [{"row": "model", "energy_mae": 3.0, "force_mae": 11.0}]
    (tmp_path / "farfield_4").mkdir()
    (tmp_path / "farfield_4" / "results.json").write_text(json.dumps(results))
    rows = run_farfield(EasyDict(data_path="none", seed=0, minutes=4.0), tmp_path, [])

    # After 1, 2 and 3 minutes, and the test.
    assert [row["minutes"] for row in rows] == [1.2, 2.5, 4.0, 4.0]
    common = {"program": "Farfield first-order2", "weights": 7}
    first = {"split": "validation", "minutes": 1.2, "steps": 120, "energy": 7.8, "forces": 18.8}
    last = {"split": "test", "minutes": 4.0, "steps": 400, "energy": 3.0, "forces": 11.0}
    assert rows[0] == {**common, **first} and rows[-1] == {**common, **last}


def test_test_errors_are_those_of_the_model():
    table = [
        {"row": "mean", "energy_mae": 90.0, "force_mae": 900.0},
        {"row": "model", "energy_mae": 3.0, "force_mae": 11.0},
    ]
    found = errors_on_test({"test": table, "cpu_minutes": 5.0, "steps": 10})
    assert found == {"minutes": 5.0, "steps": 10, "energy": 3.0, "forces": 11.0}


def test_missing_data_are_refused_in_one_line(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="no train.npz .*python -m preprocess.preprocess_md17"
    ):
        main(["--data-path", str(tmp_path), "--run-dir", str(tmp_path / "runs")])
    assert not (tmp_path / "runs").exists()
