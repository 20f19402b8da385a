"""Structures from extended xyz files with energies and forces (3BPA, AcAc and most published sets),
read by ase.

ase takes values that stand under its own names (``energy``, ``forces``, ``stress``) out of the
comment line and the columns and puts them into a calculator; others (``REF_energy``,
``DFT_forces``) stay where they are. Both are looked up here by the name in the file. Stress is
ase's: (dE/dstrain) / volume, given as 6 Voigt numbers (xx yy zz yz xz xy) or 3 x 3. Cost: about 0.2
ms per frame of 27 atoms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from farfield.dataloader.sources.file_formats import (
    ABSENT,
    FILE_FORMATS,
    FileFormat,
    FileReading,
)
from farfield.dataloader.sources.npz import full_stress, in_project_units
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import Units

if TYPE_CHECKING:
    import ase

NAME_KEYS = ("name", "config_type")  # of the comment line, that name a structure


def read_extxyz(
    path: str | Path,
    units: Units | None = None,
    energy_key: str = "energy",
    forces_key: str = "forces",
    stress_key: str | None = None,
    periodic: bool | None = None,
    progress: Callable[[int], None] | None = None,
) -> Structures:
    """All frames of an extended xyz file, in eV and Angstrom.

    units: of the file (default: eV and Angstrom, as ase has it). energy_key, forces_key ("absent":
    without), stress_key (None: without). periodic: None takes the pbc of the file, False reads its
    structures as open. progress: called after each frame with 1. Raises ``FileNotFoundError``, or
    ``ValueError`` with the file, the frame, the key and the keys that are there.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give an extended xyz file")
    if stress_key and "virial" in stress_key.lower():
        raise ValueError(
            f"{path}: {stress_key!r} names a virial, which is -volume x stress; write the stress "
            "into the file first"
        )
    keys = {
        "energy": energy_key,
        "forces": None if forces_key == ABSENT else forces_key,
        "stress": stress_key,
    }
    keys = {name: key for name, key in keys.items() if key is not None}
    frames = []
    for index, atoms in enumerate(_frames(path)):
        frames.append(_read_frame(path, index, atoms, keys))
        if progress is not None:
            progress(1)
    if not frames:
        raise ValueError(f"{path} holds no frame; give an extended xyz file")
    return _joined(path, frames, units or Units(), periodic)


def _frames(path: Path) -> Iterator[ase.Atoms]:
    import ase.io  # half a second that scripts for other files do not wait for

    done = 0
    try:
        for atoms in ase.io.iread(path, index=":", format="extxyz"):
            yield atoms
            done += 1
    except (
        ase.io.ParseError,
        ase.io.extxyz.XYZError,
        ValueError,
        LookupError,
        RuntimeError,
    ) as error:
        raise ValueError(
            f"{path}: frame {done} cannot be read as extended xyz ({error}); correct the file"
        ) from None


def _read_frame(path: Path, index: int, atoms, keys: dict[str, str]) -> dict:
    held = dict(atoms.info) | dict(atoms.arrays)
    if atoms.calc is not None:
        held |= {name: value for name, value in atoms.calc.results.items() if value is not None}
    frame = {
        "atomic_numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": np.array(atoms.cell),
        "periodic": np.array(atoms.pbc),
    }
    frame["names"] = str(next((atoms.info[key] for key in NAME_KEYS if key in atoms.info), ""))
    for name, key in keys.items():
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
        frame[name] = full_stress(values) if name == "stress" else values
        wanted = {"energy": (), "forces": atoms.positions.shape, "stress": (3, 3)}[name]
        if frame[name].shape != wanted:
            raise ValueError(
                f"{path}: {name} {key!r} of frame {index} must have the shape {wanted}, got "
                f"{frame[name].shape}"
            )
    return frame


def _joined(path: Path, frames: list[dict], units: Units, periodic: bool | None) -> Structures:
    columns = {name: [frame[name] for frame in frames] for name in frames[0]}
    arrays = {
        name: np.concatenate(columns.pop(name))
        for name in ("atomic_numbers", "positions", "forces")
        if name in columns
    }
    arrays |= {name: np.stack(values) for name, values in columns.items()}
    arrays["counts"] = np.array([len(frame["positions"]) for frame in frames])
    if periodic and not arrays["periodic"].any():
        raise ValueError(
            f"{path} has no periodic frame (pbc is F everywhere) for --periodic; leave it out"
        )
    if periodic is False or not arrays["periodic"].any():
        del arrays["cell"], arrays["periodic"]
    try:
        return in_project_units(arrays, units)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read_format(path: Path, how: FileReading, progress: Callable[[int], object]) -> Structures:
    keys = {f"{name}_key": key for name, key in how.keys.items()}
    return read_extxyz(
        path,
        how.units,
        stress_key=how.stress_key,
        periodic=how.periodic,
        progress=progress,
        **keys,
    )


FORMAT = FileFormat(_read_format, renames=("energy", "forces"))
FILE_FORMATS.register(".xyz")(FORMAT)
FILE_FORMATS.register(".extxyz")(FORMAT)
