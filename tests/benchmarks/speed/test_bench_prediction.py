"""The table of prediction: rows are complete."""

import json

import pytest
import torch

from benchmarks.speed import bench_prediction as bench
from farfield.common import checkpoint
from farfield.train import train_md17
from tests.support.md_data import SMALL, make_data


@pytest.fixture(scope="module")
def potential(tmp_path_factory):
    data = make_data(tmp_path_factory.mktemp("data") / "set")
    folder = tmp_path_factory.mktemp("run")
    train_md17.main(["--run-dir", str(folder), "--data-path", str(data), *SMALL, "--epochs", "1"])
    return folder / checkpoint.BEST


def test_rows_are_written(potential, tmp_path, capsys):
    threads = torch.get_num_threads()
    options = ["--checkpoint", str(potential), "--structures", "6", "--rounds", "1"]
    bench.main([*options, "--json", str(tmp_path / "rows.json")])
    torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["way"] for row in rows][0] == "calculator" and len(rows) == 4
    assert all(row["milliseconds"] > 0 for row in rows) and rows[0]["speedup"] == 1
    assert "times as fast" in capsys.readouterr().out
