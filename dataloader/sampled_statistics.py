"""Statistics of a large training set from a sample of it: which structures, and what they say.

A sample has SAMPLE structures drawn without replacement with SEED, in the order of the set, or all
structures of a smaller set, and a few of each element that the draw has missed. Cost: that of
``Statistics.of`` for the sample, some seconds.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from farfield.dataloader.label_statistics import Statistics
from farfield.dataloader.structures import Structures

SAMPLE = 20_000  # structures
SEED = 0
OF_RARE_ELEMENT = 20  # structures, of each element that the draw has missed


def sample_of(count: int, size: int = SAMPLE, seed: int = SEED) -> np.ndarray:
    """Numbers of the structures of a sample (sample,) in ascending order."""
    if count <= size:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, size, replace=False))


def sample_with_all_elements(structures: Structures) -> np.ndarray:
    """The same for a set in memory, with some structures of each element that was missed."""
    chosen = sample_of(len(structures))
    if len(chosen) == len(structures):
        return chosen
    missed = np.setdiff1d(structures.elements, structures[chosen].elements)
    for element in missed:
        atoms = structures.atomic_numbers == element
        holders = np.unique(structures.structure_of_atom[atoms])
        chosen = np.union1d(chosen, holders[:OF_RARE_ELEMENT])
    return chosen


def sampled_statistics(
    sample: Structures,
    edges: int,
    counts: np.ndarray,
    references: dict[int, float] | None = None,
) -> Statistics:
    """Statistics of a training set of structures of ``counts`` atoms (structures,).

    sample: some of its structures. edges: directed edges of the sample. references: Z -> eV (None:
    fitted to the sample). Number and sizes of the structures are those of the whole set.
    """
    return dataclasses.replace(
        Statistics.of(sample, edges, references),
        structures=len(counts),
        average_atoms=float(counts.mean()),
        typical_atoms=int(np.median(counts)),
        largest_atoms=int(counts.max()),
    )
