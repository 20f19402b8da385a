"""Stress of files: its names, sign, order and unit, and virials, for every reader alike.

The stress of the project is ASE's, sigma = (1 / V) dE/dstrain: tension is positive, a compressed
crystal has negative diagonal elements. Files give it as 3 x 3, or as 6 numbers in Voigt's order xx
yy zz yz xz xy, in ``--stress-unit``. A virial is W = -dE/dstrain, an energy, and becomes

    sigma = -W / V

with V the volume of the cell. A program that writes pressures or "stresses" of the other sign
(positive when compressed, such as VASP in kbar) needs a change of sign before it is read; nothing
in one file can tell, but the size can: stresses above ``LARGEST_STRESS`` are a wrong unit.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import GPa

from farfield.dataloader.sources.file_formats import ABSENT
from farfield.dataloader.sources.label_names import names_held
from farfield.dataloader.units import Units

USUAL_STRESS = ("stress", "virial", "virials")  # the preferred one first
LARGEST_STRESS = 1000.0  # GPa, root mean square of a set
ASYMMETRY = 1e-3  # of the largest element


def stress_names(held: Container[str]) -> list[str]:
    """Usual names of a stress or a virial that ``held`` contains, the preferred one first.

    >>> stress_names(["REF_virials", "REF_energy"])
    ['REF_virials']
    """
    return [name for quantity in USUAL_STRESS for name in names_held(quantity, held)]


def is_virial(name: str) -> bool:
    """Whether a label is a virial by its name."""
    return "virial" in name.lower()


def as_stress(name: str, values: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """The stress (3, 3) that the label ``name`` of a structure means, in the units of the file.

    cell: rows are lattice vectors. ``ValueError`` for a matrix that is not symmetric, and a virial
    in a cell without volume. Values of another size than 6 and 9 stay as they are, for the reader
    to refuse.
    """
    full = full_stress(values)
    if full.shape != (3, 3):
        return full
    if np.abs(full - full.T).max() > ASYMMETRY * np.abs(full).max():
        rows = np.round(full, 4).tolist()
        raise ValueError(f"{name!r} must be a symmetric matrix, got {rows}; correct the file")
    if not is_virial(name):
        return full

    volume = abs(np.linalg.det(cell))
    if not volume > 0:
        raise ValueError(f"{name!r} needs a cell with a volume > 0 to become a stress, -virial / V")
    return -full / volume


def full_stress(values: np.ndarray) -> np.ndarray:
    """A matrix (3, 3) from 6 numbers in Voigt's order (xx yy zz yz xz xy) or from 9.

    Values of another size stay as they are, to be refused later.
    """
    if values.shape == (6,):
        return voigt_6_to_full_3x3_stress(values)
    return values.reshape(3, 3) if values.size == 9 else values


def check_stress_unit(name: str, units: Units) -> None:
    """``ValueError`` where a virial, which is an energy, is read with a unit of stress."""
    if is_virial(name) and units.stress is not None:
        raise ValueError(
            f"{name!r} names a virial, an energy in --energy-unit, which --stress-unit "
            f"{units.stress} does not fit; leave --stress-unit out, or give --stress-key"
        )


def how_read(name: str, units: Units) -> str:
    """Sign, unit and order of what was read, for the reader of the output."""
    tension = "tension is positive, xx yy zz yz xz xy"
    if is_virial(name):
        return f"stress = -{name!r} / volume ({units.energy}; {tension})"
    return f"stress {name!r} ({units.stress_unit}; {tension})"


def stress_remarks(stress: np.ndarray | None) -> list[str]:
    """A remark on a stress (structures, 3, 3) in eV/Angstrom^3 that is too large to be one."""
    if stress is None or not stress.size:
        return []
    size = float(np.sqrt(np.mean(stress**2))) / GPa
    if size <= LARGEST_STRESS:
        return []
    return [
        f"note: the stress is {size:.3g} GPa (root mean square), more than in the centre of a "
        "planet; check --stress-unit"
    ]


def chosen_stress(given: str | None, held: Mapping | Container[str]) -> str | None:
    """Name of the stress: the given one, else a usual one among ``held``; None reads without."""
    if given is not None:
        return None if given == ABSENT else given
    return next(iter(stress_names(held)), None)
