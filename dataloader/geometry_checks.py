"""One check of the geometry of structures, whoever gives them: readers, calculator, dynamics.

    extent   no atom of a structure with an open direction is farther than 1e5 Angstrom from the
             middle: float32 resolves less than a hundredth of an Angstrom there
    cell     vectors that repeat are there and independent
    height   planes of a cell are at least 0.5 Angstrom apart along every direction that repeats: an
             atom has a thousand neighbours below

Every error is a ``ValueError`` of one line that names the structure. Cost: linear in atoms.
"""

from __future__ import annotations

import numpy as np

MOST_EXTENT = 1e5  # Angstrom
LEAST_HEIGHT = 0.5  # Angstrom
UNITS_HINT = "correct the structure, or give its unit of length"


def check_geometry(
    positions: np.ndarray,
    counts: np.ndarray,
    cell: np.ndarray | None = None,
    periodic: np.ndarray | None = None,
) -> None:
    """Raise ValueError for the first structure whose geometry no network can read.

    positions (atoms, 3), Angstrom, finite, of structures laid end to end. counts (structures,), all
    >= 1. cell (structures, 3, 3) and periodic (structures, 3) bool: both, or neither for open
    structures.
    """
    if not len(counts):
        return
    everywhere = np.zeros(len(counts), bool) if periodic is None else periodic.all(1)
    _check_extents(positions, counts, ~everywhere)
    if periodic is not None and periodic.any():
        _check_vectors(cell, periodic)
        _check_heights(cell, periodic)


def _check_extents(positions: np.ndarray, counts: np.ndarray, some_open: np.ndarray) -> None:
    first = np.cumsum(counts) - counts
    middle = np.add.reduceat(positions, first) / counts[:, None]
    away = np.abs(positions - np.repeat(middle, counts, axis=0)).max(1)
    away = np.where(np.repeat(some_open, counts), away, 0.0)
    if len(away) and away.max() > MOST_EXTENT:
        atom = int(away.argmax())
        structure = int(np.searchsorted(first, atom, side="right")) - 1
        place = positions[atom].tolist()
        raise ValueError(
            f"atom {atom - first[structure]} of structure {structure} is more than {MOST_EXTENT:g} "
            f"Angstrom from the middle of the others, at {place}; {UNITS_HINT}"
        )


def _check_vectors(cell: np.ndarray, periodic: np.ndarray) -> None:
    # (structures, 3, 3): lattice vectors that repeat, zeros for the others
    repeating = np.where(periodic[..., None], cell, 0.0)
    wrong = np.linalg.matrix_rank(repeating) < periodic.sum(1)
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(
            f"structure {place} is periodic along {periodic[place].tolist()} but its vectors "
            f"{cell[place].tolist()} do not span these directions; give its cell, or say that it "
            "does not repeat (pbc F)"
        )


def _check_heights(cell: np.ndarray, periodic: np.ndarray) -> None:
    height = cell_heights(cell, periodic)
    wrong = (height < LEAST_HEIGHT).any(1)
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(
            f"structure {place} repeats every {height[place].min():.3g} Angstrom, less than "
            f"{LEAST_HEIGHT} (cell {cell[place].tolist()}); {UNITS_HINT}"
        )


def cell_heights(cell: np.ndarray, periodic: np.ndarray) -> np.ndarray:
    """Distances (..., 3) between planes of cells (..., 3, 3), inf where nothing repeats."""
    # G = A A^T of the vectors that repeat, 1 for the others; height_k = 1 / sqrt((G^-1)_kk)
    repeating = np.where(periodic[..., None], cell, 0.0)
    gram = repeating @ np.swapaxes(repeating, -1, -2)
    gram = gram + np.where(periodic, 0.0, 1.0)[..., None] * np.eye(3)
    inverse = np.diagonal(np.linalg.inv(gram), axis1=-2, axis2=-1)
    return np.where(periodic, 1 / np.sqrt(inverse), np.inf)
