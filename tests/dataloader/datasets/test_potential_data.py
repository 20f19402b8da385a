"""Batches hold the labels of their structures, and plans cut every epoch into batches that keep
their limits.
"""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.dataloader.batch_plan import BatchPlan, split_order
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.graphs import NeighborStore
from farfield.dataloader.reference_energies import fit_references, reference_energy
from farfield.dataloader.sources.md17 import read_sample
from farfield.train.data_order import EpochLoader
from tests.support.molecule_data import random_crystals, random_structures

SIZES = (3, 5, 1, 4, 2, 7)


@pytest.fixture(scope="module")
def dataset():
    return MoleculeDataset(random_structures(SIZES), 4.0)


def test_batch_holds_the_structures_and_their_labels(dataset):
    ids = [5, 0, 0, 3]
    batch, expected = dataset[ids], dataset.structures[ids]
    assert batch.graph.nodes_per_graph.tolist() == expected.counts.tolist()
    assert batch.atomic_numbers.tolist() == expected.atomic_numbers.tolist()
    assert batch.cell is None
    assert batch.image_shift is None
    assert batch.labels["energy"].dtype == torch.float64
    assert batch.labels["energy"].tolist() == expected.energy.tolist()
    assert batch.labels["forces"].dtype == batch.positions.dtype == torch.float32
    assert "residual_energy" not in batch.labels
    np.testing.assert_array_equal(
        batch.labels["forces"].numpy(), expected.forces.astype(np.float32)
    )
    assert len(dataset[2].labels["energy"]) == 1
    assert batch.cutoff == batch.to(dtype=torch.float64).cutoff == 4.0


def test_open_structures_are_centred_before_they_are_rounded():
    far = random_structures(SIZES)
    near = MoleculeDataset(random_structures(SIZES), 4.0)[range(6)]
    far.positions = far.positions + 1e5  # float32 resolves 0.008 Angstrom there
    batch = MoleculeDataset(far, 4.0)[range(6)]
    assert torch.equal(batch.graph.src, near.graph.src)
    assert float((batch.positions - near.positions).abs().max()) < 1e-6
    sums = torch.zeros(6, 3).index_add_(0, near.graph.graph_of_node, near.positions)
    assert float(sums.abs().max()) < 1e-5


def test_periodic_batch_carries_cells_shifts_and_stress():
    crystals = random_crystals().wrapped()
    batch = MoleculeDataset(crystals, 3.0, dtype=torch.float64)[[2, 0]]
    assert batch.cell.shape == (2, 3, 3)
    assert batch.labels["stress"].shape == (2, 3, 3)
    assert batch.image_shift.dtype == torch.int32
    torch.testing.assert_close(
        batch.positions, torch.from_numpy(crystals[[2, 0]].positions), rtol=0, atol=1e-12
    )
    assert batch.cell.dtype == torch.float64
    assert batch.periodic.all()
    assert torch.equal(batch.cell[0], torch.from_numpy(crystals.cell[2]))


def test_residual_energies_survive_float32():
    structures = random_structures(SIZES)
    structures.energy = structures.energy - 17000.0 * structures.counts
    references = fit_references(structures)
    batch = MoleculeDataset(structures, 4.0, references)[range(6)].to(dtype=torch.float32)
    expected = structures.energy - reference_energy(structures, references)
    assert np.abs(batch.labels["residual_energy"].numpy() - expected).max() < 1e-6
    assert (
        np.abs(batch.labels["energy"].numpy().astype(np.float64) - structures.energy).max() > 1e-4
    )


def test_graphs_of_other_structures_are_refused(dataset):
    with pytest.raises(
        ValueError, match=r"the neighbour graphs \(6\) do not belong to the 3 structures"
    ):
        MoleculeDataset(dataset.structures[:3], dataset.neighbors)


