"""The table of the step of molecular dynamics: structures are what they say, a row is complete."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.speed import bench_md_step as bench
from farfield.models.compiled import compiled_potential
from tests.support.traced_program import make_traced

TRAINED = Path(__file__).parents[2] / "support" / "run_of_format_2" / "checkpoint_best.pt"


@pytest.mark.parametrize("name, atoms", [("ethanol", 9), ("trimer", 21), ("nanotube", 370)])
def test_structures_have_their_sizes_and_no_atoms_on_one_another(name, atoms):
    made = bench.SYSTEMS[name]()
    distances = made.get_all_distances()
    assert len(made) == atoms and distances[~torch.eye(atoms, dtype=bool).numpy()].min() > 0.8


def test_rows_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiled_potential, "make_program", make_traced)
    monkeypatch.setattr(bench, "STEPS", {"ethanol": 1})
    monkeypatch.setattr(bench, "REPLICAS", 2)
    threads = torch.get_num_threads()
    options = ["--checkpoint", str(TRAINED), "--structures", "ethanol,replicas", "--rounds", "1"]
    bench.main([*options, "--json", str(tmp_path / "rows.json")])
    torch.set_num_threads(threads)

    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["atoms"] for row in rows] == [9, 9]
    assert all(row["force_error"] < 1e-5 and row["gain"] > 0 for row in rows)
    assert "plain / compiled" in capsys.readouterr().out
