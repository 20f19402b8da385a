"""The table of LMDB files: rows are complete, and the file is gone afterwards."""

import json

import torch

from benchmarks.speed import bench_lmdb as bench


def test_rows_are_written(tmp_path, capsys):
    threads = torch.get_num_threads()
    options = ["--structures", "200", "--steps", "4", "--workers", "1", "--out", str(tmp_path)]
    bench.main([*options, "--json", str(tmp_path / "rows.json")])
    torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    found = {row["what"]: row["value"] for row in rows}
    assert len(rows) == 11 and all(value > 0 for value in found.values())
    assert found["size of the file (MB)"] < 1
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]
    assert "first shuffled batch" in capsys.readouterr().out
