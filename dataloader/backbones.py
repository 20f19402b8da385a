"""Chains of protein backbones, and how a set of structures holds them.

A chain is one piece without a gap: residues 0 .. n - 1, each with N, CA, C and O. A set of chains
is a :class:`~farfield.dataloader.structures.Structures` with 4 n atoms a chain, in this order, and
``extra["residues"]`` (structures, residues of the longest chain) int64: types of the residues (see
dataloader.chemistry.residues), NO_RESIDUE behind the end of a chain. So chains are saved, divided
and gathered as all structures are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from farfield.dataloader.chemistry.residues import (
    ATOMS_PER_RESIDUE,
    RESIDUE_TYPES,
    backbone_numbers,
)
from farfield.dataloader.structures import Structures

RESIDUES = "residues"  # name of the extra array
NO_RESIDUE = -1


class BackboneChain(NamedTuple):
    """One piece of a backbone.

    name: for the reader. residues: (residues,) int64, types. positions: (residues, 4, 3) float64,
    Angstrom, of N, CA, C, O.
    """

    name: str
    residues: np.ndarray
    positions: np.ndarray


def backbone_structures(chains: Sequence[BackboneChain], theory: str = "") -> Structures:
    """The chains as structures; ``ValueError`` for no chain at all, and for values not finite."""
    if not chains:
        raise ValueError("no chains were given; give at least one")
    lengths = np.array([len(chain.residues) for chain in chains])
    residues = np.full((len(chains), lengths.max()), NO_RESIDUE, np.int64)
    for row, chain in zip(residues, chains, strict=True):
        row[: len(chain.residues)] = chain.residues

    return Structures(
        atomic_numbers=backbone_numbers(int(lengths.sum())),
        positions=np.concatenate([chain.positions.reshape(-1, 3) for chain in chains]),
        counts=ATOMS_PER_RESIDUE * lengths,
        names=np.array([chain.name for chain in chains]),
        extra={RESIDUES: residues},
        theory=theory,
    )


def chain_residues(structures: Structures) -> np.ndarray:
    """Types of the residues (residues of all structures,) int64, chain after chain.

    ``ValueError`` for structures that are no backbones.
    """
    table = structures.extra.get(RESIDUES)
    if table is None or table.ndim != 2 or (structures.counts % ATOMS_PER_RESIDUE).any():
        raise ValueError("the structures are no protein backbones (they have no residues)")

    present = table != NO_RESIDUE
    if not np.array_equal(present.sum(1), structures.counts // ATOMS_PER_RESIDUE):
        raise ValueError("the residues of the backbones do not fit their atoms")
    residues = table[present]
    if len(residues) and not 0 <= residues.min() <= residues.max() < RESIDUE_TYPES:
        raise ValueError(
            f"types of residues must lie in 0 .. {RESIDUE_TYPES - 1}, got {residues.min()} .. "
            f"{residues.max()}"
        )
    return residues
