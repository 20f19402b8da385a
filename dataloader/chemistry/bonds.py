"""Bonds of molecules: a table of them, and how they are found where a file gives positions only.

Two atoms are bonded if they are closer than the sum of their covalent radii (Cordero et al. 2008,
as in ase) + :data:`TOLERANCE`; dataloader.chemistry.bond_orders finds which bonds are double,
triple or aromatic. On QM9 the longest bonds are 0.18 Angstrom longer than the sum (C-C in cages,
N-O), the closest pairs without a bond, across cages of small rings, 0.24. Cost: 0.08 ms a molecule
of QM9.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii

from farfield.dataloader.chemistry.bond_orders import (
    VALENCES,
    C,
    N,
    O,
    assign_orders,
    mark_aromatic,
)
from farfield.dataloader.structures import Structures, rows_of

BOND_KINDS = {"none": 0, "single": 1, "double": 2, "triple": 3, "aromatic": 4}
TOLERANCE = 0.22  # Angstrom
PAIRS_PER_STEP = 1 << 20  # whose distances are computed in one call
STRUCTURES_PER_REPORT = 1000  # between two calls of progress


@dataclasses.dataclass
class BondTable:
    """Bonds of structures, end to end; ``ValueError`` for what cannot be right.

    Attributes
        ends    (bonds, 2) int32, atoms a < b counted inside their structure, in the order of
                (structure, a, b)
        kinds   (bonds,) uint8, values of :data:`BOND_KINDS`
        counts  (structures,) int64, bonds of each structure
    """

    ends: np.ndarray
    kinds: np.ndarray
    counts: np.ndarray

    def __post_init__(self):
        self.ends = np.ascontiguousarray(self.ends, np.int32).reshape(-1, 2)
        self.kinds = np.ascontiguousarray(self.kinds, np.uint8)
        self.counts = np.ascontiguousarray(self.counts, np.int64)
        self._check_sizes()
        self._check_order()

    def _check_sizes(self) -> None:
        """As many ends and kinds as the counts say, and only known kinds."""
        total = int(self.counts.sum())
        if self.kinds.shape != (total,) or len(self.ends) != total:
            raise ValueError(
                f"{total} bonds by their counts need as many ends and kinds, got "
                f"{len(self.ends)} and {self.kinds.shape}"
            )
        if total and self.kinds.max() > max(BOND_KINDS.values()):
            raise ValueError(
                f"kinds of bonds must lie in 0 .. {max(BOND_KINDS.values())}, got "
                f"{self.kinds.max()}"
            )

    def _check_order(self) -> None:
        """Ends a < b, bonds sorted by (structure, a, b), each once."""
        a, b = self.ends.T.astype(np.int64)
        wrong = np.flatnonzero((a < 0) | (a >= b))
        if len(wrong):
            raise ValueError(
                f"the ends of a bond must be a < b, got {self.ends[wrong[0]].tolist()} in "
                f"{self._where(wrong[0])}"
            )

        # one number for (structure, a, b) that grows from bond to bond
        key = (self.structure_of_bond << 40) + (a << 20) + b
        wrong = np.flatnonzero(np.diff(key) <= 0)
        if len(wrong):
            raise ValueError(
                f"bonds must be sorted, each given once; {self._where(wrong[0] + 1)} is not: use "
                "BondTable.sorted"
            )

    def _where(self, bond: int) -> str:
        return f"structure {self.structure_of_bond[bond]}"

    def __len__(self) -> int:
        return len(self.counts)

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """First bond of every structure, and the end (structures + 1,)."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    @functools.cached_property
    def structure_of_bond(self) -> np.ndarray:
        """(bonds,)"""
        return np.repeat(np.arange(len(self)), self.counts)

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> BondTable:
        """Bonds of the chosen structures, in the order of ``index``."""
        chosen = np.atleast_1d(np.arange(len(self))[index])
        rows = rows_of(self.offsets[chosen], self.counts[chosen])
        return BondTable(self.ends[rows], self.kinds[rows], self.counts[chosen])

    @classmethod
    def sorted(
        cls, structure: np.ndarray, ends: np.ndarray, kinds: np.ndarray, structures: int
    ) -> BondTable:
        """A table of bonds in any order and direction.

        structure (bonds,): to which structure a bond belongs. A bond that is given twice is kept
        once; ``ValueError`` where its kinds differ.
        """
        ends = np.sort(np.asarray(ends, np.int64).reshape(-1, 2), axis=1)
        order = np.lexsort((ends[:, 1], ends[:, 0], structure))
        structure, ends, kinds = np.asarray(structure)[order], ends[order], np.asarray(kinds)[order]

        # equal bonds are neighbours now
        same = (structure[1:] == structure[:-1]) & (ends[1:] == ends[:-1]).all(1)
        wrong = np.flatnonzero(same & (kinds[1:] != kinds[:-1]))
        if len(wrong):
            bond = f"{ends[wrong[0]].tolist()} of structure {structure[wrong[0]]}"
            raise ValueError(
                f"the bond {bond} is of the kinds {kinds[wrong[0]]} and {kinds[wrong[0] + 1]}; "
                "correct the file"
            )

        keep = np.concatenate([[True], ~same]) if len(ends) else np.zeros(0, bool)
        return cls(ends[keep], kinds[keep], np.bincount(structure[keep], minlength=structures))


