"""Inputs of a structure besides its geometry: numbers that a network may read (``--condition``).

They stand in the comment line of an extended xyz file, which is ``atoms.info`` of ASE, or in an
array of an npz file. Their meaning is the meaning they have in the file: spin may be the number of
unpaired electrons or a multiplicity, as long as training and prediction agree. ``charge`` and
``total_charge`` are two names of one input; ``spin`` is also found as ``uhf`` (unpaired electrons),
while ``uhf`` is not found as ``spin``, which may be a multiplicity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

OTHER_NAME = {"total_charge": "charge", "charge": "total_charge", "spin": "uhf"}


def find_input(held: Mapping[str, Any], name: str) -> Any:
    """The value of an input under its name or its other name, None if there is neither.

    >>> find_input({"charge": -1}, "total_charge")
    -1
    """
    return held.get(name, held.get(OTHER_NAME.get(name, name)))


def common_inputs(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Numbers that every structure has, and names of numbers that only some have.

    rows: values of each structure by name; what is no finite number is left out. Returns
    name -> (structures,) float64, and the names that were dropped.
    """
    names = dict.fromkeys(name for row in rows for name, value in row.items() if is_number(value))
    kept = [name for name in names if all(is_number(row.get(name)) for row in rows)]
    dropped = [name for name in names if name not in kept]
    return {name: np.array([float(row[name]) for row in rows]) for name in kept}, dropped


def is_number(value: Any) -> bool:
    """Whether a value is one finite number, and no truth value."""
    kinds = (int, float, np.integer, np.floating)
    return isinstance(value, kinds) and not isinstance(value, bool) and bool(np.isfinite(value))
