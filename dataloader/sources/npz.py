"""Structures from npz files: one molecule in many frames, or a ragged set.

    array              fixed                                 ragged
    numbers            (atoms,)                              (all atoms,)
    positions, forces  (structures, atoms, 3)                (all atoms, 3)
    energy             (structures,) or (structures, 1)      (structures,) or (structures, 1)
    charges            (structures, atoms)                   (all atoms,)
    dipole             (structures, 3)                       (structures, 3)
    total charge       (structures,), (structures, 1), ()    (structures,), (structures, 1), ()
    n_atoms            (no such array)                       (structures,)

The names of the arrays are looked for among the usual ones (:data:`KEYS`; charges and dipoles:
:mod:`farfield.dataloader.sources.charge_labels`) unless they are given.
Units are given, never guessed; where a file states its units (``r_unit``, ``e_unit`` of sGDML
files) and they differ, that is an error. Other arrays with one number for each structure become
``extra``, in the units of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from farfield.dataloader.sources.charge_labels import (
    TOTAL_CHARGE,
    USUAL,
    FoundLabel,
    charge_label_names,
    with_charge_labels,
)
from farfield.dataloader.sources.file_formats import ABSENT, FILE_FORMATS, FileFormat, FileReading
from farfield.dataloader.sources.stress_labels import (
    as_stress,
    check_stress_unit,
    chosen_stress,
    how_read,
    stress_names,
    stress_remarks,
)
from farfield.dataloader.storage import files
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import Units

KEYS = {
    "numbers": ("z", "Z", "nuclear_charges", "atomic_numbers", "numbers"),
    "positions": ("R", "coords", "positions"),
    "energy": ("E", "energies", "energy"),
    "forces": ("F", "forces"),
}
COUNTS, CELL = "n_atoms", "cell"
OTHER_CELLS = ("lattice", "box", "pbc", "cells", "unit_cell")  # may be cells, and are not read
STATED_UNITS = {  # what sGDML files call the units
    "e_unit": {
        "kcal/mol": "kcal/mol",
        "ev": "eV",
        "mev": "meV",
        "hartree": "hartree",
        "ha": "hartree",
        "kj/mol": "kJ/mol",
    },
    "r_unit": {"ang": "Angstrom", "angstrom": "Angstrom", "bohr": "bohr", "nm": "nm"},
}
WHOLE_FILE_HINT = "give a whole npz file with atomic numbers, positions, energies and forces"


def read_npz(
    path: str | Path,
    units: Units,
    keys: Mapping[str, str] | None = None,
    periodic: bool | None = None,
    stress_key: str | None = None,
) -> Structures:
    """Structures of an npz file, in eV and Angstrom.

    units       of the file
    keys        numbers, positions, energy, forces, charges, dipole or total_charge -> array, where
                its name is not a usual one; forces, charges and dipole may be "absent": read
                without them
    periodic    whether the cells of a file that has them repeat; it must be said
    stress_key  array (structures, 3, 3) or (structures, 6) in Voigt's order, a stress or a virial
                of cells that repeat (None: a usual name, see stress_labels; "absent": without)

    ``FileNotFoundError`` or ``ValueError`` with the file: damaged, a name that is not there (and
    those that are), shapes that do not fit, other units.
    """
    files.read_npz(path, (), WHOLE_FILE_HINT)  # whole and readable
    with np.load(path, allow_pickle=False) as archive:
        held = archive.files
    keys = keys or {}
    names = _find_keys(path, held, keys)
    stress = _stress_name(path, stress_key, held, units, periodic)

    used = {*names.values(), COUNTS, CELL} | ({stress} if stress else set())
    content = _read(path, held, used)
    _check_other_names(path, content, names, keys)
    _check_stated_units(path, content, units)
    arrays = {quantity: content[name] for quantity, name in names.items()}
    try:
        flat = _ragged(arrays, content[COUNTS]) if COUNTS in content else _fixed(arrays)
        box = _cells(content, len(flat["counts"]), periodic)
        if stress is not None:
            box["stress"] = _stresses(stress, content[stress], box["cell"])

        # further numbers, one for each structure, and the labels of charge
        others = {name: values for name, values in content.items() if name not in used}
        extra = _extra(others, len(flat["counts"]), keys.get(TOTAL_CHARGE))
        theory = _text(content.get("theory", ""))
        structures = in_project_units(flat | box, units, extra=extra, theory=theory)
        if stress is not None:
            said = f"labels {how_read(stress, units)}"
            structures.remarks = (said, *stress_remarks(structures.stress))
        found = _charge_labels(others, structures, keys, units)
        return with_charge_labels(structures, found, keys.get(TOTAL_CHARGE))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _stress_name(
    path, given: str | None, held: list[str], units: Units, periodic: bool | None
) -> str | None:
    """The array of the stress or virial, None to read without; ``ValueError`` for a given name that
    cannot be read, and for several usual names.
    """
    name = chosen_stress(given, held if periodic else ())
    if name is None:
        return None

    why = "" if periodic else "stress needs cells that repeat, --periodic"
    if name not in held:
        why = f"it holds {', '.join(held)}"
    if why:
        raise ValueError(
            f"{path}: no stress can be read from {name!r} ({why}); leave --stress-key out, or "
            "give another"
        )
    usual = stress_names(held)
    if given is None and len(usual) > 1:
        raise ValueError(
            f"{path}: {' and '.join(map(repr, usual))} all name the stress; give --stress-key "
            f"{usual[0]}, or --stress-key {ABSENT} to read without"
        )
    try:
        check_stress_unit(name, units)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return name


def _stresses(name: str, values: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Stresses (structures, 3, 3) of an array with a row for each structure, units of the file."""
    if len(values) != len(cells):
        raise ValueError(
            f"{name!r} must have a row for each of the {len(cells)} structures, got the shape "
            f"{values.shape}"
        )
    pairs = zip(np.asarray(values, np.float64), cells, strict=True)
    return np.stack([as_stress(name, row, cell) for row, cell in pairs])


