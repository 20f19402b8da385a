"""RMSD: zero for what is the same molecule, the brute-force minimum otherwise."""

import itertools

import numpy as np
import pytest
from ase import Atoms
from scipy.spatial.transform import Rotation

from farfield.dataloader.chemistry.bonds import perceive_bonds
from farfield.dataloader.from_ase import structures_from_atoms
from farfield.dataloader.structures import Structures
from farfield.simulate.superposition import superpose, symmetric_rmsd
from tests.support.hand_made_molecules import (
    apart,
    bromochlorofluoromethane,
    mirrored,
    moved,
    neopentane,
    reordered,
)
from tests.support.qm9_data import molecules

ZERO = 1e-6  # Angstrom; the formula loses half of the 16 digits


def rmsd_of(structures: Structures, reference: Structures, **options) -> np.ndarray:
    """Exact RMSD (structures,) with the bonds of the reference."""
    found = symmetric_rmsd(structures, reference, perceive_bonds(reference), **options)
    assert found.exact.all()
    return found.rmsd


def by_brute_force(one: Structures, other: Structures) -> float:
    """Minimum over all permutations of atoms that keep elements and bonds, turned by scipy."""
    ends = perceive_bonds(other).ends.tolist()
    bonds = {frozenset(pair) for pair in ends}
    y = other.positions - other.positions.mean(0)
    best = np.inf
    for row in itertools.permutations(range(one.num_atoms)):
        kept = bonds == {frozenset((row[a], row[b])) for a, b in ends}
        if kept and (other.atomic_numbers[list(row)] == other.atomic_numbers).all():
            x = one.positions[list(row)] - one.positions.mean(0)
            best = min(best, Rotation.align_vectors(y, x)[1] / np.sqrt(len(y)))
    return best


@pytest.mark.parametrize("name", ["CH4", "H2CO", "NH3", "H2O", "C2H4", "CH3Cl", "HOCl"])
def test_minimum_over_all_permutations(name):
    one = molecules([name])
    for seed in range(3):
        other = moved(one, seed, noise=0.3)
        assert rmsd_of(other, one)[0] == pytest.approx(by_brute_force(other, one), abs=1e-7)
        assert 0.05 < by_brute_force(other, one) < 0.6


def test_turned_and_shifted_molecules_are_the_same():
    whole = molecules(["CH4", "C6H6", "CH3CH2OH", "CO2", "H2", "isobutane"])
    assert (rmsd_of(moved(whole), whole) < ZERO).all()


def test_mirror_images_of_a_chiral_molecule_stay_apart():
    one = bromochlorofluoromethane()
    assert rmsd_of(mirrored(one), one)[0] > 0.3
    assert rmsd_of(moved(mirrored(one)), one)[0] == pytest.approx(rmsd_of(mirrored(one), one)[0])
    assert rmsd_of(moved(one), one)[0] < ZERO

    # what is not chiral is its own mirror image, by a permutation of its hydrogens
    achiral = molecules(["CH4", "CH3Cl", "C2H6", "CH3OH"])
    assert (rmsd_of(mirrored(achiral), achiral) < ZERO).all()


def test_equal_hydrogens_have_no_names():
    one = molecules(["C2H6"])
    ends = perceive_bonds(one).ends
    group = ends[ends[:, 0] == 0, 1][1:]  # what the first carbon holds besides the second

    # an odd permutation of three hydrogens
    order = np.arange(8)
    order[group[:2]] = group[1::-1]
    other = reordered(one, order)
    assert superpose(other.positions, one.positions)[0] > 0.3
    assert rmsd_of(other, one)[0] < ZERO
    assert rmsd_of(moved(other), one)[0] < ZERO

    # the two sides of benzene, but not two atoms that no symmetry exchanges
    ring = molecules(["C6H6"])
    order = np.concatenate([np.roll(np.arange(6), 2), np.roll(np.arange(6, 12), 2)])
    assert rmsd_of(moved(reordered(ring, order)), ring)[0] < ZERO
    order[[0, 1]] = order[[1, 0]]
    assert rmsd_of(reordered(ring, order), ring)[0] > 0.3


