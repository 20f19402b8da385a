"""Molecules with properties in npz files: numbers, units, and arrays that do not fit."""

import numpy as np
import pytest

from farfield.dataloader.sources import qm9
from farfield.dataloader.sources.qm9_arrays import read_edge_npz, read_ragged
from farfield.dataloader.sources.qm9_targets import TABLE
from tests.support import qm9_data
from tests.support.qm9_data import labelled_molecules


def test_numbers_and_units_of_the_edge_file(tmp_path, monkeypatch):
    whole, raw, found = labelled_molecules()
    edges = qm9_data.edge_arrays(
        whole, found.table.ends, found.table.kinds, found.table.counts, raw
    )
    np.savez(tmp_path / "edge.npz", **edges)
    monkeypatch.setattr(qm9, "WHOLE_COUNT", len(whole) + 2)
    monkeypatch.setattr(qm9, "UNCHARACTERISED_COUNT", 2)
    structures, _, report = read_edge_npz(tmp_path / "edge.npz", uncharacterised=np.array([1, 4]))
    assert structures.extra["gdb_id"].tolist() == [2, 3, *range(5, len(whole) + 3)]
    assert report.kept == len(whole)
    table = edges["targets"].copy()
    table[:, TABLE.index("U0")] /= 27.2
    np.savez(tmp_path / "edge.npz", **edges | {"targets": table})
    with pytest.raises(ValueError, match=r"U0 and U0_atom disagree by .* eV .*: not in eV\?"):
        read_edge_npz(tmp_path / "edge.npz")
    np.savez(tmp_path / "edge.npz", **edges | {"src": edges["src"] + 3})
    with pytest.raises(
        ValueError,
        match="src and dst must be atoms inside their molecule; download qm9_edge.npz again",
    ):
        read_edge_npz(tmp_path / "edge.npz")


def test_ragged_file_with_vectors_or_geometry_only(tmp_path):
    whole = qm9_data.molecules(("H2O", "CH4", "NH3"))
    arrays = {
        "n_atoms": whole.counts,
        "Z": whole.atomic_numbers.astype(np.uint8),
        "R": whole.positions.astype(np.float32),
    }
    np.savez(tmp_path / "a.npz", **arrays, gdb_id=[7, 5, 6])
    structures, bonds, report = read_ragged(tmp_path / "a.npz", uncharacterised=np.array([6]))
    assert structures.extra.keys() == {"gdb_id"}
    assert structures.counts.tolist() == [5, 3]
    assert bonds is None
    assert report.uncharacterised == 1
    vectors = np.array([[0, 0, 0.2081943], [np.nan, 0, 0], [1, 2, 3]])
    np.savez(
        tmp_path / "a.npz",
        **arrays,
        dipole=vectors,
        binding_energy=[1.0, 2.0, 3.0],
        smiles=["O", "C", "N"],
    )
    structures, _, report = read_ragged(tmp_path / "a.npz")
    assert report.broken == [("molecule 1", "dipole is not finite")]
    assert structures.names.tolist() == ["O", "N"]
    assert structures.extra["dipole"][0] == pytest.approx([0, 0, 1], abs=1e-6)
    assert structures.extra["binding_energy"].tolist() == [1, 3]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"mu": [1.0]},
            r"mu must have the shape \(3,\) for 3 molecules, got \(1,\); give an npz file with "
            r"n_atoms, Z, R",
        ),
        ({"R": np.zeros((4, 3))}, r"R must have the shape \(12, 3\)"),
        ({"u0": [1.0] * 3, "U0": [1.0] * 3}, "has U0 and u0 for U0; keep one of them"),
        (
            {"R": np.full((12, 3), np.inf)},
            "0 of 3 molecules, left out: 0 uncharacterised, 3 broken .molecule 0: positions are "
            "not finite",
        ),
        (
            {"Z": np.full(12, 15), "u0": [-1.0] * 3},
            r"free atoms of QM9 are Z = \[1, 6, 7, 8, 9\], got Z = 15; leave U0 out",
        ),
    ],
)
def test_ragged_file_that_does_not_fit(tmp_path, change, message):
    whole = qm9_data.molecules(("H2O", "CH4", "NH3"))
    arrays = {"n_atoms": whole.counts, "Z": whole.atomic_numbers, "R": whole.positions}
    np.savez(tmp_path / "a.npz", **arrays | change)
    with pytest.raises(ValueError, match=rf"a\.npz.*{message}"):
        read_ragged(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "change",
    [
        {"n_node": np.array(["", "x"])},
        {"node_attr": np.ones(7)},
        {"src": np.array([b""])},
        {"targets": np.array(3.0)},
        {"n_edge": -np.ones(14, int)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_odd_arrays_of_the_edge_file_are_refused_with_its_name(change, tmp_path):
    whole, raw, found = labelled_molecules()
    table = found.table
    edges = qm9_data.edge_arrays(whole, table.ends, table.kinds, table.counts, raw)
    np.savez(tmp_path / "edge.npz", **edges | change)
    with pytest.raises(ValueError, match="edge.npz: .*; download qm9_edge.npz again"):
        read_edge_npz(tmp_path / "edge.npz")
