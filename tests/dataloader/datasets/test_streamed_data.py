"""Batches from an LMDB file are those of a folder, bit for bit."""

import dataclasses

import numpy as np
import pytest
import torch

from farfield.dataloader.batch_plan import BatchPlan, split_order
from farfield.dataloader.datasets.potential_sets import open_potential_data
from farfield.dataloader.prepared_folder import load_statistics, stored_cutoff
from farfield.dataloader.sampled_statistics import sample_of, sample_with_all_elements
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.structures import Structures
from farfield.train.data_order import EpochLoader
from tests.support.md_data import make_data, make_lmdb_data
from tests.support.molecule_data import random_crystals, random_structures


def tensors(batch) -> dict[str, torch.Tensor]:
    """All that a batch holds, by name."""
    found = {"src": batch.graph.src, "dst": batch.graph.dst, "nodes": batch.graph.nodes_per_graph}
    found |= {"positions": batch.positions, "atomic_numbers": batch.atomic_numbers}
    found |= {"cell": batch.cell, "shift": batch.image_shift, "periodic": batch.periodic}
    return found | batch.labels | {f"input {k}": v for k, v in batch.graph_features.items()}


def assert_same_batch(one, two):
    left, right = tensors(one), tensors(two)
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert (value is None) == (right[name] is None), name
        if value is not None:
            assert value.dtype == right[name].dtype and torch.equal(value, right[name]), name
    assert one.cutoff == two.cutoff


def mixed() -> Structures:
    """Crystals and open structures, in one set."""
    crystals = random_crystals(count=10)
    alone = dataclasses.replace(
        random_crystals(count=8, seed=1),
        periodic=np.zeros((8, 3), bool),
        stress=np.zeros((8, 3, 3)),
    )
    both = Structures.concatenate([crystals, alone])
    return dataclasses.replace(both, extra={"total_charge": np.arange(18.0) - 3})


SETS = {"open": lambda: random_structures((3, 5, 4, 2, 6, 3) * 4), "mixed": mixed}


@pytest.mark.parametrize("kind", SETS)
def test_batches_of_folder_and_file_are_equal(tmp_path, kind):
    structures, sizes = SETS[kind](), (10, 4, 4)
    folder = make_data(tmp_path / "folder", structures, cutoff=4.0, sizes=sizes)
    file = make_lmdb_data(tmp_path / "x.lmdb", structures, cutoff=4.0, sizes=sizes)
    assert load_statistics(folder) == load_statistics(file)
    assert stored_cutoff(folder) == stored_cutoff(file) == 4.0

    inputs = ["total_charge"] if kind == "mixed" else []
    for split in SPLITS:
        options = {"references": dict.fromkeys(range(1, 20), -1.5), "inputs": inputs}
        one, two = (open_potential_data(path, split, **options) for path in (folder, file))
        assert one.data_hash == two.data_hash and one.elements == two.elements
        assert one.edges_per_structure.tolist() == two.edges_per_structure.tolist()
        assert one.summary() == two.summary()
        assert [one.has(name) for name in ("forces", "stress", "cell", "dipole")] == [
            two.has(name) for name in ("forces", "stress", "cell", "dipole")
        ]
        assert set(one.largest_of_each_kind()) <= set(range(len(one)))

        # every structure alone, and any of them together
        for chosen in (*([number] for number in range(4)), [3, 0, 0, 2], range(len(one))):
            assert_same_batch(one[list(chosen)], two[list(chosen)])


def test_worker_processes_read_the_same_file(tmp_path):
    file = make_lmdb_data(
        tmp_path / "x.lmdb", random_structures((3, 5, 4, 2) * 4), sizes=(10, 3, 3)
    )
    dataset = open_potential_data(file, "train")
    plan = BatchPlan(dataset, batch_size=3)
    alone = list(EpochLoader(dataset, plan).epoch(1, first=1))
    shared = list(EpochLoader(dataset, plan, workers=2).epoch(1, first=1))
    assert len(alone) == len(shared) == 3
    for one, two in zip(alone, shared, strict=True):
        assert_same_batch(one, two)


def test_another_cutoff_and_another_structure_are_refused(tmp_path):
    file = make_lmdb_data(tmp_path / "x.lmdb", random_structures((3, 5, 4, 2)), sizes=(2, 1, 1))
    with pytest.raises(ValueError, match=r"made for the cutoff 5\.0 .*--cutoff 6"):
        open_potential_data(file, "train", cutoff=6.0)
    with pytest.raises(IndexError, match=r"structures are 0 \.\. 1"):
        open_potential_data(file, "train")[[2]]


def test_a_sample_has_every_element_and_is_the_same_twice():
    assert sample_of(5).tolist() == [0, 1, 2, 3, 4]
    drawn = sample_of(1000, size=10)
    assert len(set(drawn.tolist())) == 10 and drawn.tolist() == sorted(drawn.tolist())
    assert drawn.tolist() == sample_of(1000, size=10).tolist()
    assert drawn.tolist() != sample_of(1000, size=10, seed=1).tolist()


def test_rare_elements_come_into_the_sample(monkeypatch):
    from farfield.dataloader import sampled_statistics

    monkeypatch.setattr(sampled_statistics.sample_of, "__defaults__", (6, 0))
    structures = random_structures((3,) * 40)
    structures.atomic_numbers[3 * 17] = 79
    chosen = sample_with_all_elements(structures)
    assert 17 in chosen and len(chosen) in (6, 7)
    assert 79 in structures[chosen].elements


def test_batches_are_cut_as_one_after_the_other():
    """The ends of all batches at once are those of a loop that fills one batch after another."""
    rng = np.random.default_rng(3)
    atoms, edges = rng.integers(1, 9, 60), rng.integers(0, 40, 60)
    order = rng.permutation(60)
    found = split_order(order, [("atoms", atoms, 15), ("edges", edges, 60)])

    expected, batch = [], []
    for one in order.tolist():
        if batch and (atoms[[*batch, one]].sum() > 15 or edges[[*batch, one]].sum() > 60):
            expected.append(batch)
            batch = []
        batch.append(one)
    assert [part.tolist() for part in found] == [*expected, batch]
