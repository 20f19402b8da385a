"""Laws of the first velocities: equipartition over the degrees of freedom that are left."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule

from farfield.simulate.velocities import (
    counted_degrees,
    degrees_of_freedom,
    draw_velocities,
    kinetic_temperature,
)

LINE = Atoms("OCO", [[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]])
CRYSTAL = Atoms("NaCl", [[0, 0, 0], [2.8, 0, 0]], cell=[5.6, 5.6, 5.6], pbc=True)
SETS = {
    "water": (molecule("H2O"), 3),
    "dimer": (molecule("N2"), 1),
    "line": (LINE, 4),
    "crystal": (CRYSTAL, 3),
    "atom": (Atoms("Ar"), 3),
}


@pytest.mark.parametrize("name", SETS)
def test_a_draw_has_the_temperature_in_what_is_left(name):
    atoms, left = SETS[name][0].copy(), SETS[name][1]
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    assert degrees_of_freedom(atoms) == left
    assert 2 * atoms.get_kinetic_energy() / (left * units.kB) == pytest.approx(300, rel=1e-12)


def test_velocities_that_drift_or_turn_keep_their_degrees_of_freedom():
    atoms = molecule("CH3CH2OH")
    draw_velocities(atoms, 300.0, np.random.default_rng(2))
    still = atoms.get_velocities()
    assert degrees_of_freedom(atoms) == 27 - 6
    atoms.set_velocities(still + [0.01, 0, 0])
    assert degrees_of_freedom(atoms) == 27 - 3
    turning = np.cross([0, 0, 0.01], atoms.positions - atoms.get_center_of_mass())
    atoms.set_velocities(still + turning)
    assert degrees_of_freedom(atoms) == 27 - 3


@pytest.mark.parametrize("number", [1, 3, 21, 3 * 370])
def test_the_count_is_found_again(number):
    kinetic = 0.123 * number
    assert counted_degrees(kinetic, kinetic_temperature(kinetic, number)) == number
