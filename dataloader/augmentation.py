"""Augmentation: training batches in which every structure is turned at random.

    rotations    R uniform over all rotations (of a quaternion of four normal numbers)
    orthogonal   R, with probability 1/2 times 1 - 2 n n^T, a reflection about a plane with uniform
                 normal n: uniform over rotations and reflections

The matrices are a pure function of (seed, epoch, number of the batch in its epoch), so a resumed
run turns its structures as an uninterrupted one, several ranks turn them as one process, and no
global generator is touched. What turns,
and how: models/turned_batches.py. Cost: linear in the batch; with ``copies`` a step costs
as many times more.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from farfield.dataloader.batch_shares import Share
from farfield.models.batch import AtomBatch
from farfield.models.choices import check_at_least, check_choices
from farfield.models.so3.rotations import householder_matrices, matrices_of_quaternions
from farfield.models.turned_batches import repeated_batch, turned_batch

FOR_AUGMENTATION = 0x7475726E  # first number of the seed of a draw; far from those of other draws


def random_rotations(count: int, generator: np.random.Generator) -> Tensor:
    """Uniform rotations (count, 3, 3) float64."""
    return matrices_of_quaternions(torch.from_numpy(generator.standard_normal((count, 4))))


def random_orthogonal(count: int, generator: np.random.Generator) -> Tensor:
    """Uniform orthogonal matrices (count, 3, 3) float64, half of them of determinant -1."""
    rotations = random_rotations(count, generator)
    mirrors = householder_matrices(torch.from_numpy(generator.standard_normal((count, 3))))
    mirrored = torch.from_numpy(generator.random(count) < 0.5).view(-1, 1, 1)
    return torch.where(mirrored, rotations @ mirrors, rotations)


NO_AUGMENTATION = "none"  # structures stay as they are

# name of a group -> (number of matrices, generator) -> matrices
GROUPS = {"rotations": random_rotations, "orthogonal": random_orthogonal}


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """``augmentation(batch, epoch, number)``: the batch as training reads it.

    Arguments
        group   name in ``GROUPS``
        copies  of each batch, in which each structure is turned by a matrix of its own
        seed    of the matrices

    number: of the batch in its epoch. share: of several ranks, what ``batch`` is of a whole batch.
    ``ValueError`` for what is no batch of structures, and for a label of which nobody says how it
    turns.
    """

    group: str
    copies: int = 1
    seed: int = 0

    def __post_init__(self):
        check_choices(self, {"group": GROUPS})
        check_at_least(self, 1, ["copies"])
        check_at_least(self, 0, ["seed"])

    def __call__(
        self, batch: AtomBatch, epoch: int, number: int, share: Share | None = None
    ) -> AtomBatch:
        if not isinstance(batch, AtomBatch):
            raise ValueError(
                f"only batches of structures (AtomBatch) can be turned, got {type(batch).__name__}"
            )
        whole = batch.num_graphs if share is None else share.whole
        generator = np.random.default_rng((FOR_AUGMENTATION, self.seed, epoch, number))
        matrices = GROUPS[self.group](self.copies * whole, generator)
        if share is not None:
            matrices = matrices.unflatten(0, (self.copies, whole))[:, share.places].flatten(0, 1)
        return turned_batch(repeated_batch(batch, self.copies), matrices)
