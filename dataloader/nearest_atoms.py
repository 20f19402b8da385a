"""Nearest atoms of structures: distances that cannot be, and what they tell of the unit of length.

Distances count in sums of covalent radii (Cordero et al. 2008, as in ase.data). Nearest atoms of
molecules, liquids and crystals have 0.6 to 1.3 of these, 1.89 where bohr are read as Angstrom and
0.1 where nanometres are. Cost: N log N by a k-d tree over all open structures, one neighbour list
for each periodic structure of the sample.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from farfield.dataloader.graphs import find_neighbors
from farfield.dataloader.structures import Structures, rows_of

SEARCHED = 3.0  # Angstrom, in periodic structures
SEARCHED_BY_NUCLEI = 6.0  # Angstrom
SAMPLED_PERIODIC = 1000  # periodic structures
COULOMB = 14.399645  # e^2 / (4 pi eps_0), eV Angstrom

TOO_NEAR = 0.3  # of the sum of covalent radii, below which no two atoms are
RARELY_NEAR = 0.5
MOST_NAMED = 5  # frames in a message
MOST_PAIRS_NAMED = 8  # pairs of elements

# median nearest distance -> what it is read as
NANOMETRE = (0.06, 0.16)
BOHR = (1.65, 2.2)
HALF = (0.42, 0.6)


@dataclasses.dataclass(frozen=True)
class NearestAtoms:
    """Atoms (rows,), the nearest atom of each in its structure, and the vector from there to it
    (rows, 3), Angstrom. Atoms that have none within reach are left out.
    """

    atom: np.ndarray
    other: np.ndarray
    vector: np.ndarray

    @functools.cached_property
    def distance(self) -> np.ndarray:
        """(rows,) Angstrom"""
        return np.linalg.norm(self.vector, axis=1)

    @classmethod
    def find(cls, structures: Structures, frames: np.ndarray) -> NearestAtoms:
        """Of all open structures, and of up to 1000 periodic ones among ``frames``."""
        periodic = np.zeros(len(structures), bool)
        if structures.periodic is not None:
            periodic = structures.periodic.any(1)
        open_frames = np.flatnonzero(~periodic & (structures.counts > 1))
        chosen = frames[periodic[frames]]
        step = -(-len(chosen) // SAMPLED_PERIODIC) or 1

        parts = [(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3)))]
        if len(open_frames):
            parts.append(_nearest_open(structures, open_frames))
        parts += [_nearest_periodic(structures, frame) for frame in chosen[::step].tolist()]
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def check_distances(
    structures: Structures, nearest: NearestAtoms, place: Callable[[int], str]
) -> tuple[list[str], list[str], list[str]]:
    """Lines that are certain, likely, and for the reader; place: words for a frame."""
    if not len(nearest.atom):
        return [], [], []
    numbers = structures.atomic_numbers
    radii = covalent_radii[numbers[nearest.atom]] + covalent_radii[numbers[nearest.other]]
    share = nearest.distance / radii
    unit = _unit_words(float(np.median(share)))

    wrong, notes = [], []
    if (share < TOO_NEAR).any():
        said = _nearest_frames(structures, nearest, share, TOO_NEAR, place)
        hint = unit or "correct the positions or leave out these frames"
        wrong.append(f"atoms lie on each other, Angstrom: {said}; {hint}")
    elif unit:
        notes.append(f"nearest atoms are {np.median(share):.2g} covalent distances apart, {unit}")
    elif (share < RARELY_NEAR).any():
        said = _nearest_frames(structures, nearest, share, RARELY_NEAR, place)
        notes.append(f"atoms are unusually near each other, Angstrom: {said}")
    return wrong, notes, [_by_elements(structures, nearest)]


def _nearest_open(structures: Structures, frames: np.ndarray):
    """All structures at once, far from each other along a fourth axis."""
    from scipy.spatial import KDTree  # costs time that --help does not wait for

    rows = rows_of(structures.offsets[frames], structures.counts[frames])
    positions = structures.positions[rows]
    owner = np.repeat(np.arange(len(frames)), structures.counts[frames])
    apart = 2 * (np.ptp(positions, axis=0).max() + 1)
    points = np.concatenate([positions, apart * owner[:, None]], axis=1)
    _, index = KDTree(points).query(points, k=2)

    # an atom that lies on another one may come first or second
    own = np.arange(len(points))
    other = index[own, np.where(index[:, 0] == own, 1, 0)]
    return rows, rows[other], positions - positions[other]


def _nearest_periodic(structures: Structures, frame: int):
    vector, src, dst = _edges(structures, frame, SEARCHED)
    order = np.lexsort((np.linalg.norm(vector, axis=1), dst))
    atoms, first = np.unique(dst[order], return_index=True)
    nearest = order[first]
    start = structures.offsets[frame]
    return start + atoms, start + src[nearest], vector[nearest]


def _edges(structures: Structures, frame: int, cutoff: float):
    """Vectors from senders to receivers (edges, 3), senders and receivers in a structure."""
    rows = slice(structures.offsets[frame], structures.offsets[frame + 1])
    positions = structures.positions[rows]
    cell, periodic = np.zeros((3, 3)), np.zeros(3, bool)
    if structures.periodic is not None:
        cell, periodic = structures.cell[frame], structures.periodic[frame]
    found = find_neighbors(positions, cutoff, cell, periodic)
    return positions[found.dst] - positions[found.src] + found.shift @ cell, found.src, found.dst


def nuclear_limit(structures: Structures, frame: int) -> np.ndarray:
    """Largest force that an atom can feel (atoms,), eV/Angstrom: 2 sum_j k Z_i Z_j / r_ij^2.

    The sum is the push of all bare nuclei within 6 Angstrom; electrons pull with less.
    """
    vector, src, dst = _edges(structures, frame, SEARCHED_BY_NUCLEI)
    rows = slice(structures.offsets[frame], structures.offsets[frame + 1])
    numbers = structures.atomic_numbers[rows]
    push = COULOMB * numbers[src] * numbers[dst] / np.maximum((vector**2).sum(1), 1e-6)
    return 2 * np.bincount(dst, weights=push, minlength=len(numbers))


def _unit_words(share: float) -> str | None:
    """What the median nearest distance tells of the unit of length."""
    for (low, high), words in (
        (NANOMETRE, "as if nanometres were read as Angstrom: give --length-unit nm"),
        (BOHR, "as if bohr were read as Angstrom: give --length-unit bohr"),
        (HALF, "as if Angstrom were read as bohr: give --length-unit Angstrom"),
    ):
        if low < share < high:
            return words
    return None


def _nearest_frames(
    structures: Structures,
    nearest: NearestAtoms,
    share: np.ndarray,
    limit: float,
    place: Callable[[int], str],
) -> str:
    """Frames with atoms nearer than ``limit`` of their covalent distance, nearest first."""
    rows = np.flatnonzero(share < limit)
    rows = rows[np.argsort(share[rows], kind="stable")]

    # one row a frame
    frames = structures.structure_of_atom[nearest.atom[rows]]
    _, first = np.unique(frames, return_index=True)
    rows = rows[np.sort(first)]
    words = []
    for row in rows[:MOST_NAMED].tolist():
        frame = int(structures.structure_of_atom[nearest.atom[row]])
        one, other = (
            int(end[row] - structures.offsets[frame]) for end in (nearest.atom, nearest.other)
        )
        words.append(f"{place(frame)} (atoms {one} and {other}: {nearest.distance[row]:.3g})")
    more = f" and {len(rows) - MOST_NAMED} more frames" if len(rows) > MOST_NAMED else ""
    return ", ".join(words) + more


def _by_elements(structures: Structures, nearest: NearestAtoms) -> str:
    """Smallest distance of nearest atoms for each pair of elements, nearest first."""
    ends = structures.atomic_numbers[np.stack([nearest.atom, nearest.other], 1)]
    kinds, group = np.unique(np.sort(ends, axis=1), axis=0, return_inverse=True)
    least = np.full(len(kinds), np.inf)
    np.minimum.at(least, group.ravel(), nearest.distance)

    order = np.argsort(least)
    words = []
    for kind in order[:MOST_PAIRS_NAMED].tolist():
        pair = "-".join(chemical_symbols[number] for number in kinds[kind])
        words.append(f"{pair} {least[kind]:.2f}")
    more = f" and {len(order) - MOST_PAIRS_NAMED} more pairs" if len(order) > len(words) else ""
    return f"nearest atoms (Angstrom): {', '.join(words)}{more}"
