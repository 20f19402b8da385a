"""The benchmark of the EdgeTransformer: complete rows, and steps of the sizes asked for."""

import json

import pytest
import torch

from benchmarks.speed import bench_edge_transformer as bench


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_rows_are_written(tmp_path, capsys):
    sizes = ["--atoms", "5", "--structures", "2", "--forces", "conservative"]
    bench.main([*sizes, "--json", str(tmp_path / "rows.json")])
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["said"] == "done" and row["step_s"] > 0 and 50 < row["peak_mb"] < 4000
    assert "2 structures of 5 atoms" in capsys.readouterr().out


@pytest.mark.parametrize("forces", bench.FORCES)
def test_a_step_is_of_the_network_and_the_sizes_that_are_asked_for(forces):
    program = bench.edge_transformer_step("base", atoms=5, structures=2, forces=forces)
    energy, found = program.run()
    assert energy.shape == (2,) and found.shape == (10, 3)
    assert program.module.config["forces"] == forces and program.module.config["width"] == 128
    program.train()
    assert any(bool(weight.grad.any()) for weight in program.module.parameters())


def test_a_limit_ends_a_step(monkeypatch):
    options = bench.build_parser().parse_config(["--forces", "direct", "--limit-gb", "0"]).bench
    (row,) = bench.rows_of(options)
    assert row["said"] == "more than 0 GB, building" and row["step_s"] is None