def test_dataset_pickles(dataset):
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[[1, 4]].positions, dataset[[1, 4]].positions)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    limit=st.integers(9, 25),
    seed=st.integers(0, 99),
)
def test_batches_are_the_order_and_as_full_as_may_be(sizes, limit, seed):
    sizes = np.array(sizes)
    order = np.random.default_rng(seed).permutation(len(sizes))
    batches = split_order(
        order, [("atoms", sizes, limit), ("structures", np.ones(len(sizes), int), 4)]
    )
    assert np.concatenate(batches).tolist() == order.tolist()
    for batch, after in zip(batches, [*batches[1:], None], strict=True):
        assert 1 <= len(batch) <= 4
        assert sizes[batch].sum() <= limit
        assert after is None or len(batch) == 4 or sizes[batch].sum() + sizes[after[0]] > limit


@pytest.mark.parametrize(
    "limits",
    [{"batch_size": 2}, {"max_atoms": 8}, {"max_edges": 50}, {"batch_size": 3, "max_atoms": 9}],
)
def test_plan_is_a_function_of_seed_and_epoch(dataset, limits):
    plan, same = BatchPlan(dataset, **limits, seed=3), BatchPlan(dataset, **limits, seed=3)
    epochs = []
    for epoch in range(4):
        plan.set_epoch(epoch)
        epochs.append(list(plan))
        assert sorted(sum(epochs[-1], [])) == list(range(6))
        assert len(plan) == len(epochs[-1])
        for batch in epochs[-1]:
            graph = dataset[batch].graph
            found = {
                "batch_size": graph.num_graphs,
                "max_atoms": graph.num_nodes,
                "max_edges": graph.num_edges,
            }
            assert all(found[name] <= limit for name, limit in limits.items())
    same.set_epoch(2)
    assert list(same) == epochs[2]
    assert epochs[0] != epochs[1]
    assert list(BatchPlan(dataset, batch_size=4, shuffle=False)) == [[0, 1, 2, 3], [4, 5]]


def test_plan_refuses_what_cannot_be(dataset):
    with pytest.raises(
        ValueError, match="structure 5 has 7 atoms, a batch may have 6; give at least 7"
    ):
        BatchPlan(dataset, max_atoms=6)
    with pytest.raises(ValueError, match=r"structure \d has \d+ edges, a batch may have 1"):
        BatchPlan(dataset, max_edges=1)
    with pytest.raises(ValueError, match="give batch_size, max_atoms or max_edges"):
        BatchPlan(dataset)
    with pytest.raises(ValueError, match="most structures in a batch must be >= 1, got 0"):
        BatchPlan(dataset, batch_size=0)
    with pytest.raises(ValueError, match="seed must be >= 0, got -1"):
        BatchPlan(dataset, batch_size=1, seed=-1)


def test_epoch_loader_starts_inside_an_epoch(dataset):
    plan = BatchPlan(dataset, max_atoms=9, seed=1)
    loader = EpochLoader(dataset, plan, seed=1)
    whole, rest = list(loader.epoch(5)), list(loader.epoch(5, first=1))
    assert len(rest) == len(whole) - 1
    for one, other in zip(whole[1:], rest, strict=True):
        assert torch.equal(one.positions, other.positions)
        assert torch.equal(one.labels["energy"], other.labels["energy"])


def test_sample_is_dynamics_of_one_molecule():
    """Ethanol in its order of atoms, every frame another, net force nil, bonds as long as bonds
    are.
    """
    sample = read_sample()
    assert len(sample) == 1000
    assert sample.atomic_numbers[:9].tolist() == [6, 6, 8, 1, 1, 1, 1, 1, 1]
    assert sample.theory.startswith("PBE")
    assert len(np.unique(sample.energy)) == 1000
    assert -4216 < sample.energy.min() <= sample.energy.max() < -4213
    forces = sample.forces.reshape(-1, 9, 3)
    assert np.abs(forces.sum(1)).max() < 0.02
    assert 1.0 < np.sqrt((forces**2).mean()) < 1.3
    bonds = np.linalg.norm(
        sample.positions.reshape(-1, 9, 3)[:, 0] - sample.positions.reshape(-1, 9, 3)[:, 1], axis=1
    )
    assert 1.3 < bonds.min() < bonds.max() < 1.75  # C-C
    assert NeighborStore.compute(sample[:2], 5.0).num_edges == 144
