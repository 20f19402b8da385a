"""Structures from extended xyz files with energies and forces, read by ase.

3BPA, AcAc and most published sets have this format.

ase takes values that stand under its own names (``energy``, ``forces``, ``stress``) out of the
comment line and the columns and puts them into a calculator; others (``REF_energy``,
``DFT_forces``) stay where they are. Both are looked up here by the name in the file, a usual one
unless it is given; two usual names with different values are refused. Stress and virials: see
:mod:`farfield.dataloader.sources.stress_labels`. A single atom may lack forces and stress: they are
zero. Partial charges are a column, a dipole is a vector of the comment line: see
:mod:`farfield.dataloader.sources.charge_labels`. All other numbers of the comment line that every
frame has (``charge``, ``spin``) are kept as inputs. Remarks of the structures say what was read.
Cost: about 0.2 ms per frame of 27 atoms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from farfield.dataloader.sources.charge_labels import (
    TOTAL_CHARGE,
    USUAL,
    FoundLabel,
    charge_label_names,
    with_charge_labels,
)
from farfield.dataloader.sources.extxyz_columns import check_columns
from farfield.dataloader.sources.file_formats import FILE_FORMATS, FileFormat, FileReading
from farfield.dataloader.sources.frame_labels import (
    LabelNames,
    check_same_label,
    chosen_labels,
    frame_label,
    is_zero,
    quoted_labels,
    without_partial_stress,
)
from farfield.dataloader.sources.label_names import usual_names
from farfield.dataloader.sources.npz import in_project_units
from farfield.dataloader.sources.stress_labels import stress_remarks
from farfield.dataloader.structure_inputs import common_inputs, is_number
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import Units

if TYPE_CHECKING:
    import ase

NAME_KEYS = ("name", "config_type")  # of the comment line, that name a structure
MUST_BE_NUMBERS = ("total_charge", "charge", "spin")  # of the comment line, where they are
LABELS = ("energy", "free_energy", "forces", "stress", "virial", "virials")  # are never inputs


def read_extxyz(
    path: str | Path,
    units: Units | None = None,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    periodic: bool | None = None,
    progress: Callable[[int], None] | None = None,
    charge_keys: Mapping[str, str] | None = None,
) -> Structures:
    """All frames of an extended xyz file, in eV and Angstrom.

    units       of the file (None: eV and Angstrom, as ase has it)
    energy_key  name of the energy in the file (None: a usual one, see label_names)
    forces_key  name of the forces (None: a usual one; "absent": read without forces)
    stress_key  name of the stress or virial (None: a usual one, see stress_labels, that every
                periodic frame has; "absent": read without stress)
    periodic    None takes the pbc of the file, False reads its structures as open
    progress    called after each frame with 1
    charge_keys charges, dipole or total_charge -> name, where it is not a usual one; charges and
                dipole may be "absent": read without them

    ``FileNotFoundError``, or ``ValueError`` with the file, the frame, the key and the keys that are
    there.
    """
    path, units = Path(path), units or Units()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give an extended xyz file")

    check_columns(path)
    read = list(_frames(path, progress))
    if not read:
        raise ValueError(f"{path} holds no frame; give an extended xyz file")
    named = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
    return structures_of_frames(path, read, units, named, periodic, charge_keys)


def structures_of_frames(
    path: Path,
    read: Sequence[ase.Atoms],
    units: Units,
    given: Mapping[str, str | None],
    periodic: bool | None = None,
    charge_keys: Mapping[str, str] | None = None,
) -> Structures:
    """Structures of frames, one or more, that a reader of any format has made.

    path: for messages. given: energy, forces and stress -> name, None for a usual one. The other
    arguments and the errors are those of :func:`read_extxyz`.
    """
    # the first frame of several atoms decides which of the usual names the file has
    telling = _held(_first_of_several_atoms(read))
    repeating = [] if periodic is False else [atoms for atoms in read if atoms.pbc.any()]
    of_stress = _held(_first_of_several_atoms(repeating)) if repeating else {}
    held = {"energy": telling, "forces": telling, "stress": of_stress}
    labels = chosen_labels(path, given, held, units)
    charge_keys = charge_keys or {}
    charge_names = charge_label_names(charge_keys, telling)

    frames, charge_labels = [], []
    for index, atoms in enumerate(read):
        own = _held(atoms)
        frames.append(_read_frame(path, index, atoms, own, labels))
        charge_labels.append({name: own.get(name) for name in charge_names.values()})

    # a stress that nobody asked for is read where all periodic frames have it
    remarks = without_partial_stress(frames, labels)
    remarks = [f"labels {quoted_labels(labels.keys, units)}", *labels.remarks, *remarks]

    # numbers that every frame has
    inputs, dropped = common_inputs([frame.pop("inputs") for frame in frames])
    remarks += _about_inputs(inputs, dropped)
    structures = _joined(path, frames, units, periodic, inputs)
    structures.remarks = (*remarks, *stress_remarks(structures.stress))
    return _with_charges(path, structures, charge_names, charge_labels, charge_keys, units)


def _with_charges(
    path: Path,
    structures: Structures,
    names: Mapping[str, str],
    rows: list[dict[str, object]],
    keys: Mapping[str, str],
    units: Units | None,
) -> Structures:
    """The structures with their charges and dipoles.

    names: of both in the file. rows: values of each frame by these names, None where it has none.
    """
    found = {}
    for quantity, name in names.items():
        values = _flat(quantity, [row[name] for row in rows], structures.counts, units)
        found[quantity] = FoundLabel(name, values, given=quantity in keys)
    try:
        return with_charge_labels(structures, found, keys.get(TOTAL_CHARGE))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _flat(quantity: str, rows: list[object], counts: np.ndarray, units: Units | None) -> np.ndarray:
    """Charges (atoms,) in e or dipoles (structures, 3) in e Angstrom of all frames.

    rows: of each frame, None where it has none; nan stands for what cannot be read.
    """
    parts = []
    for row, count in zip(rows, counts.tolist(), strict=True):
        shape = (count,) if quantity == "charges" else (3,)
        values = np.asarray(row)
        fits = values.shape == shape and np.issubdtype(values.dtype, np.number)
        parts.append(np.asarray(values, np.float64) if fits else np.full(shape, np.nan))
    if quantity == "charges":
        return np.concatenate(parts)
    return np.stack(parts) * (units or Units()).length_factor


def _frames(path: Path, progress: Callable[[int], None] | None) -> Iterator[ase.Atoms]:
    """Frames one after the other; ``ValueError`` with the frame that cannot be read."""
    import ase.io.extxyz  # half a second that scripts for other files do not wait for

    # what ase raises for a damaged file, in its parser and below it
    damage = (ase.io.ParseError, ase.io.extxyz.XYZError, ValueError, LookupError, RuntimeError)
    done = 0
    try:
        for atoms in ase.io.iread(path, index=":", format="extxyz"):
            yield atoms
            done += 1
            if progress is not None:
                progress(1)
    except damage as error:
        raise ValueError(
            f"{path}: frame {done} cannot be read as extended xyz ({error}); correct the file"
        ) from None


def _held(atoms: ase.Atoms) -> dict:
    """All values of a frame by their names in the file."""
    held = dict(atoms.info) | dict(atoms.arrays)
    if atoms.calc is not None:
        held |= {name: value for name, value in atoms.calc.results.items() if value is not None}
    return held


def _first_of_several_atoms(frames: Sequence[ase.Atoms]) -> ase.Atoms:
    """The first frame of several atoms, else the first: single atoms often lack labels."""
    return next((atoms for atoms in frames if len(atoms) > 1), frames[0])


def _read_frame(path: Path, index: int, atoms, held: dict, labels: LabelNames) -> dict:
    """Arrays of one frame by their names in ``Structures``.

    held: all values of the frame. A stress that the frame lacks is None if it was not asked for.
    """
    named = [str(atoms.info[key]) for key in NAME_KEYS if key in atoms.info]
    frame = {
        "atomic_numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": np.array(atoms.cell),
        "periodic": np.array(atoms.pbc),
        "names": named[0] if named else "",
        "inputs": _input_values(path, index, atoms.info, labels.keys),
    }

    shapes = {"energy": (), "forces": atoms.positions.shape, "stress": (3, 3)}
    for name, key in labels.keys.items():
        if key not in held and is_zero(name, atoms):
            frame[name] = np.zeros(shapes[name])
            continue
        if key not in held and name == "stress" and name in labels.found:
            frame[name] = None
            continue

        frame[name] = frame_label(path, index, name, key, held, atoms)
        if frame[name].shape != shapes[name]:
            raise ValueError(
                f"{path}: {name} {key!r} of frame {index} must have the shape {shapes[name]}, got "
                f"{frame[name].shape}"
            )
        for other in labels.others.get(name, []):
            if other in held:
                check_same_label(path, index, name, (key, other), held, atoms)
    return frame


def _input_values(path: Path, index: int, info: dict, keys: dict[str, str]) -> dict:
    """Values of the comment line of a frame that may be inputs: neither labels nor names."""
    for name in MUST_BE_NUMBERS:
        if name in info and not is_number(info[name]):
            raise ValueError(
                f"{path}: {name} must be a number in every frame, frame {index} has {info[name]!r}"
            )
    labels = {name for quantity in LABELS for name in usual_names(quantity)}
    others = labels | set(keys.values()) | set(NAME_KEYS)
    return {
        name: value for name, value in info.items() if name not in others and name.isidentifier()
    }


def _about_inputs(inputs: dict, dropped: list[str]) -> list[str]:
    """Remarks that name the inputs, and numbers that only some frames have."""
    remarks = []
    if inputs:
        remarks.append(f"inputs {', '.join(inputs)} (a network reads them with --condition)")
    if dropped:
        remarks.append(f"note: not in every frame, so not kept: {', '.join(dropped)}")
    return remarks


def _joined(
    path: Path,
    frames: list[dict],
    units: Units,
    periodic: bool | None,
    inputs: dict[str, np.ndarray],
) -> Structures:
    """All frames laid end to end; periodic: None as the file says, False all open."""
    columns = {name: [frame[name] for frame in frames] for name in frames[0]}
    arrays = {"counts": np.array([len(positions) for positions in columns["positions"]])}

    # atoms end to end, everything else a row for each frame
    for name, values in columns.items():
        per_atom = name in ("atomic_numbers", "positions", "forces")
        arrays[name] = np.concatenate(values) if per_atom else np.stack(values)

    if periodic and not arrays["periodic"].any():
        raise ValueError(
            f"{path} has no periodic frame (pbc is F everywhere) for --periodic; leave it out"
        )
    if periodic is False or not arrays["periodic"].any():
        for name in ("cell", "periodic"):
            del arrays[name]
    try:
        return in_project_units(arrays, units, extra=inputs)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read_format(path: Path, how: FileReading, progress: Callable[[int], object]) -> Structures:
    charges = (*USUAL, TOTAL_CHARGE)
    keys = {f"{name}_key": key for name, key in how.keys.items() if name not in charges}
    return read_extxyz(
        path,
        how.units,
        stress_key=how.stress_key,
        periodic=how.periodic,
        progress=progress,
        charge_keys={name: key for name, key in how.keys.items() if name in charges},
        **keys,
    )


FORMAT = FileFormat(_read_format, renames=("energy", "forces", *USUAL, TOTAL_CHARGE))
FILE_FORMATS.register(".xyz")(FORMAT)
FILE_FORMATS.register(".extxyz")(FORMAT)
