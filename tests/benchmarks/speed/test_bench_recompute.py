"""The benchmark of ``--recompute`` measures a step that does recompute."""

from __future__ import annotations

import json

from benchmarks.speed import bench_recompute


def test_rows_of_a_small_system(tmp_path, monkeypatch):
    memory = {False: 100.0, True: 60.0}
    monkeypatch.setattr(
        bench_recompute.harness, "peak_memory_mb", lambda build, given, step: memory[given[-1]]
    )
    file = tmp_path / "rows.json"
    bench_recompute.main(["--atoms", "24", "--rounds", "1", "--json", str(file)])
    kept, again = json.loads(file.read_text())["rows"]
    assert kept["time_ratio"] == 1 and again["memory_ratio"] == 0.6
    assert again["seconds"] > 0 and again["atoms"] == kept["atoms"] == 24


def test_the_second_program_recomputes():
    networks = [
        bench_recompute.step_program("water", 24, {}, again).module.network
        for again in (False, True)
    ]
    assert [network.backbone.trunk.recompute for network in networks] == [False, True]
