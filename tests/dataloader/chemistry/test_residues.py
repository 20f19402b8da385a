"""Residues of backbones: their tokens, and bonds between their atoms against a search."""

from collections import deque

import numpy as np
import pytest

from farfield.dataloader.chemistry.residues import (
    BACKBONE_TOKENS,
    RESIDUE_TYPES,
    STANDARD_RESIDUES,
    UNKNOWN_RESIDUE,
    backbone_hops,
    backbone_numbers,
    backbone_tokens,
    bonded_pairs,
    residue_type,
)


def searched_bonds(residues: int) -> np.ndarray:
    """Number of bonds between all atoms (atoms, atoms), by a breadth-first search."""
    atoms = 4 * residues
    bonded: dict[int, list[int]] = {atom: [] for atom in range(atoms)}
    for first in range(0, atoms, 4):
        bonds = [(first, first + 1), (first + 1, first + 2), (first + 2, first + 3)]
        if first + 4 < atoms:
            bonds.append((first + 2, first + 4))
        for one, other in bonds:
            bonded[one].append(other)
            bonded[other].append(one)

    found = np.full((atoms, atoms), -1)
    for start in range(atoms):
        found[start, start] = 0
        queue = deque([start])
        while queue:
            atom = queue.popleft()
            for other in bonded[atom]:
                if found[start, other] < 0:
                    found[start, other] = found[start, atom] + 1
                    queue.append(other)
    return found


@pytest.mark.parametrize("residues", [1, 2, 7])
@pytest.mark.parametrize("max_hops", [1, 3, 8])
def test_bonds_are_those_of_a_search(residues, max_hops):
    expected = searched_bonds(residues)
    expected[expected > max_hops] = 0
    one, other = (axis.ravel() for axis in np.indices(expected.shape))
    assert np.array_equal(backbone_hops(one, other, max_hops), expected.ravel())

    pairs = set(zip(*(axis.tolist() for axis in bonded_pairs(residues, max_hops)), strict=True))
    assert pairs == {(int(i), int(j)) for i, j in np.argwhere(expected > 0)}


def test_tokens_tell_residue_and_atom():
    residues = np.array([residue_type("GLY"), residue_type("MSE")])
    tokens = backbone_tokens(residues)
    assert np.array_equal(tokens // 4, [7, 7, 7, 7, 20, 20, 20, 20])
    assert np.array_equal(tokens % 4, [0, 1, 2, 3, 0, 1, 2, 3])
    assert np.array_equal(backbone_numbers(2), [7, 6, 6, 8, 7, 6, 6, 8])

    everything = backbone_tokens(np.arange(RESIDUE_TYPES))
    assert np.array_equal(everything, np.arange(BACKBONE_TOKENS))


def test_types_of_residues_have_one_order():
    assert list(STANDARD_RESIDUES) == sorted(set(STANDARD_RESIDUES)) and UNKNOWN_RESIDUE == 20
    assert [residue_type(name) for name in STANDARD_RESIDUES] == list(range(20))
    assert residue_type(" val ") == 19 and residue_type("HOH") == UNKNOWN_RESIDUE
