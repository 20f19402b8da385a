"""Batches of the loaders: limits, places in an epoch, whole batches of each rank."""

from types import SimpleNamespace

import numpy as np
import pytest

from farfield.dataloader.batch_plan import BatchPlan
from farfield.train.data_order import EpochLoader, ordered_batches, shuffled_batches


class Sized:
    """Structures of some sizes; a batch of them is the list of its indices."""

    def __init__(self, *atoms: int):
        self.atoms_per_structure = np.array(atoms)
        self.edges_per_structure = 2 * self.atoms_per_structure

    def __len__(self) -> int:
        return len(self.atoms_per_structure)

    def __getitem__(self, indices) -> list[int]:
        return list(indices)


@pytest.mark.parametrize(
    "limit, batches",
    [
        (6, [[0, 1], [2], [3, 4]]),
        (5, [[0, 1], [2], [3, 4]]),
        (1, [[0, 1], [2], [3, 4]]),  # the largest structure has 5 atoms: a batch may have as many
        (9, [[0, 1], [2, 3], [4]]),
        (10, [[0, 1, 2], [3, 4]]),
        (14, [[0, 1, 2, 3], [4]]),
        (15, [[0, 1, 2, 3, 4]]),
    ],
)
def test_ordered_batches_hold_as_many_atoms_as_they_may(limit, batches):
    loader = ordered_batches(Sized(3, 2, 5, 4, 1), limit)
    assert list(loader) == batches and len(loader) == len(batches)
    assert loader.whole_batch() == len(batches[0])


def test_shuffled_batches_obey_every_limit_and_begin_anywhere():
    sizes = Sized(*range(1, 13))
    data = SimpleNamespace(max_atoms_per_batch=20, max_edges_per_batch=30)
    run = SimpleNamespace(seed=5, workers=0)
    training = SimpleNamespace(batch_size=3)
    loader = shuffled_batches(sizes, SimpleNamespace(data=data, run=run, training=training))
    orders = []
    for epoch in range(2):
        whole = list(loader.epoch(epoch))
        assert list(loader.epoch(epoch, first=2)) == whole[2:]
        orders.append([index for batch in whole for index in batch])
        assert sorted(orders[-1]) == list(range(12))
        for batch in whole:
            assert len(batch) <= 3 and sizes.atoms_per_structure[batch].sum() <= 15
    assert orders[0] != orders[1]


def test_every_few_batches_are_whole_batches():
    loader = ordered_batches(Sized(1, 1, 1, 1, 1), 1)
    assert list(loader.every(1, 2)) == [[1], [3]]
    assert list(loader.every(0, 2)) == [[0], [2], [4]]
    doubled = loader.transformed(lambda batch, epoch, number: [*batch, epoch, number])
    assert list(doubled.epoch(4, first=3)) == [[3, 4, 3], [4, 4, 4]]


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "give batch_size, max_atoms or max_edges"),
        ({"batch_size": 0}, "the most structures in a batch must be >= 1, got 0"),
        ({"max_atoms": 4}, "structure 1 has 5 atoms, a batch may have 4; give at least 5"),
        ({"max_edges": 9}, "structure 1 has 10 edges, a batch may have 9; give at least 10"),
        ({"batch_size": 1, "seed": -1}, "seed must be >= 0, got -1"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        BatchPlan(Sized(2, 5, 1), **options)
    kept = EpochLoader(
        Sized(2, 5), BatchPlan(Sized(2, 5), max_atoms=5, max_edges=10, shuffle=False)
    )
    assert list(kept) == [[0], [1]]
    assert len(BatchPlan(Sized(2, 5), batch_size=1, seed=0)) == 2
