"""Checks of a set of structures: types, shapes, finite values, elements and cells.

Every error is a ``ValueError`` that quotes the structure and the value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from farfield.dataloader.geometry_checks import check_geometry
from farfield.models.elements import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    from farfield.dataloader.structures import Structures

KINDS = {
    "positions": np.float64,
    "energy": np.float64,
    "forces": np.float64,
    "cell": np.float64,
    "stress": np.float64,
    "charges": np.float64,
    "dipole": np.float64,
    "atomic_numbers": np.int64,
    "counts": np.int64,
    "periodic": bool,
    "names": str,
}
LARGEST = 1e15  # no label of atoms is larger, and float32 holds its square
PER_ATOM = (
    "positions",
    "forces",
    "charges",
)  # the other arrays with numbers have a row for each structure


def convert(structures: Structures) -> None:
    """Give every array its type, laid out row by row; whole numbers are never rounded."""
    for name, kind in KINDS.items():
        values = getattr(structures, name)
        if values is None:
            continue
        values = np.asarray(values)
        if kind is np.int64 and not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name} must be whole numbers, got {values.dtype}")
        setattr(structures, name, np.ascontiguousarray(values, dtype=kind))
    structures.extra = {name: np.asarray(values) for name, values in structures.extra.items()}


def check(structures: Structures) -> None:
    """Refuse whatever cannot be right."""
    counts = structures.counts
    if counts.ndim != 1 or (counts < 1).any():
        raise ValueError(
            f"counts must be a list of numbers >= 1, got the shape {counts.shape} and the smallest "
            f"{counts.min(initial=0)}"
        )
    _check_arrays(structures, len(counts), int(counts.sum()))
    _check_extra(structures, len(counts))
    _check_elements(structures)
    _check_cells(structures)
    check_geometry(structures.positions, counts, structures.cell, structures.periodic)


def _check_arrays(structures: Structures, count: int, atoms: int) -> None:
    """Shapes and finite values of the arrays with fixed names."""
    shapes = {
        "atomic_numbers": (atoms,),
        "positions": (atoms, 3),
        "forces": (atoms, 3),
        "energy": (count,),
        "cell": (count, 3, 3),
        "periodic": (count, 3),
        "stress": (count, 3, 3),
        "names": (count,),
        "charges": (atoms,),
        "dipole": (count, 3),
    }

    # arrays that are None are left out
    for name, shape in shapes.items():
        values = getattr(structures, name)
        if values is None:
            continue
        if values.shape != shape:
            raise ValueError(
                f"{name} must have the shape {shape} for {count} structures of {atoms} atoms, got "
                f"{values.shape}"
            )
        if np.issubdtype(values.dtype, np.floating):
            _check_finite(structures, name, values)


def _check_finite(structures: Structures, name: str, values: np.ndarray) -> None:
    """Numbers are finite, and networks of float32 can compute with them."""
    with np.errstate(invalid="ignore"):
        fits = (np.abs(values.reshape(len(values), -1)) <= LARGEST).all(1)
    if not fits.all():
        place = int(np.argmin(fits))
        where = int(structures.structure_of_atom[place]) if name in PER_ATOM else place
        found = np.ravel(values[place])
        wrong = f"above {LARGEST:g} in size" if np.isfinite(found).all() else "not finite"
        raise ValueError(
            f"{name} of structure {where} are {wrong} ({found.tolist()}); leave that structure out"
        )


def _check_extra(structures: Structures, count: int) -> None:
    """Further labels are numbers or flags, some for each structure; they need not be finite."""
    for name, values in structures.extra.items():
        if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
            raise ValueError(
                f"extra[{name!r}] must be numbers, got {values.dtype}; keep words in names"
            )
        shape = (count, *values.shape[1:])
        if values.shape != shape:
            raise ValueError(
                f"extra[{name!r}] must have the shape {shape} for {count} structures of "
                f"{len(structures.positions)} atoms, got {values.shape}"
            )


def _check_elements(structures: Structures) -> None:
    numbers = structures.atomic_numbers
    wrong = np.flatnonzero((numbers < 1) | (numbers > MAX_ATOMIC_NUMBER))
    if len(wrong):
        where = structures.structure_of_atom[wrong[0]]
        raise ValueError(
            f"atomic numbers must lie in 1 .. {MAX_ATOMIC_NUMBER}, got {numbers[wrong[0]]} in "
            f"structure {where}"
        )


def _check_cells(structures: Structures) -> None:
    """Cells and their directions come together, and dipoles without them."""
    if (structures.cell is None) != (structures.periodic is None):
        given, missing = "periodic", "cell"
        if structures.periodic is None:
            given, missing = missing, given
        raise ValueError(
            f"{given} was given without {missing}: give both, or neither for open structures"
        )
    if structures.cell is None or not len(structures):
        return

    if structures.dipole is not None and structures.periodic.any():
        raise ValueError(
            "the dipole of a periodic structure depends on the choice of its cell; leave dipole out"
        )