@dataclasses.dataclass
class Perception:
    """What was found: the table, and what became of the valences.

    orders (bonds,): 1, 2 or 3, of one Kekulé structure. charges (atoms,): formal charges. unusual
    (structures,) bool: some atom does not have its usual valence, whatever the charges.
    """

    table: BondTable
    orders: np.ndarray
    charges: np.ndarray
    unusual: np.ndarray


def perceive_bonds(
    structures: Structures, progress: Callable[[int], None] | None = None
) -> BondTable:
    """Bonds of open structures from their geometry; see :func:`perceive`.

    progress: called with the number of structures done since the last call.
    """
    return perceive(structures, progress).table


def perceive(structures: Structures, progress: Callable[[int], None] | None = None) -> Perception:
    """As :func:`perceive_bonds`, with orders and formal charges. Molecules are neutral.

    ``ValueError`` for periodic structures.
    """
    refuse_periodic(structures)
    structure, ends, slack = bonded_pairs(structures)
    counts = np.bincount(structure, minlength=len(structures))
    first_bond = np.concatenate([[0], np.cumsum(counts)])
    found = _single_bonds(structures, ends, counts)

    # free (atoms,): valences that single bonds leave; only structures with some need a search
    atoms = structures.offsets[structure][:, None] + ends
    degree = np.bincount(atoms.ravel(), minlength=structures.num_atoms)
    free = VALENCES[structures.atomic_numbers] - degree
    unsaturated = np.zeros(len(structures), bool)
    if len(structures):
        unsaturated = np.add.reduceat(free != 0, structures.offsets[:-1]) > 0

    for place in range(len(structures)):
        if unsaturated[place]:
            bonds = slice(*first_bond[place : place + 2])
            mine = slice(*structures.offsets[place : place + 2])
            _assign(found, structures, place, bonds, mine, slack, free)
        if progress is not None and (place + 1) % STRUCTURES_PER_REPORT == 0:
            progress(STRUCTURES_PER_REPORT)
    if progress is not None and len(structures) % STRUCTURES_PER_REPORT:
        progress(len(structures) % STRUCTURES_PER_REPORT)
    return found


def _single_bonds(structures: Structures, ends: np.ndarray, counts: np.ndarray) -> Perception:
    """All bonds single, all atoms neutral."""
    table = BondTable(ends, np.ones(len(ends), np.uint8), counts)
    return Perception(
        table,
        orders=np.ones(len(ends), np.uint8),
        charges=np.zeros(structures.num_atoms, np.int8),
        unusual=np.zeros(len(structures), bool),
    )


def _assign(
    found: Perception,
    structures: Structures,
    place: int,
    bonds: slice,
    atoms: slice,
    slack: np.ndarray,
    free: np.ndarray,
) -> None:
    """Orders, charges and kinds of one structure, written into ``found``."""
    numbers = structures.atomic_numbers[atoms].tolist()
    pairs = found.table.ends[bonds].tolist()
    orders = assign_orders(numbers, pairs, slack[bonds].tolist(), free[atoms].tolist())
    found.orders[bonds] = orders.orders
    found.charges[atoms] = orders.charges
    found.unusual[place] = orders.unusual

    aromatic = mark_aromatic(numbers, pairs, orders.orders, orders.charges)
    found.table.kinds[bonds] = np.where(aromatic, BOND_KINDS["aromatic"], found.orders[bonds])


