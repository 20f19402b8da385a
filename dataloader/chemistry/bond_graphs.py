"""Molecules as graphs of bonds: parts that hang together, colours of atoms, identity.

Colours (Weisfeiler and Leman 1968). With h a fixed mixing function of 64 bits,

    c_0(a)   = h(Z_a)
    c_t+1(a) = h(c_t(a) * odd + sum over bonds (a, b) of h(c_t(b) + h(kind of (a, b))))

modulo 2^64, as many rounds as the structure has atoms, so that a colour never depends on the
company. The key of a molecule is h(sum over its atoms of h(c(a))). Equal molecules have equal keys,
whatever the order of their atoms and their geometry. The converse does not hold: equal keys are
**necessary, not sufficient** for identity. Decalin and bicyclopentyl have the same key; so have
stereoisomers, which have one graph. Among 10,000 molecules of QM9 one pair of different graphs
shares a key. Cost: linear in (bonds x atoms of the largest molecule).
"""

from __future__ import annotations

import numpy as np

from farfield.dataloader.chemistry.bonds import BondTable
from farfield.dataloader.structures import Structures

ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, the step of splitmix64


def num_fragments(
    structures: Structures, table: BondTable, kept: np.ndarray | None = None
) -> np.ndarray:
    """Number of parts (structures,) that no bond joins.

    kept (atoms,) bool: the atoms that count, the others and their bonds are left out; a structure
    without any has no part.
    """
    from scipy.sparse import coo_array  # --help does not wait for it
    from scipy.sparse.csgraph import connected_components

    atoms = structures.num_atoms
    kept = np.ones(atoms, bool) if kept is None else kept
    ends = global_ends(structures, table)
    ends = ends[kept[ends].all(1)]
    links = coo_array((np.ones(len(ends), bool), ends.T), shape=(atoms, atoms))
    label = connected_components(links, directed=False)[1]

    # one atom of every part that has a kept atom
    first = np.unique(np.where(kept, label, -1), return_index=True)[1]
    first = first[kept[first]]
    return np.bincount(structures.structure_of_atom[first], minlength=len(structures))


def atom_colours(structures: Structures, table: BondTable, kinds: np.ndarray) -> np.ndarray:
    """Colours (atoms,) uint64; atoms that a symmetry of the graph exchanges have the same.

    kinds (bonds,): what distinguishes the bonds; ones where only the graph counts.
    """
    colour = _mix(structures.atomic_numbers.astype(np.uint64))
    ends, mark = global_ends(structures, table), _mix(np.asarray(kinds).astype(np.uint64))
    size_at_bond = structures.counts[table.structure_of_bond]
    size_at_atom = structures.counts[structures.structure_of_atom]

    for done in range(int(structures.counts.max(initial=0))):
        # structures that had as many rounds as atoms rest
        more, here = size_at_bond > done, size_at_atom > done
        (a, b), label = ends[more].T, mark[more]
        received = np.zeros_like(colour)
        np.add.at(received, a, _mix(colour[b] + label))
        np.add.at(received, b, _mix(colour[a] + label))
        colour = np.where(here, _mix(colour * ODD + received), colour)
    return colour


def graph_keys(structures: Structures, table: BondTable) -> list[str]:
    """One key of 16 hexadecimal digits a molecule, from elements and kinds of bonds."""
    colour = _mix(atom_colours(structures, table, table.kinds))
    total = np.zeros(len(structures), np.uint64)
    np.add.at(total, structures.structure_of_atom, colour)
    return [f"{key:016x}" for key in _mix(total).tolist()]


def global_ends(structures: Structures, table: BondTable) -> np.ndarray:
    """Ends (bonds, 2) of all bonds, counted over the atoms of all structures."""
    return structures.offsets[table.structure_of_bond][:, None] + table.ends


def _mix(values: np.ndarray) -> np.ndarray:
    """h of (...) uint64: the finaliser of splitmix64 (Steele et al. 2014), one to one."""
    values = values + ODD
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
