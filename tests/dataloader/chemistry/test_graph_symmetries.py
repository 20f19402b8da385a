"""Symmetries of bond graphs: numbers that group theory gives, and every one a symmetry."""

import itertools

import numpy as np
import pytest

from farfield.dataloader.chemistry import graph_symmetries as module
from farfield.dataloader.chemistry.bond_graphs import atom_colours
from farfield.dataloader.chemistry.bonds import perceive_bonds
from farfield.dataloader.chemistry.graph_symmetries import graph_symmetries
from farfield.dataloader.structures import Structures
from tests.support.hand_made_molecules import apart, neopentane
from tests.support.qm9_data import molecules


def symmetries_of(one: Structures):
    """The symmetries of a molecule, its elements and its bonds."""
    table = perceive_bonds(one)
    colours = atom_colours(one, table, np.ones(len(table.ends)))
    found = graph_symmetries(colours.tolist(), table.ends.tolist())
    return found, one.atomic_numbers, table.ends


def keeps(row, elements, ends) -> bool:
    bonds = {frozenset(pair) for pair in ends.tolist()}
    images = {frozenset((int(row[a]), int(row[b]))) for a, b in ends.tolist()}
    return images == bonds and bool((elements[row] == elements).all())


@pytest.mark.parametrize("name", ["H2", "H2O", "CH4", "C2H4", "CH3Cl", "CO2", "HCN", "H2CO", "O2"])
def test_small_molecules_against_all_permutations(name):
    found, elements, ends = symmetries_of(molecules([name]))
    everything = itertools.permutations(range(len(elements)))
    expected = {row for row in everything if keeps(np.array(row), elements, ends)}
    assert {tuple(row) for row in found.permutations().tolist()} == expected
    assert found.complete
    assert found.count() == len(expected)
    assert found.skeletons[0].tolist() == list(range(len(elements)))


# molecule -> order of its group of permutations
GROUPS = {"C2H6": 72, "C6H6": 12, "CH3CH2OH": 12, "isobutane": 1296, "C3H6_D3h": 48}
GROUPS |= {"bicyclobutane": 16, "C5H5N": 2, "trans-butane": 288}


@pytest.mark.parametrize("name", GROUPS)
def test_known_groups(name):
    found, elements, ends = symmetries_of(molecules([name]))
    rows = found.permutations()
    assert found.complete
    assert len(rows) == found.count() == GROUPS[name]
    assert len(np.unique(rows, axis=0)) == GROUPS[name]
    assert all(keeps(row, elements, ends) for row in rows)


PETERSEN = [(place, (place + 1) % 5) for place in range(5)]
PETERSEN += [(place, place + 5) for place in range(5)]
PETERSEN += [(place + 5, (place + 2) % 5 + 5) for place in range(5)]
# graph whose atoms all look alike -> order of its group
REGULAR = {
    "cube": ([(a, a ^ bit) for a in range(8) for bit in (1, 2, 4) if a < a ^ bit], 48),
    "petersen": (PETERSEN, 120),
    "three to three": ([(a, b) for a in range(3) for b in range(3, 6)], 72),
    "triangle and square": ([(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (5, 6), (3, 6)], 6 * 8),
}


@pytest.mark.parametrize("name", REGULAR)
def test_graphs_that_colours_say_nothing_about(name):
    ends, order = REGULAR[name]
    atoms = 1 + max(max(pair) for pair in ends)
    found = graph_symmetries([0] * atoms, ends)
    rows = found.permutations()
    assert found.complete
    assert len(np.unique(rows, axis=0)) == len(rows) == order
    assert all(keeps(row, np.zeros(atoms), np.array(ends)) for row in rows)


def test_neopentane_and_separate_molecules():
    found, *_ = symmetries_of(neopentane())
    assert found.count() == 24 * 6**4
    twice, elements, ends = symmetries_of(apart("CH4", "CH4"))
    assert twice.count() == 2 * 24**2  # both keep their place or change it
    assert all(keeps(row, elements, ends) for row in twice.permutations()[::97])


def test_limits_end_the_search_and_say_so(monkeypatch):
    monkeypatch.setattr(module, "MOST_SKELETONS", 5)
    found, elements, ends = symmetries_of(molecules(["C6H6"]))
    assert not found.complete
    assert len(found.skeletons) == 5
    monkeypatch.setattr(module, "MOST_STEPS", 20)
    found, elements, ends = symmetries_of(molecules(["C6H6"]))
    assert not found.complete
    assert keeps(found.skeletons[0], elements, ends)


def test_a_long_chain_is_no_deep_recursion():
    count = 3000
    ends = [[atom, atom + 1] for atom in range(count - 1)]
    colours = [min(atom, count - 1 - atom) for atom in range(count)]
    found = graph_symmetries(colours, ends)
    assert found.count() == 2
