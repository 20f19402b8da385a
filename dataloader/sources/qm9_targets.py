"""The properties of QM9: names, units, and the energies of free atoms.

Source: Ramakrishnan et al. 2014, B3LYP/6-31G(2df,p).

Names are as in DGL's QM9EdgeDataset. The project computes in eV, debye, bohr^3, bohr^2,
cal/mol/K and GHz; files have energies in hartree (or kcal/mol, where a table gives atomisation
energies), tables of errors show energies in meV. Atomisation energies are

    X_atom = X - sum over atoms of X_free(Z),    X = U0, U, H, G

with the free atoms of the data set's own file atomref.txt (hartree), in float64: a molecule has 1e4
eV, of which 1e-3 eV matter.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from ase import units as ase_units

from farfield.dataloader.units import ENERGY_UNITS

HARTREE = ENERGY_UNITS["hartree"]  # eV
# eV; MoleculeNet's table of atomisation energies was made with 1 hartree = 627.509 kcal/mol
TABLE_KCAL = HARTREE / 627.509


@dataclasses.dataclass(frozen=True)
class Target:
    """A property.

    unit: in the project. file_unit: in files. shown_unit: in tables of errors. factor: from the
    file to the project. shown_factor: from the project to tables. keys: names in files. shape: of
    the value of one molecule.
    """

    description: str
    unit: str
    file_unit: str = ""
    factor: float = 1.0
    shown_unit: str = ""
    shown_factor: float = 1.0
    keys: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()


def _plain(description: str, unit: str, *keys: str) -> Target:
    return Target(description, unit, unit, 1.0, unit, 1.0, keys)


def _energy(
    description: str, *keys: str, file_unit: str = "hartree", factor: float = HARTREE
) -> Target:
    return Target(description, "eV", file_unit, factor, "meV", 1e3, keys)


def _atomisation(description: str, *keys: str) -> Target:
    return _energy(description, *keys, file_unit="kcal/mol", factor=TABLE_KCAL)


TARGETS: dict[str, Target] = {
    "mu": _plain("dipole moment", "D", "mu"),
    "alpha": _plain("isotropic polarizability", "bohr^3", "alpha"),
    "homo": _energy("energy of the highest occupied orbital", "homo"),
    "lumo": _energy("energy of the lowest unoccupied orbital", "lumo"),
    "gap": _energy("lumo - homo", "gap"),
    "r2": _plain("electronic spatial extent <R^2>", "bohr^2", "r2"),
    "zpve": _energy("zero point vibrational energy", "zpve"),
    "U0": _energy("internal energy at 0 K", "U0", "u0"),
    "U": _energy("internal energy at 298.15 K", "U", "u298"),
    "H": _energy("enthalpy at 298.15 K", "H", "h298"),
    "G": _energy("free energy at 298.15 K", "G", "g298"),
    "Cv": _plain("heat capacity at 298.15 K", "cal/mol/K", "Cv", "cv"),
    "U0_atom": _atomisation("atomisation energy at 0 K", "U0_atom", "u0_atom"),
    "U_atom": _atomisation("atomisation energy at 298.15 K", "U_atom", "u298_atom"),
    "H_atom": _atomisation("atomisation enthalpy at 298.15 K", "H_atom", "h298_atom"),
    "G_atom": _atomisation("atomisation free energy at 298.15 K", "G_atom", "g298_atom"),
    "A": _plain("rotational constant A", "GHz", "A"),
    "B": _plain("rotational constant B", "GHz", "B"),
    "C": _plain("rotational constant C", "GHz", "C"),
    "dipole": Target(
        "dipole vector", "D", "e Angstrom", 1 / ase_units.Debye, "D", 1.0, ("dipole",), (3,)
    ),
}
TABLE = tuple(name for name in TARGETS if name != "dipole")  # order in DGL's table

ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
FREE_ATOMS = {  # atomref.txt: Z -> hartree
    "U0": {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730},
    "U": {1: -0.498857, 6: -37.845355, 7: -54.582445, 8: -75.063163, 9: -99.717314},
    "H": {1: -0.497912, 6: -37.844411, 7: -54.581501, 8: -75.062219, 9: -99.716370},
    "G": {1: -0.510927, 6: -37.861317, 7: -54.598897, 8: -75.079532, 9: -99.733544},
}
# order in the xyz files
LINE = ("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", *FREE_ATOMS, "Cv")
ATOMISED = {name: f"{name}_atom" for name in FREE_ATOMS}  # X -> X_atom


def free_atom_energy(name: str, atomic_numbers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sum of the free atoms' energies of every structure (structures,) float64, eV.

    ``ValueError`` for an element that QM9 does not have.
    """
    table = np.full(119, np.nan)
    table[list(FREE_ATOMS[name])] = list(FREE_ATOMS[name].values())
    per_atom = table[atomic_numbers]
    if np.isnan(per_atom).any():
        wrong = int(np.asarray(atomic_numbers)[np.isnan(per_atom)][0])
        raise ValueError(
            f"free atoms of QM9 are Z = {sorted(FREE_ATOMS[name])}, got Z = {wrong}; leave "
            f"{name} out"
        )

    structure = np.repeat(np.arange(len(counts)), counts)
    return HARTREE * np.bincount(structure, per_atom, minlength=len(counts))


def with_atomisation(
    values: dict[str, np.ndarray], atomic_numbers: np.ndarray, counts: np.ndarray
) -> dict[str, np.ndarray]:
    """``values`` (eV) with each X_atom that is missing and can be made from X."""
    made = {
        atomised: values[name] - free_atom_energy(name, atomic_numbers, counts)
        for name, atomised in ATOMISED.items()
        if name in values and atomised not in values
    }
    return values | made
