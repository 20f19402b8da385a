"""Simulations of the public N-body files: ``nbody_train.pkl`` and ``nbody_test.pkl`` of programs
after the SE(3)-Transformer, or ``ds_train_charged_3D_5_....pkl`` of its generator.

A file is a pickled dictionary with ``points`` and ``vel`` (simulations, frames, 3, bodies),
``charges`` (simulations, bodies, 1) or, without charges, ``edges`` (simulations, bodies, bodies) of
springs, and the time step and its multiple between frames. It is read without running anything that
it names (``plain_pickles.py``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from farfield.dataloader.sources.nbody_simulation import FRAME_TIME
from farfield.dataloader.sources.plain_pickles import read_plain_pickle

HINT = "give a file of the public N-body generator"


def read_public_nbody(path: str | Path) -> dict[str, np.ndarray]:
    """Positions and velocities (simulations, frames, bodies, 3), charges (simulations, bodies), and
    for springs ``springs`` (simulations, bodies, bodies), float64.

    ``FileNotFoundError`` or ``ValueError`` in one line for a file that is missing, damaged or of
    something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {HINT}")
    try:
        content = read_plain_pickle(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {HINT}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, not a dictionary; {HINT}")

    frame_time = content.get("delta_T", FRAME_TIME / 100) * content.get("sample_freq", 100)
    if abs(frame_time - FRAME_TIME) > 1e-9:
        raise ValueError(f"{path}: frames must be {FRAME_TIME} apart, got {frame_time:g}; {HINT}")

    # the axis of the bodies comes before the one of x, y, z
    points = _array(path, content, "points", 4)
    simulations, _, dimensions, bodies = points.shape
    if dimensions != 3:
        raise ValueError(f"{path}: points have {dimensions} dimensions, 3 are read; {HINT}")
    found = {
        "positions": points.swapaxes(2, 3),
        "velocities": _array(path, content, "vel", 4, points.shape).swapaxes(2, 3),
    }
    if "charges" in content:
        shape = (simulations, bodies, 1)
        return found | {"charges": _array(path, content, "charges", 3, shape)[..., 0]}
    springs = _array(path, content, "edges", 3, (simulations, bodies, bodies))
    return found | {"charges": np.zeros((simulations, bodies)), "springs": springs}


def _array(
    path: Path, content: dict, name: str, axes: int, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """An array of the file as float64; ``ValueError`` for another shape, or values that are not
    finite.
    """
    values = np.asarray(content.get(name))
    if values.dtype.kind not in "fiu" or values.ndim != axes or shape not in (None, values.shape):
        expected = shape or f"({', '.join('.' * axes)})"
        raise ValueError(
            f"{path}: {name} must be numbers of the shape {expected}, got {values.dtype} of the "
            f"shape {values.shape}; {HINT}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: {name} are not finite; {HINT}")
    return values.astype(np.float64)
