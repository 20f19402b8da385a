"""PropertyDataset: batches are the molecules, their labels and the basis a network would compute;
other folders are refused.
"""

import numpy as np
import pytest
import torch

from farfield.common.log import progress_bar
from farfield.dataloader.batch_plan import BatchPlan
from farfield.dataloader.chemistry.bonds import BondTable
from farfield.dataloader.chemistry.molecule_graphs import graph_rule
from farfield.dataloader.datasets.property_data import (
    PropertyDataset,
    PropertyFolder,
    open_bond_kinds,
)
from farfield.dataloader.storage import basis_cache
from farfield.dataloader.storage.basis_rows import CacheSettings
from farfield.dataloader.structures import Structures
from farfield.models.edges import edge_vectors
from farfield.models.heads.target_scaling import fit_scaling, references
from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.preprocess.basis_shards import make_basis

SIZES = (4, 2, 1, 6, 3, 5)
BONDS = [
    (0, 0, 1, 1),
    (0, 1, 3, 2),
    (1, 0, 1, 3),
    (3, 2, 5, 4),
    (3, 0, 2, 1),
    (4, 1, 2, 1),
    (5, 3, 4, 2),
]  # structure, a, b, kind


def make_molecules(seed=0) -> Structures:
    rng = np.random.default_rng(seed)
    atoms, count = sum(SIZES), len(SIZES)
    extra = {
        "homo": rng.standard_normal(count),
        "U0": -1e4 + rng.standard_normal(count),
        "dipole": rng.standard_normal((count, 3)),
    }
    extra["gdb_id"] = np.arange(count)
    return Structures(
        rng.choice([1, 6, 8], atoms),
        40 + 2 * rng.standard_normal((atoms, 3)),
        np.array(SIZES),
        extra=extra,
    )


def make_bonds() -> BondTable:
    structure, a, b, kinds = np.array(BONDS).T
    return BondTable.sorted(structure, np.stack([b, a], 1), kinds, len(SIZES))


def make_dataset(folder, kind="bonds", **options) -> PropertyDataset:
    structures, settings = make_molecules(), CacheSettings(3, graph_rule(kind, 3.0))
    cache = make_basis(
        folder,
        structures,
        make_bonds(),
        settings,
        True,
        1,
        lambda total, what: progress_bar(total, disable=True),
    )
    kinds = open_bond_kinds(
        folder / "bond_kinds", structures.data_hash, settings.graph_rule, cache.num_edges
    )
    chosen = np.array([5, 0, 3, 2, 1])
    return PropertyDataset(structures[chosen], cache, chosen, kinds, **options)


