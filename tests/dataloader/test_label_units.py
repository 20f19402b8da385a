"""Ratios of units, energies of all electrons and stiff bonds name the unit that was mistaken."""

import numpy as np
import pytest

from farfield.dataloader.bond_stiffness import stiffness_words
from farfield.dataloader.label_units import ATOM_ENERGIES, HARTREE, ratio_words, total_energy_words
from farfield.dataloader.nearest_atoms import NearestAtoms
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import ENERGY_UNITS, LENGTH_UNITS

KCAL, KJ, BOHR = ENERGY_UNITS["kcal/mol"], ENERGY_UNITS["kJ/mol"], LENGTH_UNITS["bohr"]
# energies over work, where each is a number in some unit
SLOPES = {
    "energies are in kcal/mol and forces are not": 1 / KCAL,
    "energies are in hartree and forces are not": 1 / HARTREE,
    "forces are in kJ/mol per length and energies are not": KJ,
    "energies are in kcal/mol and forces in kJ/mol per length": KJ / KCAL,
    "positions are in bohr and forces per Angstrom": BOHR,
    "forces are per bohr and positions in Angstrom": 1 / BOHR,
    "forces are in hartree per length and energies are not, and forces are per bohr and "
    "positions in Angstrom": HARTREE / BOHR,
}


@pytest.mark.parametrize("words", SLOPES)
def test_a_ratio_of_units_is_named(words):
    for factor in (0.83, 1.0, 1.2):
        assert words in ratio_words(factor * SLOPES[words])
    # the nearest guess comes first
    assert f"as where {words}" in ratio_words(SLOPES[words])
    for factor in (0.8, 1.25):
        assert words not in (ratio_words(factor * SLOPES[words]) or "")


def test_no_unit_is_named_where_none_is_near():
    assert ratio_words(1.0) is None


def water(energies) -> Structures:
    count = len(energies)
    positions = np.tile([[0.0, 0, 0], [0.96, 0, 0], [0, 0.96, 0]], (count, 1))
    numbers = np.tile([8, 1, 1], count)
    return Structures(numbers, positions, np.full(count, 3), energy=np.array(energies))


@pytest.mark.parametrize(
    "unit, certain", [("kcal/mol", True), ("kJ/mol", True), ("hartree", False)]
)
def test_energies_of_all_electrons_name_their_unit(unit, certain):
    total = HARTREE * (ATOM_ENERGIES[8] + 2 * ATOM_ENERGIES[1]) / ENERGY_UNITS[unit]
    # the median of the frames decides
    found = total_energy_words(water([1.005 * total, 1.01 * total, -5.0]))
    assert f"they are in {unit}; give --energy-unit {unit}" in found.text
    assert found.certain is certain
    assert total_energy_words(water([1.04 * total])) is None
    assert total_energy_words(water([-total])) is None


def test_energies_of_all_electrons_in_ev_are_right_and_heavy_atoms_unknown():
    total = HARTREE * (ATOM_ENERGIES[8] + 2 * ATOM_ENERGIES[1])
    assert total_energy_words(water([total])) is None
    heavy = Structures(np.array([79]), np.zeros((1, 3)), np.ones(1, int), energy=np.array([total]))
    assert total_energy_words(heavy) is None


def bonds(stiffness: float, count: int = 60, stretch: float = 0.05, noise: float = 0.0):
    """C-H and O-H in turn, each on a spring about a length of its own."""
    rng = np.random.default_rng(0)
    way = rng.standard_normal((count, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    longer = stretch * rng.uniform(-1, 1, (count, 1))
    longer[:2] = 0.0
    length = np.where(np.arange(count) % 2, 0.96, 1.09)[:, None] + longer
    force = -stiffness * (longer + noise * rng.standard_normal((count, 1))) * way
    numbers = np.stack([np.where(np.arange(count) % 2, 8, 6), np.ones(count, int)], 1).ravel()
    positions = np.stack([0 * way, length * way], 1).reshape(-1, 3)
    forces = np.stack([-force, force], 1).reshape(-1, 3)
    structures = Structures(numbers, positions, np.full(count, 2), forces=forces)
    return structures, NearestAtoms.find(structures, np.arange(count))


def test_bonds_of_usual_stiffness_tell_nothing():
    for stiffness in (13.0, 33.0, 79.0, 100.0):
        assert stiffness_words(*bonds(stiffness)) is None


@pytest.mark.parametrize(
    "stiffness, words",
    [
        (-33.0, "forces have the wrong sign"),
        (33.0 / KCAL, "as in kcal/mol per Angstrom"),
        (33.0 / KJ, "as in kJ/mol per Angstrom"),
    ],
)
def test_bonds_tell_of_the_sign_and_the_unit_of_forces(stiffness, words):
    found = stiffness_words(*bonds(stiffness))
    assert words in found.text and found.certain
    assert f"stiffness of {stiffness:.3g} eV" in found.text

    # too few bonds, frozen ones, and forces that do not follow the length say nothing
    assert stiffness_words(*bonds(stiffness, count=50)) is not None
    assert stiffness_words(*bonds(stiffness, count=49)) is None
    assert stiffness_words(*bonds(stiffness, stretch=0.0)) is None
    assert stiffness_words(*bonds(stiffness, noise=0.2)) is None
