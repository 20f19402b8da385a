"""The part of every batch that one of several ranks computes.

A batch stays what it is: its structures are dealt to the ranks, the largest cost first, each to the
rank with the least so far. No structure is lost or repeated, whatever the number of ranks, and the
shares are a pure function of the batch. Cost of a structure: its directed edges and atoms, as far
as the data set knows them. A rank may get nothing of a small batch.

The largest share exceeds the mean by at most the cost of one structure. Time: n log n a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from farfield.dataloader.datasets.epoch_draws import EpochIndices


class Share(NamedTuple):
    """What a rank takes of a batch.

    Arguments
        chosen  what the data set is indexed with
        places  of these structures in the whole batch, ascending
        whole   number of structures of the whole batch
    """

    chosen: Any
    places: np.ndarray
    whole: int


def balanced_places(costs: np.ndarray, parts: int) -> list[np.ndarray]:
    """Places 0 .. len(costs) - 1, dealt to ``parts`` lists of nearly equal cost."""
    sums, dealt = np.zeros(parts), [[] for _ in range(parts)]
    for place in np.argsort(-costs, kind="stable"):
        part = int(np.argmin(sums))
        sums[part] += costs[place]
        dealt[part].append(int(place))
    return [np.array(sorted(places), dtype=np.int64) for places in dealt]


def costs_of_structures(dataset) -> np.ndarray:
    """Cost (structures,) of each structure of a data set; ones where nothing is known."""
    costs = np.zeros(len(dataset))
    for name in ("edges_per_structure", "atoms_per_structure"):
        costs = costs + getattr(dataset, name, 0)
    return costs if costs.any() else np.ones(len(dataset))


class SharedPlan:
    """The batches of ``plan`` as :class:`Share` of one rank; its ``len`` and epochs are the plan's.

    Arguments
        plan         sampler of whole batches, see `BatchPlan`
        dataset      sizes of the structures
        rank, ranks  which share, of how many
    """

    def __init__(self, plan, dataset, rank: int, ranks: int):
        self.plan, self.rank, self.ranks = plan, rank, ranks
        self.costs = costs_of_structures(dataset)

    def set_epoch(self, epoch: int):
        """Choose the epoch whose batches the next iteration gives."""
        self.plan.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Share]:
        return (self._share(chosen) for chosen in self.plan)

    def _share(self, chosen) -> Share:
        has_epoch = isinstance(chosen, EpochIndices)
        whole = np.asarray(chosen.indices if has_epoch else chosen)
        places = balanced_places(self.costs[whole], self.ranks)[self.rank]
        own = whole[places].tolist()
        return Share(EpochIndices(chosen.epoch, own) if has_epoch else own, places, len(whole))


class EveryFew:
    """Batches ``first``, ``first + step``, ... of ``plan``, whole."""

    def __init__(self, plan, first: int, step: int):
        self.plan, self.first, self.step = plan, first, step

    def set_epoch(self, epoch: int):
        """Choose the epoch whose batches the next iteration gives."""
        self.plan.set_epoch(epoch)

    def __len__(self) -> int:
        return len(range(self.first, len(self.plan), self.step))

    def __iter__(self) -> Iterator:
        return (one for place, one in enumerate(self.plan) if place % self.step == self.first)