@pytest.mark.parametrize("kind", ["bonds", "cutoff", "complete"])
def test_batches_are_the_molecules(tmp_path, kind):
    dataset = make_dataset(tmp_path, kind)
    table = {(0, 0, 1): 1} | {(s, a, b): k for s, a, b, k in BONDS}
    ids = [2, 0, 4, 2]
    batch, first = dataset[ids], 0
    for index in ids:
        one = dataset.structures[index]
        mine = (batch.graph.dst >= first) & (batch.graph.dst < first + len(one.positions))
        points = batch.positions[first : first + len(one.positions)].double().numpy()
        np.testing.assert_allclose(points, one.positions - one.positions.mean(0), atol=1e-6)
        source = int(dataset.graph_ids[index])
        ends = torch.stack([batch.graph.dst[mine], batch.graph.src[mine]], 1).numpy() - first
        distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
        size = len(points)
        near = {"cutoff": distance < 3.0, "complete": np.ones((size, size), bool)}
        near["bonds"] = np.array(
            [[(source, min(i, j), max(i, j)) in table for j in range(size)] for i in range(size)]
        )
        assert ends.tolist() == np.argwhere(near[kind] & ~np.eye(size, dtype=bool)).tolist()
        expected = [table.get((source, min(i, j), max(i, j)), 0) for i, j in ends.tolist()]
        assert batch.edge_features["bond_kinds"][mine].tolist() == expected
        assert dataset.edges_per_structure[index] == len(ends)
        assert dataset.atoms_per_structure[index] == size
        first += size
    computed = EdgeBasis.from_vectors(edge_vectors(batch.positions, batch.graph).double(), 3)
    torch.testing.assert_close(
        batch.edge_basis.rotation().double(), computed.rotation(), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(batch.edge_basis.length.double(), computed.length, rtol=1e-6, atol=0)


def test_labels_are_values_or_normalised_values(tmp_path):
    dataset = make_dataset(tmp_path)
    assert set(dataset.targets) == {"homo", "U0", "dipole"}
    structures, ids = dataset.structures, [3, 1]
    batch = dataset[ids]
    for name in dataset.targets:
        assert batch.labels[name].dtype == torch.float64
        np.testing.assert_array_equal(batch.labels[name].numpy(), structures.extra[name][ids])
    readouts = {"homo": "mean", "U0": "sum", "dipole": "dipole"}
    scaling = fit_scaling(
        structures.atomic_numbers,
        structures.counts,
        {name: structures.extra[name] for name in readouts},
        readouts,
    )
    dataset.set_scaling(scaling)
    for name in readouts:
        expected = structures.extra[name] - references(
            structures.atomic_numbers, structures.counts, scaling, name
        )
        np.testing.assert_allclose(
            dataset[ids].labels[name].numpy(), expected[ids] / scaling[name]["scale"], rtol=1e-12
        )
    dataset.set_scaling(None)
    assert torch.equal(dataset[ids].labels["U0"], batch.labels["U0"])


def test_basis_is_left_out_where_it_is_not_wanted_or_too_coarse(tmp_path):
    assert make_dataset(tmp_path, basis=False)[[0]].edge_basis is None
    exact = make_dataset(tmp_path, dtype=torch.float64)[[0]]
    assert exact.edge_basis is None
    assert exact.positions.dtype == torch.float64


def test_batch_plans_limit_the_edges(tmp_path):
    dataset = make_dataset(tmp_path, "complete")
    batches = [dataset[ids] for ids in BatchPlan(dataset, max_edges=34)]
    assert sum(batch.num_graphs for batch in batches) == 5
    assert all(batch.num_edges <= 34 for batch in batches)
    assert len(batches) > 1


@pytest.mark.parametrize("kind", ["bonds", "complete"])
def test_longest_edge_is_that_of_its_own_molecules(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(basis_cache, "GRAPHS_PER_STEP", 2)
    dataset = make_dataset(tmp_path, kind)
    batch = dataset[range(len(dataset))]
    lengths = (batch.positions[batch.graph.dst] - batch.positions[batch.graph.src]).norm(dim=1)
    assert dataset.longest_edge == pytest.approx(float(lengths.max()), rel=1e-6)
    alone = PropertyDataset(
        dataset.structures[[4]], dataset.cache, dataset.graph_ids[[4]], targets=("homo",)
    )
    assert alone.longest_edge == pytest.approx(float(alone[[0]].edge_basis.length.max()), rel=1e-6)
    assert alone.longest_edge < dataset.longest_edge


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no property 'hom'; did you mean 'homo'"):
        make_dataset(tmp_path, targets=("hom",))
    dataset = make_dataset(tmp_path)
    with pytest.raises(IndexError, match=r"structures are 0 \.\. 4, got 5 \.\. 5"):
        dataset[[5]]
    structures = dataset.structures
    structures.extra["homo"] = structures.extra["homo"].copy()
    structures.extra["homo"][2] = np.nan
    with pytest.raises(ValueError, match="homo of 1 molecules is not finite, first of molecule 2"):
        PropertyDataset(structures, dataset.cache, dataset.graph_ids, targets=("homo",))
    with pytest.raises(ValueError, match="do not belong to the 5 molecules"):
        PropertyDataset(structures, dataset.cache, dataset.graph_ids[::-1])
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'all'"):
        PropertyFolder(structures, None, dataset.cache, None).dataset("all")
    with pytest.raises(
        FileNotFoundError, match="manifest.json does not exist; make the folder with"
    ):
        PropertyDataset.open(tmp_path, "train")