def with_aromatic(structures: Structures, table: BondTable) -> BondTable:
    """The table of Kekulé structures, with aromatic kinds where its bonds make aromatic rings."""
    kinds = table.kinds.copy()

    # without a double bond there is no aromatic ring
    is_double = table.kinds == BOND_KINDS["double"]
    doubles = np.bincount(table.structure_of_bond, is_double, minlength=len(table))
    for place in np.flatnonzero(doubles):
        here = slice(*table.offsets[place : place + 2])
        numbers = structures.atomic_numbers[slice(*structures.offsets[place : place + 2])].tolist()
        orders, pairs = table.kinds[here].tolist(), table.ends[here].tolist()
        charges = _charges(numbers, pairs, orders)
        aromatic = mark_aromatic(numbers, pairs, orders, charges)
        kinds[here] = np.where(aromatic, BOND_KINDS["aromatic"], kinds[here])
    return BondTable(table.ends, kinds, table.counts)


def _charges(numbers: list[int], pairs: list[list[int]], orders: list[int]) -> list[int]:
    """Formal charges (atoms,) that a Kekulé structure implies."""
    bonds = [0] * len(numbers)
    for (a, b), order in zip(pairs, orders, strict=True):
        bonds[a] += order
        bonds[b] += order
    return [
        _charge(number, bonds[atom] - int(VALENCES[number])) for atom, number in enumerate(numbers)
    ]


def _charge(number: int, surplus: int) -> int:
    """Charge of an atom with ``surplus`` bonds: any of N and O, and C- with three bonds."""
    if number in (N, O):
        return surplus
    return min(surplus, 0) if number == C else 0


def same_pairs(first: BondTable, second: BondTable) -> np.ndarray:
    """Whether two tables bond the same pairs of each structure, whatever the kinds (structures,).

    Both are of the same structures.
    """
    same = first.counts == second.counts
    for place in np.flatnonzero(same):
        one = first.ends[first.offsets[place] : first.offsets[place + 1]]
        other = second.ends[second.offsets[place] : second.offsets[place + 1]]
        same[place] = np.array_equal(one, other)
    return same


def refuse_periodic(structures: Structures) -> None:
    """Raise ``ValueError`` for periodic structures, whose bonds nobody finds."""
    if structures.periodic is not None and structures.periodic.any():
        where = int(structures.periodic.any(1).argmax())
        raise ValueError(
            f"bonds are perceived in open structures, structure {where} is periodic; use a "
            "cutoff graph"
        )


def bonded_pairs(structures: Structures) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Structure (bonds,), ends (bonds, 2) a < b, and length minus the sum of the radii (bonds,).

    They are sorted by (structure, a, b).
    """
    found = [(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros(0))]
    for block in pair_blocks(structures):
        radii = covalent_radii[block.elements]  # (molecules, pairs, 2)
        slack = block.length - radii[..., 0] - radii[..., 1]
        which, pair = np.nonzero(slack < TOLERANCE)
        found.append((block.structure[which], block.ends[pair], slack[which, pair]))
    structure, ends, slack = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(structure, kind="stable")  # pairs of one structure are in order
    return structure[order], ends[order], slack[order]


class PairBlock(NamedTuple):
    """All pairs of some molecules of one size.

    structure (molecules,); ends (pairs, 2), a < b, sorted; elements (molecules, pairs, 2), atomic
    numbers of the ends; length (molecules, pairs), Angstrom.
    """

    structure: np.ndarray
    ends: np.ndarray
    elements: np.ndarray
    length: np.ndarray


def pair_blocks(structures: Structures) -> Iterator[PairBlock]:
    """All pairs of atoms of every structure, :data:`PAIRS_PER_STEP` at a time."""
    for size in np.unique(structures.counts):
        ends = np.stack(np.triu_indices(size, 1), 1)
        members = np.flatnonzero(structures.counts == size)

        # all molecules of one size together, some at a time
        for part in np.array_split(members, -(-len(members) * len(ends) // PAIRS_PER_STEP) or 1):
            rows = structures.offsets[part][:, None] + np.arange(size)
            points = structures.positions[rows]  # (molecules, size, 3)
            vectors = points[:, ends[:, 0]] - points[:, ends[:, 1]]
            length = np.sqrt(np.square(vectors).sum(-1))
            yield PairBlock(part, ends, structures.atomic_numbers[rows][:, ends], length)
