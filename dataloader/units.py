"""Units of data files and the way to the project's own: eV, Angstrom, eV/Angstrom, eV/Angstrom^3.

Forces are always energy unit / length unit, stresses energy unit / length unit^3. Numbers of CODATA as in `ase.units`
(1 kcal/mol = 0.0433641 eV, 1 hartree = 27.2114 eV, 1 bohr = 0.529177 Angstrom).
"""

from __future__ import annotations

import dataclasses

from ase import units as ase_units

ENERGY_UNITS = {
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": ase_units.kcal / ase_units.mol,
    "kJ/mol": ase_units.kJ / ase_units.mol,
    "hartree": ase_units.Hartree,
}
LENGTH_UNITS = {"Angstrom": 1.0, "bohr": ase_units.Bohr, "nm": 10.0}
KCAL_MOL = ENERGY_UNITS["kcal/mol"]


@dataclasses.dataclass(frozen=True)
class Units:
    """Energy and length unit of a file; names of :data:`ENERGY_UNITS` and :data:`LENGTH_UNITS`, else ``ValueError``."""

    energy: str = "eV"
    length: str = "Angstrom"

    def __post_init__(self):
        for what, name, known in (("energy", self.energy, ENERGY_UNITS), ("length", self.length, LENGTH_UNITS)):
            if name not in known:
                raise ValueError(f"the {what} unit must be one of {', '.join(known)}, got {name!r}")

    @property
    def energy_factor(self) -> float:
        """Number to multiply energies with to get eV."""
        return ENERGY_UNITS[self.energy]

    @property
    def length_factor(self) -> float:
        """Number to multiply lengths with to get Angstrom."""
        return LENGTH_UNITS[self.length]

    @property
    def force_factor(self) -> float:
        """Number to multiply forces with to get eV/Angstrom."""
        return self.energy_factor / self.length_factor

    @property
    def stress_factor(self) -> float:
        """Number to multiply stresses with to get eV/Angstrom^3."""
        return self.energy_factor / self.length_factor**3

    def __str__(self) -> str:
        text = f"energy in {self.energy}, length in {self.length}, forces in {self.energy}/{self.length}"
        factors = [f"1 {self.energy} = {self.energy_factor:.7g} eV"] * (self.energy != "eV")
        factors += [f"1 {self.length} = {self.length_factor:.7g} Angstrom"] * (self.length != "Angstrom")
        return text + (f" ({', '.join(factors)})" if factors else "")
