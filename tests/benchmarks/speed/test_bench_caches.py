"""The benchmarks of the basis cache: cached and computed bases agree, in every row."""

import json

import numpy as np
import torch

from benchmarks.speed import bench_basis_cache, bench_qm9_cache
from tests.support.qm9_data import molecules, raw_labels
from tests.support.turns import orthogonal


def run(main, folder, *arguments: str) -> dict[str, dict]:
    """Rows of a benchmark by their first column."""
    threads = torch.get_num_threads()
    main([*arguments, "--rounds", "2", "--json", str(folder / "rows.json")])
    torch.set_num_threads(threads)
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    return {row.get("row", row.get("graph")): row for row in rows}


def test_bases_of_complete_graphs(tmp_path):
    sizes = ("--graphs", "9", "--kernel-graphs", "6", "--batch", "4")
    rows = run(bench_basis_cache.main, tmp_path, *sizes)
    assert rows["computed"]["error"] == 0
    assert 0 < rows["float32"]["error"] < 1e-6 < rows["float16"]["error"] < 1e-3
    assert rows["float16"]["size_mb"] < rows["float32"]["size_mb"] < rows["kernels"]["size_mb"]
    assert all(row["ready_ms"] > 0 for row in rows.values())


def test_bases_of_molecules(tmp_path):
    """Turned: a bond along an axis has two frames, and rounding would choose between them."""
    whole, turn = molecules(), orthogonal(0).numpy()
    arrays = {"n_atoms": whole.counts, "Z": whole.atomic_numbers, "R": whole.positions @ turn}
    np.savez(tmp_path / "qm9_props.npz", **arrays, **raw_labels(whole))
    options = ("--data-path", str(tmp_path), "--files", "qm9_props.npz", "--batch", "4")
    rows = run(bench_qm9_cache.main, tmp_path, *options, "--graphs", "bonds,cutoff")
    assert rows.keys() == {"bonds", "cutoff"}
    for row in rows.values():
        assert row["molecules"] == len(whole) and row["edges"] > 1
        assert row["error"] < 1e-5 and row["first_ms"] > 0 and row["computed_ms"] > 0
