"""Frames of a trajectory, of any program: positions in the order of time and what comes with them.

    a run folder of run_md        its trajectory.extxyz
    .npz                          numbers and positions of one molecule, as MD17, MD22 and the
                                  splits of a data folder have them
    anything else                 read by ASE: .traj, .xyz, .extxyz, ...

Lengths are in Angstrom, times in fs, energies in eV, momenta in the unit of ASE. Cost: linear in
frames and atoms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from farfield.dataloader.sources.extxyz_columns import check_columns
from farfield.dataloader.sources.npz import CELL, COUNTS, KEYS
from farfield.dataloader.storage import files
from farfield.models.elements import MAX_ATOMIC_NUMBER
from farfield.simulate.md_records import TRAJECTORY, check_trajectory

HINT = "give a trajectory that ASE reads, or an npz with atomic numbers and positions"
LENGTH_UNITS = ("ang", "angstrom")  # what npz files call it
MAX_REASON = 120  # characters of a reader's own message


@dataclasses.dataclass(frozen=True)
class Frames:
    """A trajectory of one structure.

    name       what messages and tables call it
    numbers    (atoms,) atomic numbers
    masses     (atoms,) u
    positions  (frames, atoms, 3) Angstrom
    cells      (frames, 3, 3) lattice vectors in rows, Angstrom; None for an open structure
    periodic   (3,) bool, directions that repeat
    time       (frames,) fs; None where nobody says it
    momenta    (frames, atoms, 3) in the unit of ASE; None where the file has none
    potential  (frames,) potential energy, eV; None where the file has none
    """

    name: str
    numbers: np.ndarray
    masses: np.ndarray
    positions: np.ndarray
    cells: np.ndarray | None = None
    periodic: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3, bool))
    time: np.ndarray | None = None
    momenta: np.ndarray | None = None
    potential: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def first(self, count: int) -> Frames:
        """The first ``count`` frames."""
        names = ("positions", "cells", "time", "momenta", "potential")
        values = {name: getattr(self, name) for name in names}
        cut = {name: None if value is None else value[:count] for name, value in values.items()}
        return dataclasses.replace(self, **cut)


def read_frames(
    path: str | Path,
    frame_time: float | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> Frames:
    """The frames of a file or of a run folder.

    frame_time: time between frames, fs (None: as the file says). progress: called with the number
    of frames read since the last call. FileNotFoundError or ValueError in one line for a file that
    cannot be read, has no frame, or holds several structures, and for a run folder whose records
    are not as its state says.
    """
    path = Path(path)
    file = path / TRAJECTORY if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"trajectory {file} does not exist; {HINT}")
    if path.is_dir():
        check_trajectory(path, f"give {file} itself to read it as it is")
    frames = _of_npz(file) if file.suffix == ".npz" else _of_ase(file, progress)
    frames = dataclasses.replace(frames, name=str(path))
    if frame_time is not None:
        frames = dataclasses.replace(frames, time=frame_time * np.arange(len(frames)))
    return frames


def _of_npz(file: Path) -> Frames:
    """Frames of an npz file of one molecule; its energies and forces are not read."""
    from ase.data import atomic_masses

    files.read_npz(file, (), HINT)  # whole and readable
    with np.load(file, allow_pickle=False) as archive:
        held = archive.files
    names = {}
    for quantity in ("numbers", "positions"):
        found = [name for name in KEYS[quantity] if name in held]
        if not found:
            raise ValueError(f"{file} has no {quantity} (it holds {', '.join(held)}); {HINT}")
        names[quantity] = found[0]

    counts = [name for name in ("counts", COUNTS) if name in held][:1]
    further = [name for name in ("r_unit", CELL) if name in held] + counts
    content = files.read_npz(file, [*names.values(), *further], HINT)
    unit = str(content.get("r_unit", LENGTH_UNITS[0]))
    if unit.lower() not in LENGTH_UNITS:
        raise ValueError(f"{file} has lengths in {unit}; write a file in Angstrom")

    numbers, positions = content[names["numbers"]], content[names["positions"]]
    if counts:
        numbers, positions = _one_molecule(file, numbers, positions, content[counts[0]])
    if positions.ndim != 3 or positions.shape[1:] != (*np.shape(numbers), 3):
        raise ValueError(
            f"{file}: positions {positions.shape} must be (frames, atoms, 3) of {np.size(numbers)} "
            "atoms; give a file of one molecule"
        )
    if CELL in content:
        raise ValueError(f"{file} has cells, and does not say which directions repeat; {HINT}")
    _check_frames(file, len(positions))
    numbers = _elements(file, numbers)
    return Frames("", numbers, atomic_masses[numbers], positions.astype(np.float64))


def _one_molecule(
    file: Path, numbers: np.ndarray, positions: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (atoms,) and positions (frames, atoms, 3) of structures that lie end to end."""
    same = len(counts) > 0 and (counts == counts[0]).all() and counts.sum() == len(numbers)
    rows = numbers.reshape(len(counts), -1) if same else numbers[None]
    if not same or (rows != rows[0]).any():
        raise ValueError(f"{file} holds several molecules; give a file of one")
    return rows[0], positions.reshape(*rows.shape, 3)


def _of_ase(file: Path, progress: Callable[[int], object]) -> Frames:
    """Frames of a file that ASE reads, one after the other."""
    from ase.io import iread

    found = []
    check_columns(file)
    try:
        for atoms in iread(file, index=":"):
            found.append(atoms)
            progress(1)
    except Exception as error:  # the readers of ASE raise whatever they meet
        reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
        raise ValueError(f"trajectory {file} cannot be read ({reason}); {HINT}") from None
    _check_frames(file, len(found))

    # one structure all the way
    first = found[0]
    for index, atoms in enumerate(found):
        if not np.array_equal(atoms.numbers, first.numbers) or (atoms.pbc != first.pbc).any():
            raise ValueError(
                f"{file}: frame {index} has other atoms, or repeats in other directions, than "
                "frame 0; give frames of one structure"
            )

    numbers = _elements(file, first.numbers)
    has_momenta = all(atoms.has("momenta") for atoms in found)
    energies = [_energy(atoms) for atoms in found]
    times = [atoms.info.get("time_fs") for atoms in found]
    return Frames(
        name="",
        numbers=numbers,
        masses=first.get_masses(),
        positions=np.stack([atoms.positions for atoms in found]),
        cells=np.stack([atoms.cell.array for atoms in found]) if first.pbc.any() else None,
        periodic=first.pbc.copy(),
        time=None if None in times else np.array(times, np.float64),
        momenta=np.stack([atoms.get_momenta() for atoms in found]) if has_momenta else None,
        potential=None if None in energies else np.array(energies, np.float64),
    )


def _elements(file: Path, numbers: np.ndarray) -> np.ndarray:
    """The atomic numbers (atoms,) as whole numbers; ``ValueError`` for one that no element has."""
    found = np.asarray(numbers).astype(np.int64)
    wrong = (found < 1) | (found > MAX_ATOMIC_NUMBER) | (found != numbers)
    if wrong.any():
        raise ValueError(
            f"{file}: atomic numbers must be whole numbers in 1 .. {MAX_ATOMIC_NUMBER}, got "
            f"{np.asarray(numbers)[wrong][0]}; {HINT}"
        )
    return found


def _energy(atoms) -> float | None:
    """Potential energy that came with a frame, eV."""
    return None if atoms.calc is None else atoms.calc.results.get("energy")


def _check_frames(file: Path, count: int) -> None:
    if not count:
        raise ValueError(f"trajectory {file} has no frames; {HINT}")
