"""Batches out of several sets, each structure drawn as often as the weight of its set says.

With the weight w of a set of n structures an epoch draws round(w n) of them: w = 1 each structure
once, w = 2 each twice, w = 0.5 every second one, and the others in the next epoch. The draws of a
set are one after the other of an endless row of shuffled passes over it,

    pass 0 | pass 1 | pass 2 | ...        epoch e takes places e m .. (e + 1) m - 1, m = round(w n)

so at any time the structures of a set were drawn equally often, but for one. The row and the order
in which the sets mix are functions of (seed, epoch): a run resumes exactly. Cost: that of some
permutations an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from farfield.dataloader.batch_plan import BatchPlan

OF_PASSES, OF_MIXING = 1, 2  # what a generator is for


class SetPlan(BatchPlan):
    """A plan for a data set with ``set_sizes`` (structures of each set, which lie one after the
    other) and ``set_weights``. Structures of one set stand together in a batch.
    """

    def __init__(self, dataset, *args, **options):
        self.sizes: Sequence[int] = dataset.set_sizes
        self.weights: Sequence[float] = dataset.set_weights
        super().__init__(dataset, *args, **options)

    def order(self, epoch: int) -> np.ndarray:
        """Structures of an epoch, one after the other (draws,)."""
        first = np.concatenate([[0], np.cumsum(self.sizes)])
        drawn = [
            first[number] + self._draws(number, epoch, size, weight)
            for number, (size, weight) in enumerate(zip(self.sizes, self.weights, strict=True))
        ]
        mixing = np.random.default_rng((self.seed, OF_MIXING, epoch))
        return mixing.permutation(np.concatenate(drawn))

    def _draws(self, number: int, epoch: int, size: int, weight: float) -> np.ndarray:
        """Structures of set ``number`` that an epoch draws, by their numbers in the set."""
        count = draws_of(size, weight)
        start, end = epoch * count, (epoch + 1) * count
        passes = range(start // size, -(-end // size))
        row = [
            np.random.default_rng((self.seed, OF_PASSES, number, turn)).permutation(size)
            for turn in passes
        ]
        skipped = start - passes.start * size
        return np.concatenate(row)[skipped : skipped + count]

    def __iter__(self):
        return (np.sort(batch).tolist() for batch in self._batches)


def draws_of(size: int, weight: float) -> int:
    """Structures that an epoch draws from a set of ``size``; at least one."""
    return max(1, round(weight * size))