def in_project_units(arrays: dict[str, np.ndarray], units: Units, **more) -> Structures:
    """``Structures`` of arrays in ``units``; more: what has no unit."""
    factors = {
        "positions": units.length_factor,
        "energy": units.energy_factor,
        "forces": units.force_factor,
        "cell": units.length_factor,
        "stress": units.stress_factor,
    }
    converted = {
        name: np.asarray(values, np.float64) * factors[name] if name in factors else values
        for name, values in arrays.items()
    }
    return Structures(**converted, **more)


def _find_keys(path, held: list[str], given: Mapping[str, str]) -> dict[str, str]:
    """Quantity -> its name among the arrays ``held`` of the file."""
    found = {}
    for quantity, usual in KEYS.items():
        key = given.get(quantity)
        if quantity == "forces" and key == ABSENT:
            continue

        # the given name, or the first of the usual ones
        accepted = (key,) if key else usual
        names = [name for name in accepted if name in held]
        if not names:
            option = f"give --{quantity}-key"
            if quantity == "forces":
                option += f" (or --{quantity}-key {ABSENT})"
            raise ValueError(
                f"{path} has no {quantity} {' or '.join(map(repr, accepted))} (it holds "
                f"{', '.join(held) or 'nothing'}); {option}"
            )
        found[quantity] = names[0]
    return found


def _check_other_names(
    path, content: dict, names: Mapping[str, str], given: Mapping[str, str]
) -> None:
    """Raise ValueError where another usual name of a quantity has other values, and nobody chose.

    One of two energies is often that of another program.
    """
    for quantity, name in names.items():
        others = [other for other in KEYS[quantity] if other in content and other != name]
        for other in others if quantity not in given else ():
            if not np.array_equal(content[name], content[other]):
                raise ValueError(
                    f"{path}: {name!r} and {other!r} both name the {quantity} and differ; give "
                    f"--{quantity}-key {name} or --{quantity}-key {other}"
                )


def _check_stated_units(path, content: dict, units: Units):
    for key, expected, option in (
        ("e_unit", units.energy, "--energy-unit"),
        ("r_unit", units.length, "--length-unit"),
    ):
        stated = _text(content[key]) if key in content else None
        if stated and STATED_UNITS[key].get(stated.lower()) != expected:
            raise ValueError(
                f"{path} says {key} = {stated!r}, it would be read as {expected}; give the "
                f"fitting {option}"
            )


def _read(path, held: list[str], used: set[str]) -> dict[str, np.ndarray]:
    """The arrays that are used, and all others except pickled objects.

    Published files hold pickled objects, and nobody should load them.
    """
    content = files.read_npz(path, [name for name in held if name in used], WHOLE_FILE_HINT)
    for name in held:
        if name in used:
            continue
        try:
            content |= files.read_npz(path, (name,), WHOLE_FILE_HINT)
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
    return content


def _extra(
    others: dict[str, np.ndarray], count: int, total_charge: str | None
) -> dict[str, np.ndarray]:
    """Numbers for each structure by name; a total charge may be one number for all of them.

    others: the arrays that are not read otherwise. total_charge: its name, if the user gave one.
    """
    found = {}
    for name, values in others.items():
        if not np.issubdtype(values.dtype, np.number):
            continue
        if name in (total_charge, TOTAL_CHARGE, "charge"):
            if values.size == 1:
                values = np.broadcast_to(values.reshape(-1), (count,))
            elif values.shape == (count, 1):
                values = values[:, 0]
        if values.shape == (count,):
            found[name] = values
    return found


