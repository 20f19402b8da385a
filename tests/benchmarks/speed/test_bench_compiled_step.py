"""The table of the compiled training step: a row is complete, and both ways are one gradient."""

import json

import torch

from benchmarks.speed import bench_compiled_step as bench
from tests.support.traced_program import make_traced_step


def test_rows_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "make_training_program", make_traced_step)
    threads = torch.get_num_threads()
    options = ["--rounds", "1", "--channels", "4", "--json", str(tmp_path / "rows.json")]
    bench.main(options)
    torch.set_num_threads(threads)

    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["case"][:9] for row in rows] == ["ethanol x", "ethanol x", "370 atoms"]
    assert all(row["difference"] < 1e-5 and row["ratio"] > 0 for row in rows)
    assert "eager / compiled" in capsys.readouterr().out
