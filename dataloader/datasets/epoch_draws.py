"""Draws that a data set makes anew in every epoch, each a pure function of what it is for:

    training      (seed of the run, epoch, structure)
    evaluation    (split, structure), whatever the run

So a resumed run sees the draws of an uninterrupted one, and a structure gets the same draws in any
batch, in any order and from any number of loader processes. Cost: a generator for each structure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from farfield.dataloader.batch_plan import BatchPlan
from farfield.dataloader.split_protocols import SPLITS

# first number of the seed of a draw: what the draw is for
FOR_EVALUATION, FOR_TRAINING = 0, 1


class EpochIndices(NamedTuple):
    """Structures of a training batch, and the epoch whose draws they get."""

    epoch: int
    indices: list[int]


Chosen = EpochIndices | int | Sequence[int] | np.ndarray  # what such a data set is indexed with


class EpochPlan(BatchPlan):
    """A plan of training batches that says with each batch which epoch it belongs to."""

    def __iter__(self) -> Iterator[EpochIndices]:
        return (EpochIndices(self.epoch, batch) for batch in super().__iter__())


def epoch_and_indices(chosen: Chosen) -> tuple[int | None, int | Sequence[int] | np.ndarray]:
    """Epoch and structures of a batch; the epoch is None for an evaluation."""
    return chosen if isinstance(chosen, EpochIndices) else (None, chosen)


@dataclasses.dataclass(frozen=True)
class Draws:
    """Random generators of the structures of one split.

    split: "train", "val" or "test", which have draws of their own. seed: of the training draws.
    """

    split: str
    seed: int = 0

    def generator(self, epoch: int | None, structure: int) -> np.random.Generator:
        """A fresh generator for a structure; epoch: None for an evaluation."""
        if epoch is None:
            use = (FOR_EVALUATION, SPLITS.index(self.split), structure)
        else:
            use = (FOR_TRAINING, self.seed, epoch, structure)
        return np.random.default_rng(use)
