"""Pairs of frames of one molecule or cell that are near each other, and the work between them.

For frames a and b of the same atoms, with d = x_b - x_a after the best turn and shift of b,

    work = -(F_a . d + F_b . d) / 2,    change = E_b - E_a,    spread = |F_b . d - F_a . d| / 2.

Where the forces are the slope of the energy, change = work up to third derivatives (the trapezoid
rule), with an error that grows with the spread. Forces of open frames turn with their positions;
periodic ones take the nearest images, in cells that are equal. Every frame is paired with its
nearest one, by distances between atoms (open) or places in the cell (periodic). Cost: quadratic in
the frames of a block of at most ``MOST_FRAMES_IN_BLOCK``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from farfield.dataloader.structure_inputs import find_input
from farfield.dataloader.structures import Structures

MOST_FRAMES_IN_BLOCK = 1000
MOST_DISTANCES = 256  # of a frame, by which near frames are found
EQUAL_CELLS = 1e-6  # Angstrom


@dataclasses.dataclass
class FramePairs:
    """Pairs of frames, all arrays (pairs,).

    first, second  indices into the structures
    change         E_second - E_first, eV
    work           what the forces say of it, eV
    spread         half the difference of what each frame alone says of it, eV
    farthest       largest distance that an atom moves, Angstrom
    """

    first: np.ndarray
    second: np.ndarray
    change: np.ndarray
    work: np.ndarray
    spread: np.ndarray
    farthest: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def where(self, mask: np.ndarray) -> FramePairs:
        """The pairs that a mask (pairs,) keeps."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return FramePairs(**{name: values[mask] for name, values in arrays.items()})

    @classmethod
    def joined(cls, parts: Sequence[FramePairs]) -> FramePairs:
        """All pairs of several sets; no pair for none of them."""
        names = [field.name for field in dataclasses.fields(cls)]
        empty = {name: np.zeros(0, int if name in ("first", "second") else float) for name in names}
        arrays = {
            name: np.concatenate([empty[name], *(getattr(part, name) for part in parts)])
            for name in names
        }
        return cls(**arrays)


def near_pairs(structures: Structures, frames: np.ndarray) -> FramePairs:
    """Each of ``frames`` (indices) with the nearest other one of the same atoms.

    structures: with energies and forces. Frames with another order of elements, total charge or
    spin are other atoms.
    """
    parts = []
    for group in same_atoms(structures, frames):
        # runs of a trajectory stay together
        blocks = -(-len(group) // MOST_FRAMES_IN_BLOCK)
        for block in np.array_split(group, blocks):
            if len(block) > 1:
                parts.append(_pairs_of_block(structures, block))
    return FramePairs.joined(parts)


def same_atoms(structures: Structures, frames: np.ndarray) -> Iterator[np.ndarray]:
    """Groups of ``frames`` with the same atoms in the same order, charge and spin."""
    inputs = [find_input(structures.extra, name) for name in ("total_charge", "spin")]
    inputs = [values for values in inputs if values is not None and values.ndim == 1]
    groups: dict[tuple, list[int]] = {}
    for frame in frames.tolist():
        rows = slice(structures.offsets[frame], structures.offsets[frame + 1])
        key = structures.atomic_numbers[rows].tobytes()
        state = tuple(float(values[frame]) for values in inputs)
        groups.setdefault((key, state, _repeats(structures, frame)), []).append(frame)
    for group in groups.values():
        yield np.array(group)


def _repeats(structures: Structures, frame: int) -> tuple[bool, ...]:
    if structures.periodic is None:
        return (False, False, False)
    return tuple(structures.periodic[frame].tolist())


def _pairs_of_block(structures: Structures, block: np.ndarray) -> FramePairs:
    # (frames, atoms, 3)
    atoms = structures.counts[block[0]]
    rows = structures.offsets[block][:, None] + np.arange(atoms)
    positions, forces = structures.positions[rows], structures.forces[rows]
    repeats = _repeats(structures, block[0])
    cell = structures.cell[block] if any(repeats) else None

    # each frame and its nearest one, each pair once
    nearest = _nearest(positions, cell, np.array(repeats))
    ends = np.sort(np.stack([np.arange(len(block)), nearest], 1), axis=1)
    first, second = np.unique(ends, axis=0).T
    if cell is None:
        moved, turned = _moved_open(positions[first], positions[second], forces[second])
    else:
        equal = np.abs(cell[first] - cell[second]).max((1, 2)) < EQUAL_CELLS
        first, second = first[equal], second[equal]
        moved = _moved_periodic(positions[second] - positions[first], cell[first], repeats)
        turned = forces[second]

    # what each end says of the change of energy along the straight way
    at_first = -(forces[first] * moved).sum((1, 2))
    at_second = -(turned * moved).sum((1, 2))
    energy = structures.energy[block]
    return FramePairs(
        first=block[first],
        second=block[second],
        change=energy[second] - energy[first],
        work=(at_first + at_second) / 2,
        spread=np.abs(at_second - at_first) / 2,
        farthest=np.linalg.norm(moved, axis=-1).max(1, initial=0.0),
    )


def _nearest(positions: np.ndarray, cell: np.ndarray | None, repeats: np.ndarray) -> np.ndarray:
    """Index of the nearest other frame of each (frames,)."""
    if cell is None:
        features = _some_distances(positions)
    else:
        # places on circles, one for each direction that repeats
        repeating = np.where(repeats[:, None], cell, np.eye(3))
        places = np.einsum("nai,nij->naj", positions, np.linalg.inv(repeating))
        angles = 2 * np.pi * places[..., repeats]
        circles = np.concatenate([np.cos(angles), np.sin(angles), places[..., ~repeats]], axis=-1)
        features = circles.reshape(len(positions), -1)

    features = features - features.mean(0)
    square = (features**2).sum(1)
    distance = square[:, None] + square - 2 * features @ features.T
    np.fill_diagonal(distance, np.inf)
    return distance.argmin(1)


def _some_distances(positions: np.ndarray) -> np.ndarray:
    """Distances between atoms of each frame (frames, pairs): all, or a fixed choice of many."""
    i, j = np.triu_indices(positions.shape[1], 1)
    if len(i) > MOST_DISTANCES:
        chosen = np.random.default_rng(0).choice(len(i), MOST_DISTANCES, replace=False)
        i, j = i[chosen], j[chosen]
    return np.linalg.norm(positions[:, i] - positions[:, j], axis=-1)


def _moved_open(
    first: np.ndarray, second: np.ndarray, forces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ways of the atoms (pairs, atoms, 3) and forces of the second frames, turned to the first."""
    first = first - first.mean(1, keepdims=True)
    second = second - second.mean(1, keepdims=True)

    # Kabsch: the rotation nearest to the covariance of the two
    left, _, right = np.linalg.svd(np.swapaxes(second, 1, 2) @ first)
    left[:, :, -1] *= np.sign(np.linalg.det(left @ right))[:, None]
    turn = left @ right
    return second @ turn - first, forces @ turn


def _moved_periodic(ways: np.ndarray, cell: np.ndarray, repeats: Sequence[bool]) -> np.ndarray:
    """The same between nearest images."""
    repeats = np.array(repeats)
    repeating = np.where(repeats[:, None], cell, np.eye(3))
    places = np.einsum("nai,nij->naj", ways, np.linalg.inv(repeating))
    places = places - np.where(repeats, np.round(places), 0.0)
    return np.einsum("nai,nij->naj", places, repeating)
