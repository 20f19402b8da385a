"""The benchmark of large structures: a run of a moment, and its distance from the calculator."""

import json

import torch

from benchmarks.speed import bench_large_structure as bench
from tests.support.processes import run_script


def test_a_box_of_water_in_pieces(tmp_path, capsys, monkeypatch):
    def run(command, env, **settings):
        return run_script(*command[1:], environment=env)

    monkeypatch.setattr(bench.subprocess, "run", run)
    file, threads = tmp_path / "rows.json", torch.get_num_threads()
    bench.main(["--atoms", "192", "--piece-atoms", "80", "--compare", "--json", str(file)])
    torch.set_num_threads(threads)
    (row,) = json.loads(file.read_text())["rows"]
    assert row["atoms"] == 192 and row["ranks"] == 1
    assert row["seconds"] > 0 and row["cpu_seconds"] > 0 and 0.1 < row["peak_gigabytes"] < 3
    assert row["energy_difference"] < 1e-5 and row["force_difference"] < 1e-5
    assert "192" in capsys.readouterr().out


def test_an_open_box_does_not_repeat():
    assert not bench.box_of_water(24, True).pbc.any() and bench.box_of_water(24, False).pbc.all()
