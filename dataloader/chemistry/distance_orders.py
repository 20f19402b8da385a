"""Bond orders from distances alone, by the table with which generated molecules are counted.

A pair of atoms of the elements Z, Z' at the distance d has the order

    order(d) = number of n in 1, 2, 3 with d < typical_n(Z, Z') + margin_n,

margins 0.10, 0.05 and 0.03 Angstrom for single, double and triple bonds; pairs without a typical
length have no bond. An atom is stable if its orders add up to an allowed valence. Lengths, margins
and valences are those of EDM (Hoogeboom et al. 2022, arXiv 2203.17003, ``qm9/bond_analyze.py``),
whose numbers, made with them, stand in the tables of the field.

What the rule cannot see: aromatic rings (benzene's bonds of 1.395 Angstrom are all single, so
benzene is not stable), formal charges (no ammonium, no nitro group), sulphur with two bonds
(valence 4 alone is allowed: H2S is not stable), and all bonds of aluminium, of B-C, B-N, B-O, B-F
and of other pairs that the table leaves out. :mod:`farfield.dataloader.chemistry.bonds` sees the
first two; :mod:`farfield.dataloader.chemistry.bond_rules` lets the user choose. Cost: quadratic in
the atoms of a molecule.
"""

from __future__ import annotations

import numpy as np
from ase.data import atomic_numbers

from farfield.dataloader.chemistry.bonds import BondTable, pair_blocks, refuse_periodic
from farfield.dataloader.structures import Structures

MARGINS = (0.10, 0.05, 0.03)  # Angstrom, of single, double, triple bonds
PICOMETRE = 0.01  # Angstrom

# typical lengths of bonds, pm; element -> the same and heavier elements
SINGLE = {
    "H": {"H": 74, "B": 119, "C": 109, "N": 101, "O": 96, "F": 92, "Si": 148, "P": 144}
    | {"S": 134, "Cl": 127, "As": 152, "Br": 141, "I": 161},
    "B": {"Cl": 175},
    "C": {"C": 154, "N": 147, "O": 143, "F": 135, "Si": 185, "P": 184, "S": 182, "Cl": 177}
    | {"Br": 194, "I": 214},
    "N": {"N": 145, "O": 140, "F": 136, "P": 177, "S": 168, "Cl": 175, "Br": 214, "I": 222},
    "O": {"O": 148, "F": 142, "Si": 163, "P": 163, "S": 151, "Cl": 164, "Br": 172, "I": 194},
    "F": {"F": 142, "Si": 160, "P": 156, "S": 158, "Cl": 166, "Br": 178, "I": 187},
    "Si": {"Si": 233, "S": 200, "Cl": 202, "Br": 215, "I": 243},
    "P": {"P": 221, "S": 210, "Cl": 203, "Br": 222},
    "S": {"S": 204, "Cl": 207, "Br": 225, "I": 234},
    "Cl": {"Cl": 199, "Br": 214},
    "Br": {"Br": 228},
    "I": {"I": 266},
}
DOUBLE = {
    "C": {"C": 134, "N": 129, "O": 120, "S": 160},
    "N": {"N": 125, "O": 121},
    "O": {"O": 121, "P": 150},
    "P": {"S": 186},
}
TRIPLE = {"C": {"C": 120, "N": 116, "O": 113}, "N": {"N": 110}}

# element -> sums of orders of a stable atom
PUBLISHED_VALENCES = {"H": (1,), "B": (3,), "C": (4,), "N": (3,), "O": (2,), "F": (1,), "Al": (3,)}
PUBLISHED_VALENCES |= {"Si": (4,), "P": (3, 5), "S": (4,), "Cl": (1,), "As": (3,)}
PUBLISHED_VALENCES |= {"Br": (1,), "I": (1,)}
MAX_VALENCE = 7  # larger sums are counted as 7, which no element may have


def _longest() -> np.ndarray:
    """Limits (3, 119, 119), Angstrom, of every order and pair of elements; 0: there is no bond."""
    limits = np.zeros((3, 119, 119))
    for order, table in enumerate((SINGLE, DOUBLE, TRIPLE)):
        for one, others in table.items():
            for other, length in others.items():
                a, b = atomic_numbers[one], atomic_numbers[other]
                limits[order, a, b] = limits[order, b, a] = PICOMETRE * length + MARGINS[order]
    return limits


LONGEST = _longest()


def distance_orders(structures: Structures) -> BondTable:
    """Bonds of open structures; the kind of a bond is its order, 1, 2 or 3.

    ``ValueError`` for periodic structures.
    """
    refuse_periodic(structures)
    found = [(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros(0, np.uint8))]
    for block in pair_blocks(structures):
        one, other = block.elements[..., 0], block.elements[..., 1]

        # a double bond is shorter than the limit of a single one too, so limits are counted
        orders = sum((block.length < limit[one, other]).astype(np.uint8) for limit in LONGEST)
        which, pair = np.nonzero(orders)
        found.append((block.structure[which], block.ends[pair], orders[which, pair]))
    structure, ends, orders = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return BondTable.sorted(structure, ends, orders, len(structures))


def allowed_valence(
    elements: np.ndarray, valence: np.ndarray, allowed: dict[str, tuple[int, ...]]
) -> np.ndarray:
    """Whether each atom (atoms,) has a valence that its element may have.

    elements (atoms,): atomic numbers. valence (atoms,): sums of orders. allowed: symbol -> sums;
    an element that is not there is never stable.
    """
    known = np.zeros((119, MAX_VALENCE + 1), bool)
    for symbol, sums in allowed.items():
        known[atomic_numbers[symbol], list(sums)] = True
    return known[elements, np.minimum(valence, MAX_VALENCE)]
