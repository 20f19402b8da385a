"""Diffusion coefficients from mean squared displacements.

    MSD_a(t) = < | r_i(t0 + t) - r_i(t0) |^2 >        over atoms i of element a and origins t0
    D_a      = slope of MSD_a / 6                      of a line with an intercept

Positions are unwrapped first: between two frames an atom moves by the nearest image, so frames must
follow each other before an atom crosses half a cell. Origins are spread evenly over the first half
of the trajectory (one origin: the first frame, all times). The line is fitted from a fraction of
the longest time on, since motion is ballistic at first. Source: Einstein 1905; Frenkel & Smit,
Understanding Molecular Simulation, section 4.4. Cost: linear in frames, origins and atoms.
"""

from __future__ import annotations

import numpy as np

from farfield.simulate.rollout_frames import Frames

SQUARE_METRES_PER_SECOND = 1e-5  # 1 Angstrom^2/fs
NANO = 1e9


def unwrapped(frames: Frames) -> np.ndarray:
    """Positions (frames, atoms, 3) on continuous paths, Angstrom; cells may change on the way."""
    if frames.cells is None or len(frames) < 2:
        return frames.positions

    # fractional steps less the nearest whole number along the directions that repeat
    cells = frames.cells.copy()
    open_directions = ~frames.periodic
    flat = np.linalg.norm(cells[0], axis=1) == 0
    if open_directions.any() and flat.any():
        cells[:, flat] = _completed(cells[0], flat)[flat]
    fractional = frames.positions @ np.linalg.inv(cells)
    steps = np.diff(fractional, axis=0)
    steps = steps - np.round(steps) * frames.periodic
    path = np.concatenate([fractional[:1], fractional[:1] + np.cumsum(steps, 0)])
    return path @ cells


def _completed(cell: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """A cell whose missing vectors are any that are independent of the others."""
    from ase.geometry import complete_cell

    return complete_cell(np.where(missing[:, None], 0.0, cell))


def squared_displacements(path: np.ndarray, numbers: np.ndarray, origins: int) -> np.ndarray:
    """MSD (times, elements), Angstrom^2, of a path (frames, atoms, 3).

    numbers (atoms,): atomic numbers; elements are in rising order. origins: number of them.
    """
    elements, kind = np.unique(numbers, return_inverse=True)
    frames = len(path)
    starts = origin_frames(frames, origins)
    times = frames - int(starts[-1])

    sums = np.zeros((times, len(elements)))
    for start in starts:
        moved = ((path[start : start + times] - path[start]) ** 2).sum(2)  # (times, atoms)
        for element in range(len(elements)):
            sums[:, element] += moved[:, kind == element].mean(1)
    return sums / len(starts)


def origin_frames(frames: int, origins: int) -> np.ndarray:
    """Frames that displacements are counted from, spread over the first half."""
    return np.unique(np.linspace(0, frames // 2, origins, dtype=int)) if origins > 1 else [0]


def diffusion_coefficients(
    displacements: np.ndarray, frame_time: float, fit_from: float
) -> np.ndarray:
    """D of every element (elements,), Angstrom^2/fs; nan where fewer than two times are left.

    displacements (times, elements). frame_time: fs. fit_from: fraction of the longest time before
    which nothing is fitted.
    """
    times = len(displacements)
    first = int(np.ceil(fit_from * (times - 1)))
    if times - first < 2:
        return np.full(displacements.shape[1], np.nan)
    time = frame_time * np.arange(first, times)
    return np.polyfit(time, displacements[first:], 1)[0] / 6


def in_nano(coefficient: float) -> float:
    """Angstrom^2/fs as 1e-9 m^2/s."""
    return float(coefficient) * SQUARE_METRES_PER_SECOND * NANO
