"""Orders by distance: against the rule written as nested questions, pair by pair."""

import numpy as np
import pytest
from ase.data import chemical_symbols

from farfield.dataloader.chemistry.distance_orders import (
    DOUBLE,
    LONGEST,
    PUBLISHED_VALENCES,
    SINGLE,
    TRIPLE,
    allowed_valence,
    distance_orders,
)
from farfield.dataloader.structures import Structures
from tests.support.molecule_data import random_crystals, random_structures
from tests.support.qm9_data import molecules


def asked_pair_by_pair(one: str, other: str, distance: float) -> int:
    """The order of a bond, one question after the other; distance in Angstrom."""

    def length(table):
        return table.get(one, {}).get(other) or table.get(other, {}).get(one)

    if length(SINGLE) is None or not 100 * distance < length(SINGLE) + 10:
        return 0
    if length(DOUBLE) is None or not 100 * distance < length(DOUBLE) + 5:
        return 1
    if length(TRIPLE) is None or not 100 * distance < length(TRIPLE) + 3:
        return 2
    return 3


def test_all_pairs_of_clouds_agree_with_the_questions():
    elements = [1, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 33, 35, 53, 10]
    clouds = random_structures((12, 5, 1, 12, 9), elements=elements, spread=1.2)
    table, orders_met = distance_orders(clouds), set()
    for place in range(len(clouds)):
        one, found = clouds[place], table[place]
        expected = {}
        for a in range(one.num_atoms):
            for b in range(a + 1, one.num_atoms):
                symbols = [chemical_symbols[one.atomic_numbers[atom]] for atom in (a, b)]
                gap = np.linalg.norm(one.positions[a] - one.positions[b])
                if order := asked_pair_by_pair(*symbols, gap):
                    expected[a, b] = order
        pairs = map(tuple, found.ends.tolist())
        assert dict(zip(pairs, found.kinds.tolist(), strict=True)) == expected
        orders_met |= set(expected.values())
    assert orders_met == {1, 2, 3}


def test_higher_orders_are_shorter():
    """So that counting limits is the same as asking for one order after the other."""
    double, triple = LONGEST[1] > 0, LONGEST[2] > 0
    assert (LONGEST[0][double] > LONGEST[1][double]).all()
    assert (LONGEST[1][triple] > LONGEST[2][triple]).all()
    assert np.array_equal(LONGEST, LONGEST.swapaxes(1, 2))


# molecule -> number of single, double, triple bonds
KNOWN = {
    "CH4": (4, 0, 0),
    "C2H6": (7, 0, 0),
    "C2H4": (4, 1, 0),
    "C2H2": (2, 0, 1),
    "HCN": (1, 0, 1),
    "N2": (0, 0, 1),
    "CO2": (0, 2, 0),
    "H2CO": (2, 1, 0),
    "H2O": (2, 0, 0),
    "CH3Cl": (4, 0, 0),
    "C6H6": (12, 0, 0),  # 1.395 Angstrom is longer than 1.34 + 0.05
}


def test_known_molecules():
    table = distance_orders(molecules(KNOWN))
    for place, (name, expected) in enumerate(KNOWN.items()):
        assert tuple(np.bincount(table[place].kinds, minlength=4)[1:]) == expected, name


def test_the_limit_itself_is_no_bond():
    for shift, order in ((-1e-9, 1), (1e-9, 0)):
        pair = Structures(np.array([6, 6]), [[0, 0, 0], [1.64 + shift, 0, 0]], np.array([2]))
        assert distance_orders(pair).kinds.tolist() == [1] * order


def test_valences():
    elements, sums = np.array([15, 15, 15, 16, 16, 2, 6]), np.array([3, 4, 5, 4, 2, 0, 40])
    assert allowed_valence(elements, sums, PUBLISHED_VALENCES).tolist() == [
        *(True, False, True),
        *(True, False),
        False,  # helium has no bond, but nobody says that it may
        False,
    ]


def test_periodic_structures_are_refused():
    with pytest.raises(ValueError, match="structure 0 is periodic; use a cutoff graph"):
        distance_orders(random_crystals())


def test_published_valences_follow_the_group():
    """Electrons to the next octet, and what the published rule says of P and S besides."""
    groups = {"H": 1, "B Al": 3, "C Si": 4, "N P As": 3, "O": 2, "F Cl Br I": 1}
    expected = {symbol: (sums,) for names, sums in groups.items() for symbol in names.split()}
    assert {**expected, "P": (3, 5), "S": (4,)} == PUBLISHED_VALENCES
