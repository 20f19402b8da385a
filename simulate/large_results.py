"""The result of one large structure, and its file: npz or extended xyz.

Cost: linear in atoms; the frame of extended xyz takes 20 microseconds an atom.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from farfield.dataloader.storage import files
from farfield.simulate.molecule_files import write_xyz

SUFFIXES = (".npz", ".xyz", ".extxyz")


class LargeResult(NamedTuple):
    """energy, eV. forces (atoms, 3), eV/Angstrom. stress (3, 3), eV/Angstrom^3, tension positive,
    or None. seconds on the wall clock; cpu_seconds of all processes; peak_gigabytes, the memory of
    the largest process.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_gigabytes: float = 0.0

    @classmethod
    def of(cls, atoms: Atoms, order: np.ndarray, found: Mapping[str, Tensor]) -> LargeResult:
        """The result in the order of ``atoms``, of values in ``order`` (atoms,)."""
        forces = np.empty((len(atoms), 3))
        forces[order] = found["forces"].double().numpy()
        stress = found["stress"].double().numpy() if "stress" in found else None
        return cls(float(found["energy"]), forces, stress)

    @property
    def largest_force(self) -> float:
        """Largest component of a force, eV/Angstrom."""
        return float(np.abs(self.forces).max())


def check_output(out: str, file: str, overwrite: bool) -> None:
    """ValueError for a file that the results cannot be written to."""
    path = Path(out)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--out must end in {', '.join(SUFFIXES)}, got {out}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"the folder of --out {out} does not exist; make it first")
    if path.resolve() == Path(file).resolve():
        raise ValueError(f"--out {out} is the file of the structure; give another name")
    if path.exists() and not overwrite:
        raise ValueError(f"--out {out} exists; give another name, or --overwrite")


def write_result(out: str, atoms: Atoms, result: LargeResult) -> None:
    """Write the result atomically, in the format that the name of ``out`` says."""
    if not out.endswith(".npz"):
        values = {"energy": result.energy, "forces": result.forces}
        if result.stress is not None:
            values["stress"] = full_3x3_to_voigt_6_stress(result.stress)
        frame = atoms.copy()
        frame.calc = SinglePointCalculator(frame, **values)
        write_xyz(out, [frame])
        return

    arrays = {name: value for name, value in result._asdict().items() if value is not None}
    with files.atomic_write(out) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def peak_memory() -> float:
    """Largest memory that this process has held so far, GB."""
    status = Path("/proc/self/status")
    if status.exists():  # the other mark counts the process that started this one
        (line,) = (one for one in status.read_text().splitlines() if one.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
