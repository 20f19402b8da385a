"""Units of data files, and their factors to eV, Angstrom, eV/Angstrom and eV/Angstrom^3.

Forces are in energy unit / length unit and stresses in energy unit / length unit^3 unless their
units are named. The values are CODATA's as in `ase.units` (1 kcal/mol = 0.0433641 eV, 1 hartree =
27.2114 eV, 1 bohr = 0.529177 Angstrom).
"""

from __future__ import annotations

import dataclasses

from ase import units as ase_units

from farfield.models.choices import check_choice

ENERGY_UNITS = {
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": ase_units.kcal / ase_units.mol,
    "kJ/mol": ase_units.kJ / ase_units.mol,
    "hartree": ase_units.Hartree,
}
LENGTH_UNITS = {"Angstrom": 1.0, "bohr": ase_units.Bohr, "nm": 10.0}
STRESS_UNITS = {
    "eV/Angstrom^3": 1.0,
    "meV/Angstrom^3": 1e-3,
    "GPa": ase_units.GPa,
    "MPa": 1e-3 * ase_units.GPa,
    "kbar": 0.1 * ase_units.GPa,
    "bar": 1e-4 * ase_units.GPa,
    "hartree/bohr^3": ase_units.Hartree / ase_units.Bohr**3,
}
KCAL_MOL = ENERGY_UNITS["kcal/mol"]


@dataclasses.dataclass(frozen=True)
class Units:
    """Units of a file.

    energy: a name of :data:`ENERGY_UNITS`. length: a name of :data:`LENGTH_UNITS`. force:
    "ENERGY/LENGTH" of the forces where it is not made of the other two, e.g. positions in Angstrom
    and forces in hartree/bohr. stress: a name of :data:`STRESS_UNITS` in the same case.
    ``ValueError`` for unknown names.
    """

    energy: str = "eV"
    length: str = "Angstrom"
    force: str | None = None
    stress: str | None = None

    def __post_init__(self):
        check_choice("the energy unit", self.energy, ENERGY_UNITS)
        check_choice("the length unit", self.length, LENGTH_UNITS)
        if self.stress is not None:
            check_choice("the stress unit", self.stress, STRESS_UNITS)
        energy, _, length = self.force_unit.rpartition("/")
        if energy not in ENERGY_UNITS or length not in LENGTH_UNITS:
            known = (
                f"an energy ({', '.join(ENERGY_UNITS)}), a slash and a length "
                f"({', '.join(LENGTH_UNITS)})"
            )
            raise ValueError(f"the force unit must be {known}, got {self.force!r}")

    @property
    def force_unit(self) -> str:
        """Unit of the forces, written ENERGY/LENGTH."""
        return self.force or f"{self.energy}/{self.length}"

    @property
    def energy_factor(self) -> float:
        """eV per energy unit."""
        return ENERGY_UNITS[self.energy]

    @property
    def length_factor(self) -> float:
        """Angstrom per length unit."""
        return LENGTH_UNITS[self.length]

    @property
    def force_factor(self) -> float:
        """eV/Angstrom per force unit."""
        energy, _, length = self.force_unit.rpartition("/")
        return ENERGY_UNITS[energy] / LENGTH_UNITS[length]

    @property
    def stress_factor(self) -> float:
        """eV/Angstrom^3 per stress unit."""
        if self.stress is not None:
            return STRESS_UNITS[self.stress]
        return self.energy_factor / self.length_factor**3

    @property
    def stress_unit(self) -> str:
        """Unit of the stress."""
        return self.stress or f"{self.energy}/{self.length}^3"

    def __str__(self) -> str:
        text = f"energy in {self.energy}, length in {self.length}, forces in {self.force_unit}"

        # only units that are not the project's are explained
        factors = []
        if self.energy != "eV":
            factors.append(f"1 {self.energy} = {self.energy_factor:.7g} eV")
        if self.length != "Angstrom":
            factors.append(f"1 {self.length} = {self.length_factor:.7g} Angstrom")
        if self.force is not None:
            factors.append(f"1 {self.force} = {self.force_factor:.7g} eV/Angstrom")
        if self.stress is not None:
            text += f", stress in {self.stress}"
            factors.append(f"1 {self.stress} = {self.stress_factor:.7g} eV/Angstrom^3")
        return text + (f" ({', '.join(factors)})" if factors else "")
