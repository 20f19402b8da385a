"""Noise of molecules that depends on nothing but a seed and their numbers.

Every molecule of a run has a stream of its own for each use: the stream of (seed, number, use). So
it gets the same noise in any batch, and in a run that was interrupted and goes on. Cost: 20
microseconds a molecule and draw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from farfield.dataloader.structures import Structures

# last number of a seed: what the noise is for
FOR_SAMPLING, FOR_DISPLACEMENTS = 0, 1


class MoleculeNoise:
    """``noise()``: standard normal values (atoms, 3) float64, other ones at every call.

    counts: atoms of each molecule. numbers: of each molecule among all that the seed is for.
    """

    def __init__(self, counts: Sequence[int], numbers: Sequence[int], seed: int):
        self.counts = [int(count) for count in counts]
        self._generators = [
            np.random.default_rng((seed, int(number), FOR_SAMPLING)) for number in numbers
        ]

    def __call__(self) -> Tensor:
        pairs = zip(self._generators, self.counts, strict=True)
        drawn = [generator.standard_normal((count, 3)) for generator, count in pairs]
        return torch.from_numpy(np.concatenate(drawn))


def displaced(structures: Structures, spread: float, seed: int) -> Structures:
    """The structures with normal noise of standard deviation ``spread`` (Angstrom) on every
    coordinate.
    """
    drawn = [
        np.random.default_rng((seed, number, FOR_DISPLACEMENTS)).standard_normal((int(count), 3))
        for number, count in enumerate(structures.counts)
    ]
    positions = structures.positions + spread * np.concatenate(drawn)
    return dataclasses.replace(structures, positions=positions, check=False)
