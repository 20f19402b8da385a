"""Partial charges, dipoles and total charges of files: their usual names, checks, and the origin.

A dipole of a charged structure depends on the origin. Files have it about their own origin; here it
is moved to the mean position of the atoms, where networks have it:

    dipole = dipole of the file - Q x mean position

with Q the total charge of the structure, else the sum of its partial charges, rounded, else 0. Of a
periodic structure there is no dipole: it depends on the choice of the cell. A label under a usual
name that cannot be one (another shape, atomic numbers) is left out with a remark, under a name that
the user gave it is an error. Cost: one pass over the values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping

import numpy as np

from farfield.dataloader.label_statistics import centroids
from farfield.dataloader.sources.file_formats import ABSENT
from farfield.dataloader.sources.label_names import names_held
from farfield.dataloader.structure_inputs import find_input
from farfield.dataloader.structures import Structures

TOTAL_CHARGE = "total_charge"
USUAL = {
    "charges": (
        "charges",
        "q",
        "atomic_charges",
        "partial_charges",
        "mulliken_charges",
        "mbis_charges",
        "hirshfeld_charges",
        "initial_charges",
    ),
    "dipole": ("dipole", "dipoles", "dipole_moment"),
}
LARGEST_DIFFERENCE = 0.05  # e, between the sum of the charges and the total charge


@dataclasses.dataclass(frozen=True)
class FoundLabel:
    """A label as the file has it.

    name: in the file. values: flat, charges (atoms,) in e, dipole (structures, 3) in e Angstrom, if
    the file is as it should be. given: whether the user gave the name.
    """

    name: str
    values: np.ndarray
    given: bool


def charge_label_names(keys: Mapping[str, str], held: Container[str]) -> dict[str, str]:
    """Charges and dipole -> name among ``held``, given in ``keys`` or the first usual one.

    A given name is not checked; "absent" leaves the quantity out.
    """
    found = {}
    for quantity, bases in USUAL.items():
        usual = [name for base in bases for name in names_held(quantity=base, held=held)]
        names = [keys[quantity]] if keys.get(quantity) else usual
        if names and names[0] != ABSENT:
            found[quantity] = names[0]
    return found


def with_charge_labels(
    structures: Structures, found: Mapping[str, FoundLabel], total_charge: str | None = None
) -> Structures:
    """The structures with charges, dipole about the centroid, and remarks on what was read.

    total_charge: name in ``structures.extra`` of what becomes ``total_charge`` (None: a usual
    name). ``ValueError`` for a name that the user gave and whose values cannot be right.
    """
    extra, remarks = dict(structures.extra), list(structures.remarks)
    labels, said = {}, []
    if total_charge is not None:
        extra[TOTAL_CHARGE] = _total_charge(structures, extra, total_charge)
        if total_charge != TOTAL_CHARGE:
            del extra[total_charge]

    for quantity, label in found.items():
        reason = _why_not(structures, quantity, label.values)
        if reason and label.given:
            flag = f"--{quantity}-key"
            raise ValueError(
                f"{label.name!r} cannot be read as {quantity}: {reason}; give another {flag}, or "
                f"{flag} {ABSENT}"
            )
        if reason:
            remarks.append(f"note: {label.name!r} is not read as {quantity}: {reason}")
            continue
        labels[quantity] = np.array(label.values, np.float64)
        said.append(f"{quantity} {label.name!r}")

    # what the dipole is moved by, and whether charges and total charges agree
    total = _known_total(structures, extra, labels)
    if "dipole" in labels:
        labels["dipole"] -= total.values[:, None] * centroids(structures)
        said[-1] += f" (e Angstrom, about the centroid; {total.source})"
    if total.known and len(structures):
        low, high = total.values.min(), total.values.max()
        said.append(
            f"total charge ({low:g} e)" if low == high else f"total charge ({low:g} to {high:g} e)"
        )
    if said:
        remarks.append(f"read {', '.join(said)}")
    remarks += _difference(structures, extra, labels)
    return dataclasses.replace(
        structures, extra=extra, remarks=tuple(remarks), **labels, check=False
    )


def without_dipole(structures: Structures) -> Structures:
    """The structures without dipoles, which a cell takes their meaning."""
    if structures.dipole is None:
        return structures
    remark = "note: the dipole is not kept: it has no meaning in cells that repeat"
    return dataclasses.replace(structures, dipole=None, remarks=(*structures.remarks, remark))


def _total_charge(structures: Structures, extra: Mapping, name: str) -> np.ndarray:
    """The values ``name`` as total charges (structures,)."""
    if name not in extra:
        raise ValueError(
            f"there is no total charge {name!r} with one number for each structure (there are "
            f"{', '.join(extra) or 'none'}); give another --total-charge-key"
        )
    values = np.asarray(extra[name], np.float64)
    if values.shape != (len(structures),) or not np.isfinite(values).all():
        raise ValueError(
            f"the total charge {name!r} must be one finite number for each structure, got the "
            f"shape {values.shape}; give another --total-charge-key"
        )
    return values


def _why_not(structures: Structures, quantity: str, values: np.ndarray) -> str:
    """Why values cannot be the charges or the dipole; empty where they can."""
    per = {"charges": "atom", "dipole": "structure"}[quantity]
    shape = {"charges": (structures.num_atoms,), "dipole": (len(structures), 3)}[quantity]
    if values.shape != shape:
        return (
            f"it has the shape {values.shape}, {shape} is a {quantity.rstrip('s')} for each {per}"
        )
    if not np.issubdtype(values.dtype, np.number) or not np.isfinite(values).all():
        return f"it must be finite numbers, one label for each {per}"

    # right in shape, wrong in meaning
    if quantity == "charges" and np.array_equal(values, structures.atomic_numbers):
        return "it holds the atomic numbers"
    if quantity == "dipole" and structures.periodic is not None and structures.periodic.any():
        return "the dipole of a periodic structure depends on the choice of its cell"
    return ""


@dataclasses.dataclass(frozen=True)
class _Total:
    """Total charge of every structure (structures,), whether the file has it, and what follows from
    that for dipoles.
    """

    values: np.ndarray
    known: bool
    source: str


def _known_total(structures: Structures, extra: Mapping, labels: Mapping) -> _Total:
    """Total charges as the file has them, else as the partial charges sum up, else zeros."""
    values = find_input(extra, TOTAL_CHARGE)
    if values is not None and np.shape(values) == (len(structures),) and np.isfinite(values).all():
        return _Total(np.asarray(values, np.float64), True, "moved by the total charge")
    if "charges" in labels:
        sums = np.bincount(structures.structure_of_atom, labels["charges"], len(structures))
        return _Total(np.round(sums), False, "moved by the sum of the charges, rounded")
    return _Total(np.zeros(len(structures)), False, "no total charge is known, taken as neutral")


def _difference(structures: Structures, extra: Mapping, labels: Mapping) -> list[str]:
    """A remark where charges do not sum up to the total charge."""
    total = find_input(extra, TOTAL_CHARGE)
    if "charges" not in labels or np.shape(total) != (len(structures),):
        return []
    sums = np.bincount(structures.structure_of_atom, labels["charges"], len(structures))
    difference = np.abs(sums - total)
    worst = int(np.argmax(difference)) if len(difference) else 0
    if not len(difference) or not difference[worst] > LARGEST_DIFFERENCE:
        return []
    return [
        f"note: the charges of structure {worst} sum up to {sums[worst]:.4g} e, its total charge "
        f"is {total[worst]:.4g} e"
    ]
