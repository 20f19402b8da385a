"""How long a simulated structure keeps its bonds.

    unstable at time t:   max over bonds | r_ij(t) - b_ij | > 0.5 Angstrom

with the bonds of a reference geometry and their equilibrium lengths b_ij: the mean over reference
frames, or the length in the first frame where there are none. Source: Fu et al. 2022, "Forces are
not enough" (arXiv:2210.07237), for molecules; there as here a trajectory counts up to the last
frame before the first unstable one. Two atoms are bonded if they are closer than the sum of their
covalent radii (Cordero et al. 2008) + 0.22 Angstrom. Cost: linear in frames and bonds.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from farfield.dataloader.chemistry.bonds import TOLERANCE
from farfield.dataloader.graphs import find_neighbors
from farfield.simulate.rollout_frames import Frames

MAX_BOND_CHANGE = 0.5  # Angstrom


@dataclasses.dataclass(frozen=True)
class Bonds:
    """Bonds of a structure: ``ends`` (bonds, 2) and their equilibrium ``length`` (bonds,)."""

    ends: np.ndarray
    length: np.ndarray


def find_bonds(frames: Frames) -> Bonds:
    """Bonds of the first frame, with their mean lengths over all frames."""
    from ase.data import covalent_radii

    # the longest bond that the elements allow, then each pair by its own radii
    radii = covalent_radii[frames.numbers]
    cell = None if frames.cells is None else frames.cells[0]
    longest = 2 * radii.max() + TOLERANCE
    near = find_neighbors(frames.positions[0], longest, cell, frames.periodic)
    vectors = frames.positions[0][near.dst] - frames.positions[0][near.src]
    if cell is not None:
        vectors = vectors + near.shift @ cell
    distance = np.linalg.norm(vectors, axis=1)
    bonded = (distance < radii[near.src] + radii[near.dst] + TOLERANCE) & (near.src < near.dst)

    ends = np.unique(np.stack([near.src, near.dst], 1)[bonded], axis=0)
    return Bonds(ends, bond_lengths(frames, ends).mean(0))


def bond_lengths(frames: Frames, ends: np.ndarray) -> np.ndarray:
    """Lengths (frames, bonds) of the pairs ``ends`` (bonds, 2), of the nearest images."""
    vectors = frames.positions[:, ends[:, 1]] - frames.positions[:, ends[:, 0]]
    if frames.cells is None:
        return np.linalg.norm(vectors, axis=2)
    from ase.geometry import find_mic

    lengths = [
        find_mic(one, cell, frames.periodic)[1]
        for one, cell in zip(vectors, frames.cells, strict=True)
    ]
    return np.stack(lengths)


def largest_changes(frames: Frames, bonds: Bonds) -> np.ndarray:
    """Largest deviation of a bond from its equilibrium in every frame (frames,), Angstrom.

    inf for frames with positions that are not finite; 0 for a structure without bonds.
    """
    finite = np.isfinite(frames.positions).all((1, 2))
    if not len(bonds.ends):
        return np.where(finite, 0.0, np.inf)
    whole = dataclasses.replace(frames, positions=np.nan_to_num(frames.positions))
    changes = np.abs(bond_lengths(whole, bonds.ends) - bonds.length).max(1)
    return np.where(finite, changes, np.inf)


def stable_frames(changes: np.ndarray, limit: float = MAX_BOND_CHANGE) -> int:
    """Number of frames before the first one with a change above ``limit``."""
    unstable = np.flatnonzero(changes > limit)
    return int(unstable[0]) if len(unstable) else len(changes)
