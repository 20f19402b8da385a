"""Units of files against values of CODATA, and what is said of them."""

import pytest

from farfield.dataloader.units import KCAL_MOL, Units

HARTREE, BOHR = 27.211386, 0.52917721
# eV/Angstrom^3
STRESSES = {
    "eV/Angstrom^3": 1.0,
    "meV/Angstrom^3": 1e-3,
    "GPa": 1 / 160.21766,
    "MPa": 1e-3 / 160.21766,
    "kbar": 0.1 / 160.21766,
    "bar": 1e-4 / 160.21766,
    "hartree/bohr^3": HARTREE / BOHR**3,
}


@pytest.mark.parametrize(
    "energy, factor",
    [
        ("eV", 1.0),
        ("meV", 1e-3),
        ("kcal/mol", 0.04336411),
        ("kJ/mol", 0.01036427),
        ("hartree", HARTREE),
    ],
)
@pytest.mark.parametrize("length, size", [("Angstrom", 1.0), ("bohr", BOHR), ("nm", 10.0)])
def test_factors_follow_from_energy_and_length(energy, factor, length, size):
    units = Units(energy, length)
    assert units.energy_factor == pytest.approx(factor, rel=1e-6)
    assert units.length_factor == pytest.approx(size, rel=1e-6)
    assert units.force_factor == pytest.approx(factor / size, rel=1e-6)
    assert units.stress_factor == pytest.approx(factor / size**3, rel=1e-6)
    assert (units.force_unit, units.stress_unit) == (f"{energy}/{length}", f"{energy}/{length}^3")

    # forces of other units than energies
    other = Units("eV", "Angstrom", f"{energy}/{length}")
    assert other.force_factor == pytest.approx(factor / size, rel=1e-6)
    assert other.energy_factor == other.length_factor == 1.0


@pytest.mark.parametrize("stress", STRESSES)
def test_a_stress_has_a_unit_of_its_own(stress):
    units = Units("kcal/mol", "bohr", stress=stress)
    assert units.stress_factor == pytest.approx(STRESSES[stress], rel=1e-6)
    assert units.stress_unit == stress
    assert pytest.approx(0.04336411, rel=1e-6) == KCAL_MOL


def test_units_explain_what_is_not_usual():
    assert str(Units()) == "energy in eV, length in Angstrom, forces in eV/Angstrom"
    assert str(Units("meV", "nm", "hartree/bohr", "GPa")) == (
        "energy in meV, length in nm, forces in hartree/bohr, stress in GPa (1 meV = 0.001 eV, "
        "1 nm = 10 Angstrom, 1 hartree/bohr = 51.42207 eV/Angstrom, "
        "1 GPa = 0.006241509 eV/Angstrom^3)"
    )


@pytest.mark.parametrize(
    "names, words",
    [
        ({"energy": "ev"}, "the energy unit"),
        ({"length": "m"}, "the length unit"),
        ({"stress": "Pa"}, "the stress unit"),
        ({"force": "eV"}, "the force unit must be an energy"),
        ({"force": "eV/m"}, "got 'eV/m'"),
        ({"force": "x/bohr"}, "got 'x/bohr'"),
    ],
)
def test_unknown_units_are_refused(names, words):
    with pytest.raises(ValueError, match=words):
        Units(**names)
