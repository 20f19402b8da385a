"""Bonds of molecules: a table of them, and how they are found where a file gives positions only.

Two atoms are bonded if they are nearer than the sum of their covalent radii (Cordero et al. 2008,
as in ase) + :data:`TOLERANCE`; which bonds are double, triple or aromatic is worked out in
dataloader.chemistry.bond_orders. On QM9 the longest bonds lie at 0.18 Angstrom above the sum (C-C
in cages, N-O), the next pairs of atoms, across cages of small rings, at 0.24. Cost: 0.08 ms a
molecule of QM9.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

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
PAIRS_AT_ONCE = 1 << 20
STEP = 1000  # structures between two calls of progress


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
        self.kinds, self.counts = (
            np.ascontiguousarray(self.kinds, np.uint8),
            np.ascontiguousarray(self.counts, np.int64),
        )
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
        a, b = self.ends.T.astype(np.int64)
        wrong = np.flatnonzero((a < 0) | (a >= b))
        if len(wrong):
            raise ValueError(
                f"the ends of a bond must be a < b, got {self.ends[wrong[0]].tolist()} in "
                f"{self._where(wrong[0])}"
            )
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
        """A table of bonds in any order and direction; structure (bonds,) says whose they are.
        Twice the same bond is kept once; ``ValueError`` where the two are of different kinds.
        """
        ends = np.sort(np.asarray(ends, np.int64).reshape(-1, 2), axis=1)
        order = np.lexsort((ends[:, 1], ends[:, 0], structure))
        structure, ends, kinds = np.asarray(structure)[order], ends[order], np.asarray(kinds)[order]
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
    """What was found: the table, and how the valences came out.

    orders (bonds,) 1, 2 or 3 of one Kekulé structure; charges (atoms,) formal ones; unusual
    (structures,) bool: some atom has not its usual valence, whatever the charges.
    """

    table: BondTable
    orders: np.ndarray
    charges: np.ndarray
    unusual: np.ndarray


def perceive_bonds(
    structures: Structures, progress: Callable[[int], None] | None = None
) -> BondTable:
    """Bonds of open structures from their geometry; ``progress(structures done since the last
    call)``. See :func:`perceive`.
    """
    return perceive(structures, progress).table


def perceive(structures: Structures, progress: Callable[[int], None] | None = None) -> Perception:
    """As :func:`perceive_bonds`, with orders and formal charges. Molecules are neutral.
    ``ValueError`` for periodic structures.
    """
    if structures.periodic is not None and structures.periodic.any():
        where = int(structures.periodic.any(1).argmax())
        raise ValueError(
            f"bonds are perceived in open structures, structure {where} is periodic; use a "
            "cutoff graph"
        )
    structure, ends, slack = bonded_pairs(structures)
    counts = np.bincount(structure, minlength=len(structures))
    kinds, orders = np.ones(len(ends), np.uint8), np.ones(len(ends), np.uint8)
    charges, unusual = np.zeros(structures.num_atoms, np.int8), np.zeros(len(structures), bool)
    atoms = structures.offsets[structure][:, None] + ends
    degree = np.bincount(atoms.ravel(), minlength=structures.num_atoms)
    free = VALENCES[structures.atomic_numbers] - degree  # what single bonds leave
    open_ones = (
        np.add.reduceat(free != 0, structures.offsets[:-1]) > 0 if len(structures) else unusual
    )
    first_bond = np.concatenate([[0], np.cumsum(counts)])
    for place in range(len(structures)):
        if open_ones[place]:
            here, mine = (
                slice(*first_bond[place : place + 2]),
                slice(*structures.offsets[place : place + 2]),
            )
            numbers, pairs = structures.atomic_numbers[mine].tolist(), ends[here].tolist()
            found = assign_orders(numbers, pairs, slack[here].tolist(), free[mine].tolist())
            orders[here], charges[mine], unusual[place] = found.orders, found.charges, found.unusual
            aromatic = mark_aromatic(numbers, pairs, found.orders, found.charges)
            kinds[here] = np.where(aromatic, BOND_KINDS["aromatic"], orders[here])
        if progress is not None and (place + 1) % STEP == 0:
            progress(STEP)
    if progress is not None and len(structures) % STEP:
        progress(len(structures) % STEP)
    return Perception(BondTable(ends, kinds, counts), orders, charges, unusual)


def with_aromatic(structures: Structures, table: BondTable) -> BondTable:
    """The table with aromatic kinds where its single and double bonds make aromatic rings (files
    with Kekulé structures).
    """
    kinds = table.kinds.copy()
    doubles = np.bincount(
        table.structure_of_bond, table.kinds == BOND_KINDS["double"], minlength=len(table)
    )
    for place in np.flatnonzero(doubles):
        here = slice(*table.offsets[place : place + 2])
        numbers = structures.atomic_numbers[slice(*structures.offsets[place : place + 2])].tolist()
        orders, pairs = table.kinds[here].tolist(), table.ends[here].tolist()
        charges = _charges(numbers, pairs, orders)
        kinds[here] = np.where(
            mark_aromatic(numbers, pairs, orders, charges), BOND_KINDS["aromatic"], kinds[here]
        )
    return BondTable(table.ends, kinds, table.counts)


def _charges(numbers: list[int], pairs: list[list[int]], orders: list[int]) -> list[int]:
    """Formal charges that a Kekulé structure implies: those of N and O by their bonds, and C- where
    a carbon has three.
    """
    bonds = [0] * len(numbers)
    for (a, b), order in zip(pairs, orders, strict=True):
        bonds[a] += order
        bonds[b] += order
    surplus = [bonds[atom] - int(VALENCES[number]) for atom, number in enumerate(numbers)]
    return [
        more if number in (N, O) else min(more, 0) if number == C else 0
        for more, number in zip(surplus, numbers, strict=True)
    ]


def bonded_pairs(structures: Structures) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(structure (bonds,), ends (bonds, 2) a < b, length less the sum of the radii (bonds,)),
    sorted.
    """
    found = [(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros(0))]
    for size in np.unique(structures.counts):
        a, b = np.triu_indices(size, 1)
        members = np.flatnonzero(structures.counts == size)
        for part in np.array_split(members, -(-len(members) * len(a) // PAIRS_AT_ONCE) or 1):
            rows = structures.offsets[part][:, None] + np.arange(size)
            points, radii = (
                structures.positions[rows],
                covalent_radii[structures.atomic_numbers[rows]],
            )  # (m, size, 3), (m, size)
            slack = (
                np.sqrt(np.square(points[:, a] - points[:, b]).sum(-1)) - radii[:, a] - radii[:, b]
            )
            which, pair = np.nonzero(slack < TOLERANCE)
            found.append((part[which], np.stack([a[pair], b[pair]], 1), slack[which, pair]))
    structure, ends, slack = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(structure, kind="stable")  # pairs of one structure are in order
    return structure[order], ends[order], slack[order]
