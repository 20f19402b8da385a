"""Which labels of the frames of an extended xyz file are read, and their values.

A usual name is found (:mod:`farfield.dataloader.sources.label_names`, ``stress_labels``) unless one
is given. Two usual names of one label must have the same values. Forces of a single atom and the
stress of an open structure are zero where a frame does not have them.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from farfield.dataloader.reference_energies import LONE_SPACING
from farfield.dataloader.sources.file_formats import ABSENT
from farfield.dataloader.sources.label_names import names_held
from farfield.dataloader.sources.stress_labels import (
    as_stress,
    check_stress_unit,
    how_read,
    stress_names,
)
from farfield.dataloader.units import Units

if TYPE_CHECKING:
    import ase


@dataclasses.dataclass(frozen=True)
class LabelNames:
    """Which labels are read: keys, label -> its name in the file; others, label -> usual names that
    must not say something else; found, the labels whose names nobody gave; remarks for the reader.
    """

    keys: dict[str, str]
    others: dict[str, list[str]]
    found: frozenset[str]
    remarks: list[str]


def chosen_labels(
    path: Path, given: dict[str, str | None], held: dict[str, dict], units: Units
) -> LabelNames:
    """The given names, else the first usual ones.

    given: label -> its name, None for a usual one, or "absent". held: label -> all values of the
    frame that tells its usual names (empty: there is none, and a label that nobody named is left
    out).
    """
    keys, others, remarks = {}, {}, []
    for quantity, name in given.items():
        names = stress_names if quantity == "stress" else partial(names_held, quantity)
        usual = names(held[quantity])
        if name is None:
            # without a usual name the error of the first frame names what is there
            if usual or quantity != "stress":
                keys[quantity], *others[quantity] = usual or [quantity]
            continue

        if name != ABSENT:
            keys[quantity] = name
        remarks += [
            f"note: {other!r} is not read; give --{quantity}-key {other} to read it"
            for other in usual
            if other != name
        ]

    if "stress" in keys:
        try:
            check_stress_unit(keys["stress"], units)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    found = frozenset(quantity for quantity in keys if given[quantity] is None)
    return LabelNames(keys, others, found, remarks)


def quoted_labels(keys: dict[str, str], units: Units) -> str:
    """``energy 'REF_energy', forces 'forces'``; the stress with its sign, unit and order."""
    return ", ".join(
        how_read(name, units) if quantity == "stress" else f"{quantity} {name!r}"
        for quantity, name in keys.items()
    )


def without_partial_stress(frames: list[dict], labels: LabelNames) -> list[str]:
    """Take a stress out that was found by its usual name and that not all periodic frames have.

    Frames that do not repeat have none. Returns remarks.
    """
    if "stress" not in labels.keys:
        return []
    lacking = [index for index, frame in enumerate(frames) if frame["stress"] is None]
    if not lacking:
        return []
    name = labels.keys.pop("stress")
    for frame in frames:
        del frame["stress"]
    return [f"note: {name!r} is not read: frame {lacking[0]} is periodic and has none"]


def is_zero(name: str, atoms: ase.Atoms) -> bool:
    """Whether a label that a frame lacks is zero: forces of a single atom, the stress of an open
    structure or of an atom alone in a large cell.
    """
    if name == "forces":
        return len(atoms) == 1
    far = len(atoms) == 1 and min(atoms.cell.lengths()) >= LONE_SPACING
    return name == "stress" and (far or not atoms.pbc.any())


def check_same_label(
    path: Path, index: int, name: str, keys: tuple[str, str], held: dict, atoms: ase.Atoms
) -> None:
    """``ValueError`` for two names of one label with different values."""
    one, two = (frame_label(path, index, name, key, held, atoms) for key in keys)
    if one.shape == two.shape and np.allclose(one, two, rtol=1e-5, atol=1e-8):
        return
    raise ValueError(
        f"{path}: {keys[0]!r} and {keys[1]!r} of frame {index} both name the {name} and differ; "
        f"give --{name}-key {keys[0]} or --{name}-key {keys[1]}"
    )


def frame_label(path: Path, index: int, name: str, key: str, held: dict, atoms) -> np.ndarray:
    """The label ``name``, called ``key`` in the file, as numbers; a virial as a stress."""
    if key not in held:
        there = ", ".join(sorted(set(held) - {"numbers", "positions"})) or "nothing more"
        raise ValueError(
            f"{path}: frame {index} has no {name} {key!r} (it holds {there}); give --{name}-key"
        )

    try:
        values = np.asarray(held[key], dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"{path}: {name} {key!r} of frame {index} must be numbers, got {held[key]!r}; "
            f"give --{name}-key"
        ) from None

    # a stress as a matrix, from whatever the file has
    try:
        return as_stress(key, values, np.array(atoms.cell)) if name == "stress" else values
    except ValueError as error:
        raise ValueError(f"{path}: frame {index}: {error}") from None
