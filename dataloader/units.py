"""Units of data files and the way to the project's own: eV, Angstrom, eV/Angstrom, eV/Angstrom^3.

Forces are in energy unit / length unit unless their unit is named, stresses in energy unit / length
unit^3. Numbers of CODATA as in `ase.units` (1 kcal/mol = 0.0433641 eV, 1 hartree = 27.2114 eV, 1
bohr = 0.529177 Angstrom).
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
    """Energy and length unit of a file; names of :data:`ENERGY_UNITS` and :data:`LENGTH_UNITS`,
    else ``ValueError``.

    force: "ENERGY/LENGTH" of the forces where it is not made of the other two, as positions in
    Angstrom beside forces in hartree/bohr.
    """

    energy: str = "eV"
    length: str = "Angstrom"
    force: str | None = None

    def __post_init__(self):
        for what, name, known in (
            ("energy", self.energy, ENERGY_UNITS),
            ("length", self.length, LENGTH_UNITS),
        ):
            if name not in known:
                raise ValueError(f"the {what} unit must be one of {', '.join(known)}, got {name!r}")
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
        """Number to multiply energies with to get eV."""
        return ENERGY_UNITS[self.energy]

    @property
    def length_factor(self) -> float:
        """Number to multiply lengths with to get Angstrom."""
        return LENGTH_UNITS[self.length]

    @property
    def force_factor(self) -> float:
        """Number to multiply forces with to get eV/Angstrom."""
        energy, _, length = self.force_unit.rpartition("/")
        return ENERGY_UNITS[energy] / LENGTH_UNITS[length]

    @property
    def stress_factor(self) -> float:
        """Number to multiply stresses with to get eV/Angstrom^3."""
        return self.energy_factor / self.length_factor**3

    def __str__(self) -> str:
        text = f"energy in {self.energy}, length in {self.length}, forces in {self.force_unit}"
        factors = [f"1 {self.energy} = {self.energy_factor:.7g} eV"] * (self.energy != "eV")
        factors += [f"1 {self.length} = {self.length_factor:.7g} Angstrom"] * (
            self.length != "Angstrom"
        )
        factors += [f"1 {self.force} = {self.force_factor:.7g} eV/Angstrom"] * (
            self.force is not None
        )
        return text + (f" ({', '.join(factors)})" if factors else "")
