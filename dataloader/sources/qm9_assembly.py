"""From what a reader of QM9 finds in a file to structures with labels, sorted by number."""

from __future__ import annotations

import dataclasses

import numpy as np

from farfield.dataloader.chemistry.bonds import BondTable
from farfield.dataloader.sources.qm9_targets import with_atomisation
from farfield.dataloader.storage.files import naming
from farfield.dataloader.structures import Structures, rows_of

THEORY = "B3LYP/6-31G(2df,p) (QM9)"
NUMBER = "gdb_id"  # name of the molecules' numbers among the labels
SHOWN_FAULTS = 3


@dataclasses.dataclass
class Report:
    """What a file held. broken: (entry, what is wrong with it)."""

    source: str
    read: int
    kept: int
    uncharacterised: int
    broken: list[tuple[str, str]]

    def __str__(self) -> str:
        left_out = f"{self.uncharacterised} uncharacterised, {len(self.broken)} broken"
        text = f"{self.source}: {self.kept} of {self.read} molecules, left out: {left_out}"
        shown = "; ".join(f"{name}: {reason}" for name, reason in self.broken[:SHOWN_FAULTS])
        return text + (
            f" ({shown}{'; ...' if len(self.broken) > SHOWN_FAULTS else ''})" if shown else ""
        )


@dataclasses.dataclass
class Molecules:
    """What a reader hands to :func:`assemble`: arrays in the order of the file.

    values: target -> (molecules, ...) in the project's units. extra: further numbers. ids: gdb
    numbers, or None. broken: found while reading, not among the molecules.
    """

    source: str
    atomic_numbers: np.ndarray
    positions: np.ndarray
    counts: np.ndarray
    values: dict[str, np.ndarray]
    ids: np.ndarray | None = None
    smiles: np.ndarray | None = None
    bonds: BondTable | None = None
    extra: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    theory: str = THEORY
    broken: list[tuple[str, str]] = dataclasses.field(default_factory=list)


class _Selection:
    """Which molecules are good, and what is wrong with the others."""

    def __init__(self, molecules: Molecules):
        count = len(molecules.counts)
        self.names = np.arange(count) if molecules.ids is None else molecules.ids
        self.good = np.ones(count, bool)
        self.broken = list(molecules.broken)

    def leave_out(self, wrong: np.ndarray, reason: str) -> None:
        """Leave out the molecules ``wrong`` (molecules,) bool; each is counted once."""
        for place in np.flatnonzero(wrong & self.good):
            self.broken.append((f"molecule {self.names[place]}", reason))
        self.good[wrong] = False


def assemble(
    molecules: Molecules, uncharacterised: np.ndarray | None
) -> tuple[Structures, BondTable | None, Report]:
    """Structures with labels, their bonds and a report of what was left out.

    Molecules are sorted by number; broken and uncharacterised ones are left out; atomisation
    energies are made. ``ValueError`` that names the source if none is left, or one cannot be right.
    """
    with naming(molecules.source):
        return _assembled(molecules, uncharacterised)


def _assembled(
    molecules: Molecules, uncharacterised: np.ndarray | None
) -> tuple[Structures, BondTable | None, Report]:
    """The same, without the source in messages."""
    count, ids = len(molecules.counts), molecules.ids
    selection = _Selection(molecules)
    _leave_out_infinite(molecules, selection)
    order = np.arange(count) if ids is None else np.argsort(ids, kind="stable")
    if ids is not None:
        selection.leave_out(_repeated(ids, order, selection.good), "its number occurs twice")

    known = np.ones(count, bool)
    if uncharacterised is not None and ids is not None:
        known = ~np.isin(ids, uncharacterised)
    chosen = order[(selection.good & known)[order]]
    report = Report(
        source=molecules.source,
        read=count + len(molecules.broken),
        kept=len(chosen),
        uncharacterised=int((selection.good & ~known).sum()),
        broken=selection.broken,
    )
    if not len(chosen):
        raise ValueError(f"{report}; give a file with molecules of QM9")
    bonds = None if molecules.bonds is None else molecules.bonds[chosen]
    return _structures(molecules, chosen), bonds, report


def _leave_out_infinite(molecules: Molecules, selection: _Selection) -> None:
    """Leave out molecules with a position or a property that is not finite."""
    count = len(molecules.counts)
    owner = np.repeat(np.arange(count), molecules.counts)
    wrong_atoms = ~np.isfinite(molecules.positions).all(1)
    wrong = np.bincount(owner[wrong_atoms], minlength=count) > 0
    selection.leave_out(wrong, "positions are not finite")
    for name, values in molecules.values.items():
        finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        selection.leave_out(~finite, f"{name} is not finite")


def _repeated(ids: np.ndarray, order: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Whether a good molecule before this one, in ``order``, has its number (molecules,) bool."""
    kept = order[good[order]]
    again = np.zeros(len(ids), bool)
    again[kept[1:][ids[kept][1:] == ids[kept][:-1]]] = True
    return again


def _structures(molecules: Molecules, chosen: np.ndarray) -> Structures:
    """The chosen molecules (structures,) with their labels."""
    first = np.concatenate([[0], np.cumsum(molecules.counts)])[:-1]
    counts = molecules.counts[chosen]
    rows = rows_of(first[chosen], counts)
    numbers = molecules.atomic_numbers[rows]

    given = {name: values[chosen] for name, values in molecules.values.items()}
    extra = with_atomisation(given, numbers, counts)
    extra |= {name: array[chosen] for name, array in molecules.extra.items()}
    if molecules.ids is not None:
        extra[NUMBER] = molecules.ids[chosen].astype(np.int64)
    return Structures(
        numbers,
        molecules.positions[rows],
        counts,
        names=None if molecules.smiles is None else molecules.smiles[chosen],
        extra=extra,
        theory=molecules.theory,
    )
