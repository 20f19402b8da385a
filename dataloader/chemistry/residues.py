"""Protein backbones as points: which atoms a residue has, what each is called, what is bonded.

A chain of n residues has 4 n atoms, in the order N, CA, C, O of every residue:

    N - CA - C - N - CA - C - ...
             |           |
             O           O

The number of covalent bonds between two atoms follows from their places alone. With m the place of
an atom in the main chain (3 i, 3 i + 1, 3 i + 2 for N, CA, C of residue i; O has the place of its
C) and d = 1 for O, 0 for the others,

    bonds(a, b) = |m_a - m_b| + d_a + d_b    for a != b.

Cost: constant for a pair.
"""

from __future__ import annotations

import numpy as np

ATOM_NAMES = ("N", "CA", "C", "O")
ATOM_NUMBERS = (7, 6, 6, 8)
ATOMS_PER_RESIDUE = len(ATOM_NAMES)
OXYGEN = ATOM_NAMES.index("O")

STANDARD_RESIDUES = (
    *("ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE"),
    *("LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL"),
)
UNKNOWN_RESIDUE = len(STANDARD_RESIDUES)  # every residue that is not a standard one
RESIDUE_TYPES = len(STANDARD_RESIDUES) + 1
BACKBONE_TOKENS = ATOMS_PER_RESIDUE * RESIDUE_TYPES

_TYPE_OF_NAME = {name: number for number, name in enumerate(STANDARD_RESIDUES)}


def residue_type(name: str) -> int:
    """Number of a residue by its name of three letters; UNKNOWN_RESIDUE for a name of another kind.

    >>> residue_type("ARG"), residue_type("MSE")
    (1, 20)
    """
    return _TYPE_OF_NAME.get(name.strip().upper(), UNKNOWN_RESIDUE)


def backbone_tokens(residues: np.ndarray) -> np.ndarray:
    """What each atom is (4 residues,) int64, from the types of the residues (residues,).

    token = 4 * residue type + place in the residue (N, CA, C, O: 0 .. 3).
    """
    places = np.arange(ATOMS_PER_RESIDUE)
    return (ATOMS_PER_RESIDUE * np.asarray(residues, np.int64)[:, None] + places).ravel()


def backbone_numbers(residues: int) -> np.ndarray:
    """Atomic numbers (4 residues,) int64 of a chain."""
    return np.tile(np.array(ATOM_NUMBERS, np.int64), residues)


def backbone_hops(one: np.ndarray, other: np.ndarray, max_hops: int) -> np.ndarray:
    """Number of covalent bonds between atoms of one chain; 0 for more than ``max_hops``.

    one, other: (pairs,) places of the atoms in their chain. Returns (pairs,) int64; an atom has 0
    bonds to itself.
    """
    main_one, side_one = _place(one)
    main_other, side_other = _place(other)
    bonds = np.abs(main_one - main_other) + side_one + side_other
    return np.where((bonds > max_hops) | (one == other), 0, bonds)


def _place(atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place in the main chain, and 1 for atoms beside it."""
    residue, place = np.divmod(np.asarray(atoms, np.int64), ATOMS_PER_RESIDUE)
    return 3 * residue + np.minimum(place, OXYGEN - 1), (place == OXYGEN).astype(np.int64)


def bonded_pairs(residues: int, max_hops: int) -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs of atoms of a chain that are 1 .. ``max_hops`` bonds apart.

    Returns two lists (pairs,) int64. Cost: linear in the residues.
    """
    atoms = np.arange(ATOMS_PER_RESIDUE * residues)

    # three bonds of the main chain lead to the next residue
    reach = ATOMS_PER_RESIDUE * (max_hops // 3 + 2)
    one = np.repeat(atoms, 2 * reach + 1)
    other = (atoms[:, None] + np.arange(-reach, reach + 1)).ravel()
    inside = (other >= 0) & (other < len(atoms))
    one, other = one[inside], other[inside]
    bonded = backbone_hops(one, other, max_hops) > 0
    return one[bonded], other[bonded]
