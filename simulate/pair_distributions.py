"""Distributions of distances in a trajectory.

    h(r) = density of all interatomic distances r_ij, i < j, up to r_max, over the frames;
           its integral over (0, r_max] is 1
    g_ab(r) = V / (N_a N_b) dn_ab / (4 pi r^2 dr)        of a periodic structure

with dn_ab the pairs of an a and a b atom at r .. r + dr, and N_a (N_a - 1) in the place of N_a N_b
where both are one element, so that independent atoms give 1. All images within r_max count; h(r)
of a periodic structure counts them too. The error of h(r) against reference frames is

    MAE = integral over (0, r_max] of | h - h_ref | dr,

between 0 and 2. Source: Fu et al. 2022, "Forces are not enough" (arXiv:2210.07237). Cost: linear in
frames; in pairs for open structures, in pairs within r_max for periodic ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from farfield.dataloader.graphs import find_neighbors
from farfield.simulate.rollout_frames import Frames

PAIRS_PER_STEP = 1 << 20  # distances that are held at a time
Progress = Callable[[int], object]  # called with a number of frames


def _silent(count: int) -> None:
    """No progress."""


def middles(largest: float, bins: int) -> np.ndarray:
    """Middle of every bin (bins,) of 0 .. ``largest``."""
    return (np.arange(bins) + 0.5) * largest / bins


def distance_density(
    frames: Frames, largest: float, bins: int, progress: Progress = _silent
) -> np.ndarray:
    """h(r) in every bin (bins,), 1/Angstrom; 0 where no pair is within ``largest`` Angstrom."""
    counts = np.zeros(bins)
    for distance in _distances(frames, largest, progress):
        counts += np.histogram(distance, bins, (0.0, largest))[0]
    total = counts.sum() * largest / bins
    return counts / total if total else counts


def density_error(density: np.ndarray, reference: np.ndarray, largest: float) -> float:
    """Integral of the absolute difference of two densities on the same bins."""
    return float(np.abs(density - reference).sum() * largest / len(density))


def _distances(frames: Frames, largest: float, progress: Progress) -> Iterator[np.ndarray]:
    """Distances of the pairs of some frames at a time."""
    if frames.cells is not None:
        for index in range(len(frames)):
            distance, src, dst = _pairs_within(frames, index, largest)
            yield distance[src < dst] if len(frames.numbers) > 1 else distance
            progress(1)
        return

    # open: every pair, whatever its distance
    first, second = np.triu_indices(len(frames.numbers), 1)
    step = max(1, PAIRS_PER_STEP // max(len(first), 1))
    for start in range(0, len(frames), step):
        chosen = frames.positions[start : start + step]
        yield np.linalg.norm(chosen[:, first] - chosen[:, second], axis=2).ravel()
        progress(len(chosen))


def _pairs_within(
    frames: Frames, index: int, largest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance, sender and receiver of every directed pair of a periodic frame, images included."""
    positions, cell = frames.positions[index], frames.cells[index]
    near = find_neighbors(positions, largest, cell, frames.periodic)
    vectors = positions[near.dst] - positions[near.src] + near.shift @ cell
    return np.linalg.norm(vectors, axis=1), near.src, near.dst


def radial_distributions(
    frames: Frames, largest: float, bins: int, progress: Progress = _silent
) -> dict[str, np.ndarray]:
    """g(r) of every pair of elements, ``O-H`` -> (bins,), of a structure that repeats in three
    directions.

    ValueError for another structure.
    """
    from ase.data import chemical_symbols

    if not frames.periodic.all():
        raise ValueError("g(r) needs a structure that repeats in three directions")
    elements, kind = np.unique(frames.numbers, return_inverse=True)
    amount = np.bincount(kind)
    pairs = [(a, b) for a in range(len(elements)) for b in range(a, len(elements))]

    # directed pairs weighted with the volume, over the frames
    sums = {pair: np.zeros(bins) for pair in pairs}
    for index in range(len(frames)):
        volume = abs(np.linalg.det(frames.cells[index]))
        distance, src, dst = _pairs_within(frames, index, largest)
        for a, b in pairs:
            chosen = distance[(kind[src] == a) & (kind[dst] == b)]
            sums[a, b] += volume * np.histogram(chosen, bins, (0.0, largest))[0]
        progress(1)

    edges = np.linspace(0.0, largest, bins + 1)
    shell = 4 / 3 * np.pi * np.diff(edges**3)
    found = {}
    for a, b in pairs:
        number = amount[a] * (amount[b] - (a == b))
        name = f"{chemical_symbols[elements[a]]}-{chemical_symbols[elements[b]]}"
        scale = len(frames) * shell * number
        found[name] = sums[a, b] / scale if number else np.zeros(bins)
    return found
