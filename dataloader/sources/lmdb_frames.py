"""LMDB files of published sets, read where they lie: ``.aselmdb`` and ``.lmdb``.

    .aselmdb   databases of ase-db-backends (OMat24, OMol25): keys 1, 2, ..., values json
               packed by zlib; labels are those of a calculator of ASE, charge and spin stand in
               ``data``
    .lmdb      files of fairchem and the Open Catalyst Project (OC20, OC22): keys 0, 1, ..., values
               pickled Data of torch_geometric or dictionaries, read without running what they name
               (``plain_pickles.py``); ``pos``, ``atomic_numbers``, ``cell``, ``pbc``, ``y`` or
               ``energy``, ``force`` or ``forces``. Also what preprocess_structures has written.

Every record becomes a frame of ASE; labels, units and charges are then found as in extended xyz
files (``extxyz.py``). Some thousand frames are in memory at a time. Cost: 0.2 ms for a frame.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from farfield.dataloader.sources.charge_labels import TOTAL_CHARGE, USUAL
from farfield.dataloader.sources.extxyz import structures_of_frames
from farfield.dataloader.sources.file_formats import FILE_FORMATS, FileFormat, FileReading
from farfield.dataloader.sources.plain_pickles import read_plain_pickle
from farfield.dataloader.storage.lmdb_files import LmdbFile, open_lmdb
from farfield.dataloader.storage.structure_lmdb import StructureLmdb, is_structure_lmdb
from farfield.dataloader.structures import Structures

if TYPE_CHECKING:
    import ase

FRAMES_PER_STEP = 4000
HINT = "give a whole LMDB file of structures"
NOT_KEPT = ("natoms", "fixed", "tags", "sid", "fid", "id", "nads", "ctime", "mtime")

# name in an old file of the Open Catalyst Project -> name today
FORMER_LABELS = {"y": "energy", "y_relaxed": "energy_relaxed", "force": "forces"}


class _Unreadable(ValueError):
    """What is wrong with a record, in one line."""


def read_aselmdb(path: Path, how: FileReading, progress: Callable[[int], object]) -> Structures:
    """All structures of a database of ase-db-backends; errors as in :func:`read_lmdb`."""
    file = open_lmdb(path, HINT)
    keys = sorted((key for key in file.all_keys() if key.isdigit()), key=int)
    return _structures(path, _frames(file, keys, _row_frame), how, progress)


def read_lmdb(path: Path, how: FileReading, progress: Callable[[int], object]) -> Structures:
    """All structures of an LMDB file of fairchem, or of preprocess_structures.

    ``FileNotFoundError`` or ``ValueError`` in one line with the file and the record.
    """
    if is_structure_lmdb(path, HINT):
        own = StructureLmdb.open(path, HINT)
        structures = own.read(np.arange(len(own)))
        progress(len(own))
        return structures
    file = open_lmdb(path, HINT)
    keys = sorted((key for key in file.all_keys() if key.isdigit()), key=int)
    return _structures(path, _frames(file, keys, _pickled_frame), how, progress)


def _structures(
    path: Path,
    frames: Iterator[ase.Atoms],
    how: FileReading,
    progress: Callable[[int], object],
) -> Structures:
    """Structures of all frames, some thousand at a time."""
    of_charge = (*USUAL, TOTAL_CHARGE)
    given = {name: how.keys.get(name) for name in ("energy", "forces")}
    given["stress"] = how.stress_key
    charges = {name: key for name, key in how.keys.items() if name in of_charge}

    parts = []
    while group := list(islice(frames, FRAMES_PER_STEP)):
        parts.append(structures_of_frames(path, group, how.units, given, how.periodic, charges))
        progress(len(group))
    if not parts:
        raise ValueError(f"{path} holds no structure with a number as its key; {HINT}")
    try:
        joined = Structures.concatenate(parts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None

    joined.remarks = tuple(dict.fromkeys(line for part in parts for line in part.remarks))
    return joined


def _frames(
    file: LmdbFile, keys: list[bytes], made: Callable[[memoryview], ase.Atoms]
) -> Iterator[ase.Atoms]:
    """Frames of the records in the order of the keys; ``ValueError`` that names the record."""
    for key in keys:
        try:
            with file.reading() as get:
                content = get(key)
                if content is None:  # the key stands in a damaged page
                    raise _Unreadable("it is missing")
                frame = made(content)
        except _Unreadable as error:
            raise ValueError(f"{file.path}: record {key.decode()}: {error}") from None
        yield frame


# ---- rows of ase-db-backends


def _row_frame(content: memoryview) -> ase.Atoms:
    """A row as a frame."""
    try:
        row = json.loads(zlib.decompress(content), object_hook=_array)
    except (zlib.error, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _Unreadable(f"it cannot be unpacked ({_line(error)})") from None
    if not isinstance(row, dict):
        raise _Unreadable(f"it holds {type(row).__name__}, not a row of a database")

    # numbers of the user, and what a calculator of ASE has left
    words = {}
    for part in ("key_value_pairs", "data"):
        held = row.get(part) or {}
        if not isinstance(held, dict):
            raise _Unreadable(f"its {part} are {type(held).__name__}, not names with values")
        words |= held
    labels = {
        name: row[name]
        for name in ("energy", "free_energy", "forces", "stress", "dipole", "charges", "magmoms")
        if row.get(name) is not None
    }
    return _frame(
        row.get("numbers"), row.get("positions"), row.get("cell"), row.get("pbc"), words | labels
    )


def _array(value: dict) -> Any:
    """An array of a row: its shape, its type and its numbers."""
    if set(value) != {"__ndarray__"}:
        return value
    shape, kind, numbers = value["__ndarray__"]
    if np.dtype(kind).hasobject:
        raise ValueError(f"an array of the type {kind}")
    return np.array(numbers, kind).reshape(shape)


# ---- pickles of fairchem


def _pickled_frame(content: memoryview) -> ase.Atoms:
    """A pickled record as a frame."""
    try:
        record = read_plain_pickle(content)
    except ValueError as error:
        raise _Unreadable(str(error)) from None
    record = _record(record)
    words = {FORMER_LABELS.get(name, name): value for name, value in record.items()}
    numbers, positions = words.pop("atomic_numbers", None), words.pop("pos", None)
    cell, periodic = words.pop("cell", None), words.pop("pbc", None)

    # the Open Catalyst Project wrote no pbc: its cells repeat
    if periodic is None and cell is not None:
        periodic = np.full(3, bool(np.any(cell)))
    return _frame(numbers, positions, cell, periodic, words)


def _record(record: Any) -> Mapping[str, Any]:
    """The values of a record: a dictionary, or what Data of torch_geometric holds."""
    if isinstance(record, dict) and isinstance(record.get("_store"), dict):
        record = record["_store"].get("_mapping", {})
    if not isinstance(record, dict):
        raise _Unreadable(f"it holds {type(record).__name__}, not a dictionary of arrays")
    return {name: value for name, value in record.items() if value is not None}


def _frame(numbers, positions, cell, periodic, words: Mapping[str, Any]) -> ase.Atoms:
    """A frame of ASE with everything that the record says."""
    import ase  # half a second that scripts for other files do not wait for

    if numbers is None or positions is None:
        raise _Unreadable(f"it has no atomic numbers or no positions ({', '.join(words)})")
    try:
        numbers = np.asarray(numbers, np.float64).astype(np.int64).reshape(-1)
        positions = np.asarray(positions, np.float64).reshape(-1, 3)
        cell = None if cell is None else np.asarray(cell, np.float64).reshape(3, 3)
        periodic = None if periodic is None else np.asarray(periodic, bool).reshape(-1)
        frame = ase.Atoms(numbers, positions, cell=cell, pbc=periodic)
    except (ValueError, TypeError, OverflowError, IndexError, KeyError) as error:
        raise _Unreadable(f"it is no structure ({_line(error)})") from None

    frame.info = {
        name: _value(value)
        for name, value in words.items()
        if name not in NOT_KEPT and isinstance(name, str)
    }
    return frame


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _value(value: Any) -> Any:
    """Numbers of one entry as numbers; labels of one structure without their first axis."""
    if not isinstance(value, np.ndarray):
        return value
    if value.size == 1:
        return value.reshape(())[()]
    return value[0] if value.ndim > 1 and len(value) == 1 else value


RENAMES = ("energy", "forces", *USUAL, TOTAL_CHARGE)
FILE_FORMATS.register(".aselmdb")(FileFormat(read_aselmdb, RENAMES))
FILE_FORMATS.register(".lmdb")(FileFormat(read_lmdb, RENAMES))
