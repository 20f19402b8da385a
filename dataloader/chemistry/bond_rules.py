"""How bonds are found in geometries, and which atoms are stable: rules to choose from.

| rule | bonds and orders | a stable atom |
|---|---|---|
| edm | distance table of :mod:`farfield.dataloader.chemistry.distance_orders` | EDM's valences |
| edm_sulfur | the same | the same, and sulphur with 2, 4 or 6 |
| perceived | radii, valences (:mod:`farfield.dataloader.chemistry.bonds`) | usual one + charge |

Published tables of generated molecules use "edm"; "perceived" knows aromatic rings and formal
charges. Another rule is a function and one line. Cost: that of the rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from farfield.dataloader.chemistry.bond_graphs import global_ends
from farfield.dataloader.chemistry.bond_orders import VALENCES
from farfield.dataloader.chemistry.bonds import BondTable, perceive
from farfield.dataloader.chemistry.distance_orders import (
    PUBLISHED_VALENCES,
    allowed_valence,
    distance_orders,
)
from farfield.dataloader.structures import Structures
from farfield.models.choices import Registry


@dataclasses.dataclass
class RuledBonds:
    """Bonds of structures, and which of their atoms are stable.

    table: the bonds and their kinds. orders (bonds,): 1, 2 or 3, of one Kekulé structure. charges
    (atoms,): formal charges. stable (atoms,) bool.
    """

    table: BondTable
    orders: np.ndarray
    charges: np.ndarray
    stable: np.ndarray


BondRule = Callable[[Structures], RuledBonds]
BOND_RULES: Registry[BondRule] = Registry("bond rule")


@BOND_RULES.register("edm")
def _published_rule(structures: Structures) -> RuledBonds:
    return _by_distances(structures, PUBLISHED_VALENCES)


@BOND_RULES.register("edm_sulfur")
def _sulfur_rule(structures: Structures) -> RuledBonds:
    return _by_distances(structures, PUBLISHED_VALENCES | {"S": (2, 4, 6)})


@BOND_RULES.register("perceived")
def _perceived_rule(structures: Structures) -> RuledBonds:
    found = perceive(structures)
    usual = VALENCES[structures.atomic_numbers]
    sums = valence_sums(structures, found.table, found.orders)

    # an element without a usual valence (a metal, a noble gas) is never stable
    stable = (usual > 0) & (sums == usual + found.charges)
    return RuledBonds(found.table, found.orders, found.charges, stable)


def _by_distances(structures: Structures, allowed: dict[str, tuple[int, ...]]) -> RuledBonds:
    table = distance_orders(structures)
    sums = valence_sums(structures, table, table.kinds)
    return RuledBonds(
        table,
        orders=table.kinds,
        charges=np.zeros(structures.num_atoms, np.int8),
        stable=allowed_valence(structures.atomic_numbers, sums, allowed),
    )


def valence_sums(structures: Structures, table: BondTable, orders: np.ndarray) -> np.ndarray:
    """Sum of the orders (bonds,) of the bonds of every atom (atoms,) int64."""
    atoms = global_ends(structures, table)
    sums = np.bincount(atoms.ravel(), np.repeat(orders, 2), minlength=structures.num_atoms)
    return sums.astype(np.int64)
