"""Formats of files with structures that users have: readers by suffix.

A new format is one file in this folder with one registration:

    FILE_FORMATS.register(".lmdb")(FileFormat(read_lmdb, renames=("energy", "forces")))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from farfield.dataloader.structures import Structures
from farfield.dataloader.units import Units
from farfield.models.choices import Registry

ABSENT = "absent"  # instead of the name of forces, charges or dipole: read without them


@dataclasses.dataclass(frozen=True)
class FileReading:
    """How a file is read.

    units: of the file. keys: numbers, positions, energy, forces, charges, dipole or total_charge ->
    its name in the file, where it is not a usual one; forces, charges and dipole may be "absent".
    stress_key: name of the stress or virial (None: a usual one; "absent": without).
    periodic: whether the cells repeat (None: as the file says).
    """

    units: Units = Units()
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stress_key: str | None = None
    periodic: bool | None = None


@dataclasses.dataclass(frozen=True)
class FileFormat:
    """One format.

    read: (path, how, progress) -> structures in eV and Angstrom; progress is called with the number
    of frames read since the last call. renames: which of the keys
    of `FileReading` may have another name in the file.
    """

    read: Callable[[Path, FileReading, Callable[[int], object]], Structures]
    renames: tuple[str, ...]


FILE_FORMATS: Registry[FileFormat] = Registry(
    "suffix of a file of structures", package="farfield.dataloader.sources"
)
