"""Graphs of bonds: parts are counted, keys depend on the graph alone."""

import numpy as np
import pytest

from farfield.dataloader.chemistry.bond_graphs import atom_colours, graph_keys, num_fragments
from farfield.dataloader.chemistry.bonds import BondTable, perceive_bonds
from farfield.dataloader.structures import Structures
from tests.support.hand_made_molecules import apart, bromochlorofluoromethane, mirrored, reordered
from tests.support.qm9_data import molecules

NAMES = ("CH4", "C6H6", "C2H6", "CH3CH2OH", "CH3OCH3", "isobutane", "trans-butane", "C2H4")


def keys(structures: Structures) -> list[str]:
    return graph_keys(structures, perceive_bonds(structures))


def test_parts():
    pair = apart("CH4", "C6H6")
    both = Structures.concatenate([molecules(["C2H6", "H2"]), pair, molecules(["CH3CH2OH"])])
    table = perceive_bonds(both)
    assert num_fragments(both, table).tolist() == [1, 1, 2, 1]

    # without hydrogens: none of H2, and the two carbons of dimethyl ether hang together by oxygen
    assert num_fragments(both, table, both.atomic_numbers > 1).tolist() == [1, 0, 2, 1]
    ether = molecules(["CH3OCH3"])
    table = perceive_bonds(ether)
    assert num_fragments(ether, table, ether.atomic_numbers == 6).tolist() == [2]
    assert num_fragments(ether, table, ether.atomic_numbers != 8).tolist() == [2]


def test_keys_tell_isomers_apart_and_equal_molecules_not():
    whole = molecules(NAMES)
    found = keys(whole)
    assert len(set(found)) == len(NAMES)
    for place in range(len(NAMES)):
        # alone, and with its atoms in another order
        alone = whole[place]
        order = np.random.default_rng(place).permutation(alone.num_atoms)
        assert keys(alone) == keys(reordered(alone, order)) == found[place : place + 1]


def test_keys_know_the_kinds_of_bonds():
    chain, ends = np.array([6, 6, 6]), [[0, 1], [1, 2]]
    three = Structures(np.tile(chain, 3), np.zeros((9, 3)), np.full(3, 3), check=False)
    table = BondTable(ends * 3, [1, 2, 2, 1, 1, 1], [2, 2, 2])
    first, turned, single = graph_keys(three, table)
    assert first == turned != single


def test_mirror_images_have_one_key():
    one = bromochlorofluoromethane()
    assert keys(one) == keys(mirrored(one))


def test_keys_are_necessary_and_not_sufficient():
    """Decalin (rings share a bond) and bicyclopentyl (a bond joins them) look alike to rounds of
    colours, as the module says.
    """
    ring = [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [0, 5]]
    decalin = [*ring, [0, 6], [6, 7], [7, 8], [8, 9], [5, 9]]
    five = [[0, 1], [1, 2], [2, 3], [3, 4], [0, 4]]
    bicyclopentyl = [*five, *[[a + 5, b + 5] for a, b in five], [0, 5]]
    both = Structures(np.full(20, 6), np.zeros((20, 3)), np.array([10, 10]), check=False)
    table = BondTable.sorted(np.repeat([0, 1], 11), decalin + bicyclopentyl, np.ones(22), 2)
    first, second = graph_keys(both, table)
    assert first == second
    assert num_fragments(both, table).tolist() == [1, 1]


@pytest.mark.parametrize("name, classes", [("C6H6", 2), ("CH3CH2OH", 6), ("isobutane", 4)])
def test_colours_are_the_classes_of_equal_atoms(name, classes):
    one = molecules([name])
    table = perceive_bonds(one)
    colour = atom_colours(one, table, np.ones(len(table.ends)))
    assert len(np.unique(colour)) == classes
