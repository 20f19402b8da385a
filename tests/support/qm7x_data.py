"""Files in the layout of QM7-X, with molecules of ASE, invented displacements and invented labels
that belong to the geometry.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.build import molecule

from tests.support.molecule_data import pair_energy

# molecules of the elements of QM7-X, a few atoms each
FORMULAS = ("CH4", "H2O", "NH3", "HCN", "CH3Cl", "CH3SH", "H2CO", "CH3OH", "C2H4", "HOCl")
DISPLACED = 2  # structures written for each relaxed one


def turned(atoms: Atoms, generator: np.random.Generator) -> Atoms:
    """The molecule, rotated and moved, its atoms in another order."""
    rotation, _ = np.linalg.qr(generator.standard_normal((3, 3)))
    rotation *= np.linalg.det(rotation)
    order = generator.permutation(len(atoms))
    positions = atoms.positions[order] @ rotation.T + generator.standard_normal(3)
    return Atoms(atoms.numbers[order], positions)


def labels_of(atoms: Atoms) -> dict[str, np.ndarray]:
    """Data sets of a structure, as the files have them."""
    energy, forces = pair_energy(atoms.positions)
    charges = atoms.numbers - atoms.numbers.mean()
    centred = atoms.positions - atoms.positions.mean(0)
    return {
        "atNUM": atoms.numbers,
        "atXYZ": atoms.positions,
        "ePBE0+MBD": np.array([energy]),
        "totFOR": forces,
        "hCHG": charges / 10,
        "vDIP": charges @ centred / 10,
    }


def write_structure(group, name: str, atoms: Atoms, **changes) -> None:
    """One structure into the group of its molecule; a change of None leaves a data set out."""
    held = group.create_group(name)
    for label, values in (labels_of(atoms) | changes).items():
        if values is not None:
            held.create_dataset(label, data=values)


def write_qm7x(path: Path, molecules: dict[str, Atoms], displaced: int = DISPLACED) -> Path:
    """A file with relaxed structures by name, Geom-m1-i1-c1, and ``displaced`` ones of each."""
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for name, atoms in molecules.items():
            group = file.require_group(name.split("-")[1].removeprefix("m"))
            write_structure(group, f"{name}-opt", atoms)
            for number in range(1, displaced + 1):
                moved = atoms.copy()
                moved.positions += 0.1 * generator.standard_normal((len(atoms), 3))
                write_structure(group, f"{name}-d{number}", moved)
    return path


def small_molecules(count: int = len(FORMULAS)) -> dict[str, Atoms]:
    """A relaxed structure of each of several molecules, by the beginning of its name."""
    return {
        f"Geom-m{number}-i1-c1": molecule(formula)
        for number, formula in enumerate(FORMULAS[:count], 1)
    }
