"""Bonds: known molecules get their bonds, whatever their position, order of atoms and company;
tables are sorted and whole.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.dataloader.chemistry.bond_orders import VALENCES
from farfield.dataloader.chemistry.bonds import (
    BOND_KINDS,
    BondTable,
    perceive,
    perceive_bonds,
    with_aromatic,
)
from farfield.dataloader.structures import Structures
from tests.support.molecule_data import random_crystals
from tests.support.qm9_data import molecules

# molecule -> number of single, double, triple, aromatic bonds, and of atoms with formal charge
KNOWN = {
    "CH4": (4, 0, 0, 0, 0),
    "H2O": (2, 0, 0, 0, 0),
    "C2H4": (4, 1, 0, 0, 0),
    "C2H2": (2, 0, 1, 0, 0),
    "HCN": (1, 0, 1, 0, 0),
    "CO2": (0, 2, 0, 0, 0),
    "H2CO": (2, 1, 0, 0, 0),
    "C3H4_D2d": (4, 2, 0, 0, 0),
    "C3H4_C3v": (5, 0, 1, 0, 0),
    "H2CCO": (2, 2, 0, 0, 0),
    "C6H6": (6, 0, 0, 6, 0),
    "C5H5N": (5, 0, 0, 6, 0),
    "C4H4O": (4, 0, 0, 5, 0),
    "C4H4NH": (5, 0, 0, 5, 0),
    "C4H4S": (4, 0, 0, 5, 0),
    "cyclobutene": (9, 1, 0, 0, 0),
    "C3H4_C2v": (6, 1, 0, 0, 0),
    "bicyclobutane": (11, 0, 0, 0, 0),
    "CH3CONH2": (7, 1, 0, 0, 0),
    "CH3NO2": (5, 1, 0, 0, 2),
    "HCOOH": (3, 1, 0, 0, 0),
    "butadiene": (7, 2, 0, 0, 0),
    "NCCN": (1, 0, 2, 0, 0),
    "CH3COF": (5, 1, 0, 0, 0),
    "isobutene": (10, 1, 0, 0, 0),
    "H2CCHCN": (4, 1, 1, 0, 0),
    "CH3ONO": (5, 1, 0, 0, 0),
    "N2": (0, 0, 1, 0, 0),
    "SiH4": (4, 0, 0, 0, 0),
}


def kinds_of(table: BondTable, place=0) -> tuple[int, ...]:
    return tuple(np.bincount(table[place].kinds, minlength=5)[1:].tolist())


def test_known_molecules():
    found = perceive(molecules(KNOWN))
    charged = np.add.reduceat(found.charges != 0, molecules(KNOWN).offsets[:-1])
    for place, (name, expected) in enumerate(KNOWN.items()):
        assert (*kinds_of(found.table, place), charged[place]) == expected, name
    assert not found.unusual.any()
    assert found.charges.sum() == 0


def test_orders_and_charges_fill_every_valence():
    whole = molecules(KNOWN)
    found = perceive(whole)
    atoms = whole.offsets[found.table.structure_of_bond][:, None] + found.table.ends
    filled = np.bincount(atoms.ravel(), np.repeat(found.orders, 2), minlength=whole.num_atoms)
    assert np.array_equal(
        filled, VALENCES[whole.atomic_numbers] + found.charges
    )  # N+ has one more, O- one less


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), name=st.sampled_from(list(KNOWN)))
def test_motion_and_order_of_atoms_change_nothing(seed, name):
    rng = np.random.default_rng(seed)
    one = molecules([name])
    order = rng.permutation(one.num_atoms)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    moved = Structures(
        one.atomic_numbers[order],
        (one.positions @ turn + rng.standard_normal(3))[order],
        one.counts,
    )
    first, second = perceive_bonds(one), perceive_bonds(moved)
    assert kinds_of(first) == kinds_of(second) == KNOWN[name][:4]
    back = BondTable.sorted(np.zeros(len(second.ends), int), order[second.ends], second.kinds, 1)
    same = (back.kinds == first.kinds) | (name == "CH3NO2")  # whose two oxygens are alike
    assert np.array_equal(back.ends, first.ends)
    assert same.all()


def test_company_changes_nothing():
    names, done = list(KNOWN), []
    together = perceive_bonds(molecules(names), done.append)
    assert sum(done) == len(names)
    for place in (0, 7, 10, 19):
        alone, part = perceive_bonds(molecules([names[place]])), together[place]
        assert np.array_equal(alone.ends, part.ends)
        assert np.array_equal(alone.kinds, part.kinds)
    apart = Structures.concatenate([molecules(["C6H6"]), molecules(["CH3NO2"])])
    apart.positions[12:] += 30.0
    pair = dataclasses.replace(apart, counts=np.array([19]))  # both in one structure
    assert kinds_of(perceive_bonds(pair)) == (6 + 5, 1, 0, 6)


def test_zwitterion_and_radical():
    glycine = (  # NH3+ CH2 COO-, bond lengths of the crystal
        [7, 1, 1, 1, 6, 1, 1, 6, 8, 8],
        [
            [1.83, -0.02, 0],
            [2.2, -0.5, 0.83],
            [2.2, -0.5, -0.83],
            [2.13, 0.95, 0],
            [0.36, 0, 0],
            [0, 0.52, 0.89],
            [0, 0.52, -0.89],
            [-0.16, -1.45, 0],
            [0.7, -2.36, 0],
            [-1.39, -1.6, 0],
        ],
    )
    found = perceive(Structures(np.array(glycine[0]), np.array(glycine[1]), np.array([10])))
    assert found.charges[0] == 1
    assert sorted(found.charges[8:].tolist()) == [-1, 0]
    assert not found.unusual[0]
    assert kinds_of(found.table) == (8, 1, 0, 0)
    radicals = perceive(molecules(["CH3", "CH4", "NH2", "C2H3", "NO2"]))
    assert radicals.unusual.tolist() == [True, False, True, True, True]
    assert kinds_of(radicals.table, 3) == (3, 1, 0, 0)


def test_kekule_structures_become_aromatic():
    whole = molecules(KNOWN)
    found = perceive(whole)
    assert (found.table.kinds == BOND_KINDS["aromatic"]).sum() == 27
    kekule = BondTable(found.table.ends, found.orders, found.table.counts)
    assert np.array_equal(with_aromatic(whole, kekule).kinds, found.table.kinds)


def test_rings_of_four_and_eight_electrons_are_not_aromatic():
    """Regular rings of CH: Hückel's rule decides, not the shape; a bond of 1.35 and one of 1.45
    Angstrom in turn.
    """
    for size, aromatic in ((4, 0), (6, 6), (8, 0)):
        turn = (
            np.concatenate([[0.0], np.cumsum([1.35, 1.45] * (size // 2))[:-1]])
            * 2
            * np.pi
            / (1.4 * size)
        )
        circle = np.stack([np.cos(turn), np.sin(turn), np.zeros(size)], 1)
        radius = 0.7 / np.sin(np.pi / size)
        points = np.concatenate([radius * circle, (radius + 1.09) * circle])
        ring = Structures(np.repeat([6, 1], size), points, np.array([2 * size]))
        found = perceive_bonds(ring)
        assert kinds_of(found) == (
            (size, 0, 0, 6) if aromatic else (size + size // 2, size // 2, 0, 0)
        )
        doubles = found.ends[found.kinds == BOND_KINDS["double"]]
        assert (
            np.linalg.norm(points[doubles[:, 0]] - points[doubles[:, 1]], axis=1).max(initial=0)
            < 1.4
        )  # the short ones


def polygon(size: int, side=1.4) -> np.ndarray:
    """Corners (size, 3) of a regular polygon beside the y axis, of which the first and the last lie
    on it.
    """
    turn = np.pi / size * (2 * np.arange(size) + 1)
    corners = side / 2 / np.sin(np.pi / size) * np.stack([-np.cos(turn), np.sin(turn), 0 * turn], 1)
    return corners - [corners[0, 0], 0, 0]


@pytest.mark.parametrize("sizes, shared", [((6, 6), "aromatic"), ((5, 7), "single")])
def test_two_rings_that_share_a_bond(sizes, shared):
    """Naphthalene and azulene: ten electrons around both; of azulene's rings neither has six
    alone.
    """
    carbon = np.concatenate([polygon(sizes[0]), polygon(sizes[1])[1:-1] * [-1, 1, 1]])
    near = [
        carbon[((gap := np.linalg.norm(carbon - point, axis=1)) > 0.1) & (gap < 1.5)] - point
        for point in carbon
    ]
    outward = [
        -vectors.sum(0) / np.linalg.norm(vectors.sum(0)) for vectors in near if len(vectors) == 2
    ]
    hydrogen = np.array(
        [point for point, vectors in zip(carbon, near, strict=True) if len(vectors) == 2]
    ) + 1.09 * np.array(outward)
    found = perceive_bonds(
        Structures(np.repeat([6, 1], [10, 8]), np.concatenate([carbon, hydrogen]), np.array([18]))
    )
    inner = found.kinds[(found.ends == [0, sizes[0] - 1]).all(1)]
    assert inner.tolist() == [BOND_KINDS[shared]]
    assert (found.kinds == BOND_KINDS["aromatic"]).sum() == 10 + (shared == "aromatic")


def test_no_bonds_and_periodic():
    atom = Structures(np.array([1, 2]), np.array([[0, 0, 0], [0, 0, 5.0]]), np.array([1, 1]))
    assert len(perceive_bonds(atom)) == 2
    assert perceive_bonds(atom).ends.shape == (0, 2)
    assert len(perceive_bonds(atom[:0])) == 0
    with pytest.raises(
        ValueError,
        match="bonds are perceived in open structures, structure 0 is periodic; use a cutoff graph",
    ):
        perceive_bonds(random_crystals())


def test_table_is_sorted_and_whole():
    table = BondTable.sorted(
        np.array([1, 0, 1, 1, 0]), [[3, 1], [0, 2], [0, 1], [1, 3], [1, 0]], [2, 1, 1, 2, 3], 3
    )
    assert table.ends.tolist() == [[0, 1], [0, 2], [0, 1], [1, 3]]
    assert table.kinds.tolist() == [3, 1, 1, 2]
    assert table.counts.tolist() == [2, 2, 0]
    assert table.offsets.tolist() == [0, 2, 4, 4]
    again = table[[1, 2, 0]]
    assert again.ends.tolist() == [[0, 1], [1, 3], [0, 1], [0, 2]]
    assert again.counts.tolist() == [2, 0, 2]
    with pytest.raises(
        ValueError,
        match=r"the bond \[1, 3\] of structure 1 is of the kinds 2 and 1; correct the file",
    ):
        BondTable.sorted(np.array([1, 1]), [[3, 1], [1, 3]], [2, 1], 2)
    for ends, kinds, counts, message in (
        ([[1, 1]], [1], [1], r"the ends of a bond must be a < b, got \[1, 1\] in structure 0"),
        (
            [[0, 2], [0, 1]],
            [1, 1],
            [0, 2],
            "bonds must be sorted, each given once; structure 1 is not",
        ),
        ([[0, 1]], [5], [1], r"kinds of bonds must lie in 0 \.\. 4, got 5"),
        ([[0, 1]], [1], [2], "2 bonds by their counts need as many ends and kinds, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            BondTable(ends, kinds, counts)
