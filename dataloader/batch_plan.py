"""Plans that cut an epoch into batches of structures, atoms or edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np


class SizedStructures(Protocol):
    """What a plan reads of a data set: how many structures, and the size of each."""

    def __len__(self) -> int: ...

    @property
    def atoms_per_structure(self) -> np.ndarray:
        """(structures,)"""

    @property
    def edges_per_structure(self) -> np.ndarray:
        """Directed edges (structures,)."""


def split_order(
    order: np.ndarray, limits: Sequence[tuple[str, np.ndarray, int]]
) -> list[np.ndarray]:
    """Cut ``order`` (structures,) into successive batches in which no sum exceeds its limit.

    limits: (name, size of every structure of the data set, largest sum in a batch). ``ValueError``
    for a structure that alone exceeds a limit.
    """
    for name, sizes, limit in limits:
        largest = int(order[np.argmax(sizes[order])]) if len(order) else -1
        if len(order) and sizes[largest] > limit:
            raise ValueError(
                f"structure {largest} has {sizes[largest]} {name}, a batch may have {limit}; "
                f"give at least {sizes[largest]}"
            )

    # end of a batch that begins at a place, for every place at once: (structures,)
    ends = np.full(len(order), len(order))
    for _, sizes, limit in limits:
        total = np.concatenate([[0], np.cumsum(sizes[order])])
        found = np.searchsorted(total, total[:-1] + limit, side="right") - 1
        ends = np.minimum(ends, found)

    batches, first, places = [], 0, ends.tolist()
    while first < len(order):
        batches.append(order[first : places[first]])
        first = places[first]
    return batches


class BatchPlan:
    """Batches of indices whose order is a pure function of (seed, epoch).

    It is the sampler of `train.data_order.EpochLoader`.

    Arguments
        dataset     sizes of the structures, e.g. a `dataloader.datasets.potential_data` set
        batch_size  most structures in a batch (None: no limit, then give another)
        max_atoms   most atoms in a batch (None: no limit)
        max_edges   most directed edges in a batch (None: no limit)
        seed        of the order
        shuffle     a new order in each epoch; else the order of the data

    With atom or edge limits and structures of many sizes the number of batches depends on the
    epoch; ``len`` counts the batches of the epoch that is set.
    """

    def __init__(
        self,
        dataset: SizedStructures,
        batch_size: int | None = None,
        max_atoms: int | None = None,
        max_edges: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
    ):
        # sizes are asked for where they are limited: edges may not be known before a batch is made
        self.limits: list[tuple[str, np.ndarray, int]] = []
        if batch_size is not None:
            self.limits.append(("structures", np.ones(len(dataset), np.int64), batch_size))
        if max_atoms is not None:
            self.limits.append(("atoms", dataset.atoms_per_structure, max_atoms))
        if max_edges is not None:
            self.limits.append(("edges", dataset.edges_per_structure, max_edges))

        if not self.limits:
            raise ValueError("a batch needs a limit: give batch_size, max_atoms or max_edges")
        for name, _, limit in self.limits:
            if limit < 1:
                raise ValueError(f"the most {name} in a batch must be >= 1, got {limit}")
        if seed < 0:
            raise ValueError(f"seed must be >= 0, got {seed}")

        self.count, self.seed, self.shuffle = len(dataset), seed, shuffle
        self.epoch: int | None = None
        self.set_epoch(0)

    def set_epoch(self, epoch: int):
        """Choose the epoch whose batches the next iteration gives."""
        if epoch == self.epoch:  # a second of work for 10^6 structures
            return
        self.epoch = epoch
        self._batches = split_order(self.order(epoch), self.limits)

    def order(self, epoch: int) -> np.ndarray:
        """Structures of an epoch, one after the other (structures,)."""
        if not self.shuffle:
            return np.arange(self.count)
        return np.random.default_rng((self.seed, epoch)).permutation(self.count)

    def __len__(self) -> int:
        """Number of batches of the set epoch."""
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self._batches)