def test_without_hydrogens():
    one = molecules(["CH3CH2OH", "C2H6"])
    other = one.positions.copy()
    other[one.atomic_numbers == 1] += 0.5 * np.random.default_rng(0).standard_normal((12, 3))
    other = Structures(one.atomic_numbers, other, one.counts)
    assert (rmsd_of(other, one) > 0.2).all()
    assert (rmsd_of(moved(other), one, heavy=True) < ZERO).all()
    assert np.isnan(rmsd_of(molecules(["H2"]), molecules(["H2"]), heavy=True)).all()

    # what is left of ethane are two carbons, whose distance alone counts
    stretched = molecules(["C2H6"])
    stretched.positions[0] *= 1.4
    gap = [np.linalg.norm(np.subtract(*two.positions[:2])) for two in (stretched, one[1])]
    expected = abs(gap[0] - gap[1]) / 2
    assert expected > 0.1
    assert rmsd_of(stretched, one[1], heavy=True)[0] == pytest.approx(expected)


def test_many_symmetries_exactly_and_as_an_upper_bound():
    one = neopentane()
    table = perceive_bonds(one)
    other = moved(one, 1, noise=0.1)

    # methyl groups change places with their hydrogens, which lie after them
    order = np.array([0, *range(9, 13), *range(1, 9), *range(13, 17)])
    order[[2, 3]] = order[[3, 2]]
    assert (one.atomic_numbers[order] == one.atomic_numbers).all()
    shuffled = reordered(other, order)

    exact = symmetric_rmsd(shuffled, one, table)
    bound = symmetric_rmsd(shuffled, one, table, most_permutations=100)
    assert exact.exact.tolist() == [True]
    assert bound.exact.tolist() == [False]
    assert exact.rmsd[0] == pytest.approx(symmetric_rmsd(other, one, table).rmsd[0])
    assert exact.rmsd[0] - 1e-12 <= bound.rmsd[0] < exact.rmsd[0] + 1e-6
    assert exact.rmsd[0] < 0.2 < superpose(shuffled.positions, one.positions)[0]


def test_two_molecules_may_change_places():
    pair = apart("CH4", "CH4", 6.0)
    order = np.concatenate([np.arange(5, 10), np.arange(5)])
    other = Structures(pair.atomic_numbers, pair.positions[order], pair.counts)
    assert rmsd_of(moved(other), pair)[0] < ZERO


def test_superposition_turns_and_never_reflects():
    rng = np.random.default_rng(0)
    y = rng.standard_normal((6, 3))
    clouds = rng.standard_normal((50, 6, 3))
    clouds[0] = y * [1, 1, -1]
    rmsd, turn = superpose(clouds, y)
    assert np.linalg.det(turn) == pytest.approx(np.ones(50))
    about = clouds - clouds.mean(1, keepdims=True)
    gap = about @ turn.swapaxes(1, 2) - (y - y.mean(0))
    assert np.sqrt(np.square(gap).sum((1, 2)) / 6) == pytest.approx(rmsd)
    for one, found in zip(about, rmsd, strict=True):
        best = Rotation.align_vectors(y - y.mean(0), one)[1] / np.sqrt(6)
        assert found == pytest.approx(best, abs=1e-7)


def test_one_atom_lies_on_itself():
    atom = structures_from_atoms([Atoms("C", [[1.0, 2.0, 3.0]])])
    assert rmsd_of(moved(atom), atom).tolist() == [0.0]


def test_other_molecules_are_refused():
    one, table = molecules(["CH4", "NH3"]), perceive_bonds(molecules(["CH4", "NH3"]))
    with pytest.raises(ValueError, match="1 structures cannot be compared with 2 references; give"):
        symmetric_rmsd(one[:1], one, table)
    for other in (molecules(["CH4", "H2O"]), molecules(["CH4", "PH3"])):
        with pytest.raises(ValueError, match="structure 1 and its reference have different atoms"):
            symmetric_rmsd(other, one, table)
