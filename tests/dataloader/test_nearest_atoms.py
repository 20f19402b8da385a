"""Nearest atoms against all distances, the push of bare nuclei, and words about both."""

import itertools

import numpy as np
import pytest
from ase.data import covalent_radii

from farfield.dataloader.nearest_atoms import (
    COULOMB,
    NearestAtoms,
    check_distances,
    nuclear_limit,
)
from farfield.dataloader.structures import Structures


def mixed() -> Structures:
    """Open structures of 1 to 6 atoms and a small cell that repeats along x and y."""
    rng = np.random.default_rng(0)
    counts = np.array([4, 1, 6, 3, 2])
    periodic = np.zeros((5, 3), bool)
    periodic[3] = [True, True, False]
    cell = np.zeros((5, 3, 3))
    cell[3] = [[4.0, 0, 0], [0.5, 4.0, 0], [0, 0, 9.0]]
    positions = rng.uniform(0, 3, (counts.sum(), 3))
    numbers = rng.choice([1, 8], counts.sum())
    return Structures(numbers, positions, counts, cell=cell, periodic=periodic)


def images_of(structures: Structures, frame: int):
    """Vectors between all atoms of a structure, images included: (receiver, sender, vector)."""
    start, end = structures.offsets[frame], structures.offsets[frame + 1]
    repeats = [range(-3, 4) if one else (0,) for one in structures.periodic[frame]]
    for shift in itertools.product(*repeats):
        moved = np.array(shift) @ structures.cell[frame]
        for one, other in itertools.product(range(start, end), repeat=2):
            if one != other or any(shift):
                yield one, other, structures.positions[one] - structures.positions[other] + moved


def test_nearest_atoms_are_nearest_of_all():
    structures = mixed()
    nearest = NearestAtoms.find(structures, np.array([0, 3]))
    expected: dict[int, tuple[float, int]] = {}
    for frame in range(5):
        for one, other, vector in images_of(structures, frame):
            found = (float(np.linalg.norm(vector)), other)
            expected[one] = min(expected.get(one, found), found)
    assert set(nearest.atom.tolist()) == set(expected)
    for atom, other, distance in zip(nearest.atom, nearest.other, nearest.distance, strict=True):
        assert distance == pytest.approx(expected[atom][0])
        assert other == expected[atom][1]

    # periodic structures that are not in the sample are left out
    open_ones = NearestAtoms.find(structures, np.array([0, 1]))
    assert set(open_ones.atom.tolist()) == set(expected) - set(range(11, 14))


def test_the_limit_of_forces_is_twice_the_push_of_bare_nuclei():
    structures = mixed()
    for frame in (2, 3):
        start = structures.offsets[frame]
        expected = np.zeros(structures.counts[frame])
        for one, other, vector in images_of(structures, frame):
            charges = structures.atomic_numbers[[one, other]].prod()
            if np.linalg.norm(vector) < 6.0:
                expected[one - start] += 2 * COULOMB * charges / (vector @ vector)
        np.testing.assert_allclose(nuclear_limit(structures, frame), expected)


def told(*shares: float) -> tuple[list[str], list[str], list[str]]:
    """What is said of hydrogen molecules; shares: distances over covalent ones."""
    positions = np.zeros((2 * len(shares), 3))
    positions[1::2, 0] = 2 * covalent_radii[1] * np.array(shares)
    structures = Structures(np.ones(2 * len(shares), int), positions, np.full(len(shares), 2))
    nearest = NearestAtoms.find(structures, np.arange(len(shares)))
    return check_distances(structures, nearest, lambda frame: f"frame {frame}")


def test_usual_distances_are_a_fact():
    assert told(1.0, 1.1, 0.51) == ([], [], ["nearest atoms (Angstrom): H-H 0.32"])
    alone = Structures(np.ones(1, int), np.zeros((1, 3)), np.ones(1, int))
    nearest = NearestAtoms.find(alone, np.zeros(1, int))
    assert check_distances(alone, nearest, str) == ([], [], [])


@pytest.mark.parametrize(
    "share, words",
    [(1.9, "give --length-unit bohr"), (0.53, "give --length-unit Angstrom")],
)
def test_a_median_that_is_off_names_the_unit(share, words):
    wrong, notes, _ = told(share, share, share)
    assert not wrong and words in notes[0] and f"{share:.2g} covalent" in notes[0]


def test_atoms_on_each_other_are_named_nearest_first():
    wrong, notes, _ = told(1.0, 0.25, 1.0, 0.2, 1.0, 0.35, 1.0)
    assert not notes and wrong == [
        "atoms lie on each other, Angstrom: frame 3 (atoms 0 and 1: 0.124), "
        "frame 1 (atoms 0 and 1: 0.155); correct the positions or leave out these frames"
    ]
    assert "give --length-unit nm" in told(0.1, 0.1)[0][0]
    assert told(0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, *[1.0] * 9)[0][0].count("frame ") == 5
    assert " and 2 more frames;" in told(*[0.2] * 7, *[1.0] * 9)[0][0]


def test_atoms_that_are_unusually_near_are_a_note():
    wrong, notes, _ = told(1.0, 0.31, 1.0, 0.49, 1.0)
    assert not wrong and notes == [
        "atoms are unusually near each other, Angstrom: frame 1 (atoms 0 and 1: 0.192), "
        "frame 3 (atoms 0 and 1: 0.304)"
    ]


@pytest.mark.parametrize("pairs", [8, 10])
def test_distances_of_many_pairs_of_elements_are_shortened(pairs):
    numbers = np.stack([np.arange(1, pairs + 1), np.full(pairs, 20)], 1).ravel()
    positions = np.zeros((2 * pairs, 3))
    positions[1::2, 0] = 3.0 - 0.01 * np.arange(pairs)
    structures = Structures(numbers, positions, np.full(pairs, 2))
    fact = check_distances(structures, NearestAtoms.find(structures, np.zeros(0, int)), str)[2][0]
    assert fact.count("-Ca") == 8 and fact.endswith(" and 2 more pairs") == (pairs == 10)
    assert fact.startswith(f"nearest atoms (Angstrom): {'O' if pairs == 8 else 'Ne'}-Ca 2.9")
