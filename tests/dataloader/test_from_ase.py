"""Structures of ASE become the batches that a preprocessed folder gives."""

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from farfield.dataloader.chemistry.bonds import perceive_bonds
from farfield.dataloader.chemistry.molecule_graphs import graph_rule, molecule_graphs
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.datasets.property_data import PropertyDataset
from farfield.dataloader.from_ase import (
    batch_from_atoms,
    check_structures,
    molecule_batch_from_atoms,
    read_structures,
    structures_from_atoms,
)
from farfield.dataloader.storage.basis_cache import BasisCache
from farfield.dataloader.storage.basis_rows import CacheSettings
from tests.support.molecule_data import random_crystals, random_structures

MOLECULES = [molecule(name) for name in ("C6H6", "CH3CH2OH", "H2O", "HCN")]


def atoms_of(structures) -> list[Atoms]:
    made = []
    for index in range(len(structures)):
        one = structures[index]
        cell = {} if one.cell is None else {"cell": one.cell[0], "pbc": one.periodic[0]}
        made.append(Atoms(one.atomic_numbers, one.positions, **cell))
    return made


def check_same(batch, other, atol=0.0):
    assert torch.equal(batch.graph.src, other.graph.src)
    assert torch.equal(batch.graph.dst, other.graph.dst)
    assert torch.equal(batch.graph.nodes_per_graph, other.graph.nodes_per_graph)
    assert torch.equal(batch.atomic_numbers, other.atomic_numbers)
    torch.testing.assert_close(batch.positions, other.positions, rtol=0, atol=atol)
    assert batch.cutoff == other.cutoff


@pytest.mark.parametrize(
    "structures",
    [
        random_structures((3, 5, 1, 4)),
        random_crystals(),
        random_crystals(periodic=(True, True, False)),
    ],
    ids=["open", "crystal", "slab"],
)
def test_a_batch_is_the_one_of_a_preprocessed_folder(structures):
    dataset = MoleculeDataset(structures, 3.5, dtype=torch.float64)
    batch = batch_from_atoms(atoms_of(structures), 3.5, torch.float64)
    expected = dataset[range(len(structures))]
    check_same(batch, expected, atol=1e-12)
    if expected.cell is None:
        assert batch.cell is None
        assert batch.image_shift is None
    else:
        assert torch.equal(batch.cell, expected.cell)
        assert torch.equal(batch.periodic, expected.periodic)
        assert torch.equal(batch.image_shift, expected.image_shift)


def test_open_and_periodic_structures_share_a_batch():
    batch = batch_from_atoms([MOLECULES[0], bulk("NaCl", "rocksalt", a=5.6)], 4.0)
    assert batch.periodic.tolist() == [3 * [False], 3 * [True]]
    assert not batch.cell[0].any()
    assert batch.cell[1].any()
    inside = batch.graph.dst < len(MOLECULES[0])
    assert not batch.image_shift[inside].any()
    assert batch.image_shift[~inside].any()


@pytest.mark.parametrize("kind", ["bonds", "cutoff", "complete"])
def test_graphs_and_bonds_are_those_of_preprocess_qm9(tmp_path, kind):
    rule = graph_rule(kind, 3.0)
    structures, kinds = structures_from_atoms(MOLECULES), []
    structures.extra["homo"] = np.zeros(len(structures))
    graphs = molecule_graphs(structures, perceive_bonds(structures), rule, kinds)
    settings = CacheSettings(1, rule)
    cache = BasisCache.build(tmp_path / "basis", graphs, settings, structures.data_hash)
    dataset = PropertyDataset(
        structures, cache, np.arange(len(structures)), np.concatenate(kinds), targets=["homo"]
    )
    expected = dataset[range(len(structures))]
    batch = molecule_batch_from_atoms(MOLECULES, rule, bond_kinds=True)
    check_same(batch, expected)
    assert torch.equal(batch.edge_features["bond_kinds"], expected.edge_features["bond_kinds"])
    assert 4 in batch.edge_features["bond_kinds"], "benzene is aromatic"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda atoms: atoms[:0], "structure 1 has no atoms; give at least one"),
        (lambda atoms: _with_nan(atoms), "positions and cell of structure 1 must be finite"),
    ],
)
def test_bad_structures_are_named(change, message):
    atoms = [MOLECULES[2], change(MOLECULES[3].copy())]
    with pytest.raises(ValueError, match=message):
        batch_from_atoms(atoms, 3.0)
    with pytest.raises(ValueError, match=message):
        molecule_batch_from_atoms(atoms, graph_rule("complete", 3.0), bond_kinds=False)
    with pytest.raises(ValueError, match="there are no structures"):
        batch_from_atoms([], 3.0)


def _with_nan(atoms):
    atoms.positions[0, 0] = np.nan
    return atoms


def test_properties_are_of_open_molecules():
    with pytest.raises(ValueError, match="open molecules, got a periodic structure"):
        molecule_batch_from_atoms([bulk("Cu")], graph_rule("bonds", 1.0), bond_kinds=False)


@pytest.mark.parametrize("suffix", ["xyz", "cif", "traj"])
def test_a_structure_that_the_file_does_not_have_is_named(tmp_path, suffix):
    path = tmp_path / f"one.{suffix}"
    ase.io.write(path, bulk("NaCl", "rocksalt", a=5.6))
    assert len(read_structures(path, 0)) == len(read_structures(path, -1)) == 2
    for index in (1, 999, -2):
        with pytest.raises(
            ValueError, match=rf"one\.{suffix} has no structure {index}; give another --index"
        ):
            read_structures(path, index)


@pytest.mark.parametrize("number", [0, 119, 2**62])
def test_a_number_that_no_element_has_is_refused(number):
    atoms = Atoms(numbers=[1, number], positions=np.eye(2, 3))
    with pytest.raises(ValueError, match=r"atomic numbers of the structure must be in 1 \.\. 118"):
        check_structures([atoms])