def _charge_labels(
    others: dict[str, np.ndarray], structures: Structures, keys: Mapping[str, str], units: Units
) -> dict[str, FoundLabel]:
    """Charges and dipoles of the file, flat; ``ValueError`` for a given name that is not there."""
    found = {}
    for quantity, name in charge_label_names(keys, others).items():
        if name not in others:
            raise ValueError(
                f"there is no further array {name!r} (there are {', '.join(others) or 'none'}); "
                f"give another --{quantity}-key"
            )

        # (frames, atoms) or (all atoms, 1) -> (all atoms,)
        values = others[name]
        if quantity == "charges" and values.size == structures.num_atoms and values.ndim > 1:
            values = values.reshape(-1)
        if quantity == "dipole" and np.issubdtype(values.dtype, np.number):
            values = values * units.length_factor
        found[quantity] = FoundLabel(name, values, given=quantity in keys)
    return found


def _text(value) -> str:
    value = next(iter(np.asarray(value).reshape(-1)), "")
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _fixed(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One molecule in many frames, laid end to end."""
    positions, numbers = arrays["positions"], arrays["numbers"].reshape(-1)
    if positions.ndim != 3 or positions.shape[1:] != (len(numbers), 3):
        raise ValueError(
            f"positions must have the shape (structures, {len(numbers)}, 3) for {len(numbers)} "
            f"atomic numbers, got {positions.shape}; a ragged file needs {COUNTS!r}"
        )
    if "forces" in arrays and arrays["forces"].shape != positions.shape:
        raise ValueError(
            f"forces must have the shape of the positions {positions.shape}, got "
            f"{arrays['forces'].shape}"
        )

    # (frames, atoms, 3) -> (frames * atoms, 3)
    frames = len(positions)
    flat = {name: arrays[name].reshape(-1, 3) for name in ("positions", "forces") if name in arrays}
    return flat | {
        "atomic_numbers": np.tile(_whole(numbers), frames),
        "counts": np.full(frames, len(numbers)),
        "energy": _energy(arrays, frames),
    }


def _ragged(arrays: dict[str, np.ndarray], counts: np.ndarray) -> dict[str, np.ndarray]:
    if counts.ndim != 1:
        raise ValueError(
            f"{COUNTS} must be a list with one number for each structure, got the shape "
            f"{counts.shape}"
        )
    counts = _whole(counts)
    flat = {name: arrays[name] for name in ("positions", "forces") if name in arrays}
    return flat | {
        "atomic_numbers": _whole(arrays["numbers"]),
        "counts": counts,
        "energy": _energy(arrays, len(counts)),
    }


def _energy(arrays: dict[str, np.ndarray], structures: int) -> np.ndarray:
    energy = arrays["energy"]
    if energy.shape not in ((structures,), (structures, 1)):
        raise ValueError(
            f"energy must have the shape ({structures},) or ({structures}, 1), got {energy.shape}"
        )
    return energy.reshape(-1)


def _whole(values: np.ndarray) -> np.ndarray:
    if not np.issubdtype(values.dtype, np.integer) and not np.issubdtype(values.dtype, np.floating):
        shown = ", ".join(map(str, values.reshape(-1)[:3]))
        raise ValueError(
            f"atomic numbers and counts must be numbers, got {shown}, ... ({values.dtype})"
        )
    whole = np.nan_to_num(values).astype(np.int64)
    if not np.array_equal(whole, values):
        raise ValueError(
            f"atomic numbers and counts must be whole, got {values[whole != values][:3].tolist()}"
        )
    return whole


def _cells(
    content: dict[str, np.ndarray], structures: int, periodic: bool | None
) -> dict[str, np.ndarray]:
    """Cells that repeat, or nothing; ``ValueError`` where the user must say which."""
    if CELL not in content:
        _check_without_cell(content, periodic)
        return {}
    if periodic is None:
        raise ValueError(
            "the structures have a cell: say with --periodic or --no-periodic whether it repeats"
        )

    if not periodic:
        return {}
    return {
        "cell": np.broadcast_to(content[CELL], (structures, 3, 3)),
        "periodic": np.ones((structures, 3), bool),
    }


def _check_without_cell(content: dict[str, np.ndarray], periodic: bool | None) -> None:
    if periodic:
        raise ValueError(
            f"there is no array {CELL!r} (structures, 3, 3) for --periodic; leave it out for "
            "open structures"
        )
    others = [name for name in OTHER_CELLS if name in content]
    if others and periodic is None:
        raise ValueError(
            f"cells must be named {CELL!r}, there is {others[0]!r}: name them so, or say "
            "--no-periodic for open structures"
        )


def _read_format(path: Path, how: FileReading, progress: Callable[[int], object]) -> Structures:
    return read_npz(path, how.units, how.keys, how.periodic, how.stress_key)


FILE_FORMATS.register(".npz")(FileFormat(_read_format, renames=(*KEYS, *USUAL, TOTAL_CHARGE)))
