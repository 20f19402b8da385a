"""A geometry is found again under rotation, shift and exchange of equal atoms, and no other."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from farfield.dataloader.chemistry.same_geometry import TOLERANCE, first_alike
from farfield.dataloader.from_ase import structures_from_atoms
from tests.support.qm7x_data import turned

RNG = np.random.default_rng(1)
CHIRAL = Atoms(  # four different atoms around a carbon
    "CHClSN", [(0, 0, 0), (0.6, 0.6, 0.6), (-1, -1, 1), (-1.1, 1.1, -1.1), (0.9, -0.9, -0.9)]
)


def alike(*atoms: Atoms, **options) -> list[int]:
    return first_alike(structures_from_atoms(list(atoms)), **options).tolist()


@pytest.mark.parametrize(
    "name", ["CH4", "C6H6", "CH3CH2OH", "HCN", "CO2", "H2", "H2O", "C2H6", "butadiene", "C"]
)
def test_a_geometry_is_found_again(name):
    atoms = Atoms("C") if name == "C" else molecule(name)
    noise = 0.2 * TOLERANCE * RNG.uniform(-1, 1, (len(atoms), 3))
    shaken = Atoms(atoms.numbers, atoms.positions + noise)
    assert alike(atoms, turned(atoms, RNG), turned(shaken, RNG)) == [0, 0, 0]


def test_other_geometries_stay_apart():
    ethanol = molecule("CH3CH2OH")
    moved = ethanol.copy()
    moved.positions[0] += 0.3
    stretched = Atoms(ethanol.numbers, 1.02 * ethanol.positions)
    other = molecule("CH3OCH3")  # the same elements
    found = alike(ethanol, moved, stretched, other, turned(other, RNG), turned(moved, RNG))
    assert found == [0, 1, 2, 3, 3, 1]


def test_mirror_images_are_two_geometries_unless_they_can_be_laid_over_each_other():
    for atoms, same in ((CHIRAL, False), (molecule("CH3CH2OH"), True), (molecule("C6H6"), True)):
        mirrored = Atoms(atoms.numbers, atoms.positions * (1, 1, -1))
        assert alike(atoms, turned(mirrored, RNG)) == [0, 0 if same else 1]

    # hydrogen peroxide is chiral, and a half turn about its axis leaves it as it is
    twisted = molecule("H2O2")
    mirrored = Atoms(twisted.numbers, twisted.positions * (1, 1, -1))
    assert alike(twisted, turned(mirrored, RNG), turned(twisted, RNG)) == [0, 1, 0]


def test_the_same_distances_with_other_elements_are_another_geometry():
    first = Atoms("HClN", [(0, 0, 0), (1, 0, 0), (0, 2, 0)])
    second = Atoms("ClHN", [(0, 0, 0), (1, 0, 0), (0, 2, 0)])
    assert alike(first, second) == [0, 1]


def test_tolerance_is_the_distance_of_atoms():
    water = molecule("H2O")
    moved = water.copy()
    moved.positions[1] += (0, 0, 0.06)
    assert alike(water, moved) == [0, 1]
    assert alike(water, moved, tolerance=0.1) == [0, 0]
