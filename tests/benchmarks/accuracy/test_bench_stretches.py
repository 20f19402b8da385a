"""The comparison on stretches: rows, ratios, runs that are read back, tests at the end alone."""

import json

import pytest

from benchmarks.accuracy import bench_stretches as bench
from tests.support.trajectory_files import write_molecule

TINY = (
    "irreps=8x0e+8x1o,radial_hidden=8,radial_size=4,element_size=4,near_heads=2,far_heads=1,"
    "far_expansion=pairwise"
)


def run(folder, *more):
    """Rows of a comparison of a moment, by frames and model."""
    arguments = ["--data-path", str(folder), "--sets", "at_at", "--models", "near,hybrid"]
    arguments += ["--minutes", "0.01", "--run-dir", str(folder / "runs"), "--option", TINY]
    bench.main([*arguments, "--json", str(folder / "rows.json"), *more])
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    return {(row["frames"], row["model"]): row for row in rows}


def test_tests_come_at_the_end_and_finished_runs_are_read_back(tmp_path):
    write_molecule(tmp_path / "md22_at-at.npz", 100, 0)
    first = run(tmp_path)
    assert {frames for frames, _ in first} == {"val", "choice"}
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoint_last.pt")}
    assert len(stamps) == 2

    rows = run(tmp_path, "--test")
    assert {frames for frames, _ in rows} == {"val", "choice", "random", "stretch"}
    assert {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoint_last.pt")
    } == stamps
    for key, row in first.items():
        assert rows[key] == row
    for (frames, model), row in rows.items():
        near = rows[frames, "near"]
        assert row["force_mae"] <= row["force_rmse"] <= row["force_max"]
        if model != "near":
            ratio = row["force_rmse"] / near["force_rmse"]
            assert row["rmse_ratio"] == pytest.approx(ratio)
            assert row["weights"] > near["weights"]


def test_near_ratios_belong_to_the_same_frames():
    rows = [
        {"set": "a", "frames": frames, "model": model, "force_mae": mae, "force_rmse": 2 * mae}
        for frames, model, mae in [("x", "near", 1.0), ("y", "near", 4.0), ("y", "hybrid", 2.0)]
    ]
    bench.add_near_ratios(rows)
    assert rows[2]["mae_ratio"] == 0.5 and rows[2]["rmse_ratio"] == 0.5
    assert "mae_ratio" not in rows[0]
