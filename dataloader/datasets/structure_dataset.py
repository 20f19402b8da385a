"""What the data sets of structures share, whatever their labels are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from farfield.dataloader.structure_inputs import find_input
from farfield.dataloader.structures import Structures, rows_of


class StructureDataset:
    """Structures, their sizes, and the atoms that a batch gathers.

    structures: the data. positions (atoms, 3): as batches have them. position_remainder (atoms, 3):
    as ``AtomBatch`` has it, or None.
    """

    def __init__(
        self,
        structures: Structures,
        positions: torch.Tensor,
        position_remainder: torch.Tensor | None = None,
    ):
        self.structures, self.positions = structures, positions
        self.position_remainder = position_remainder
        self.atomic_numbers = torch.from_numpy(structures.atomic_numbers)

    def __len__(self) -> int:
        return len(self.structures)

    @property
    def data_hash(self) -> str:
        """Identifies geometry and labels."""
        return self.structures.data_hash

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that occur, in order."""
        return self.structures.elements.tolist()

    @property
    def atoms_per_structure(self) -> np.ndarray:
        """(structures,)"""
        return self.structures.counts

    def has(self, label: str) -> bool:
        """Whether the structures have a label or another array of ``Structures``."""
        return getattr(self.structures, label) is not None

    def summary(self) -> str:
        """Lines for the reader: count, sizes, elements and labels."""
        return self.structures.summary()

    def largest_of_each_kind(self) -> np.ndarray:
        """The largest structure of each kind of periodicity (kinds,)."""
        return largest_of_kinds(self.structures.counts, self.structures.periodic)

    def places(
        self, indices: int | Sequence[int] | np.ndarray
    ) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """The structures of a batch, as array and as tensor (graphs,), and their atoms (nodes,);
        ``IndexError`` for one there is not.
        """
        ids = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(f"structures are 0 .. {len(self) - 1}, got {ids.min()} .. {ids.max()}")
        atoms = rows_of(self.structures.offsets[ids], self.structures.counts[ids])
        return ids, torch.from_numpy(ids), torch.from_numpy(atoms)


def largest_of_kinds(counts: np.ndarray, periodic: np.ndarray | None) -> np.ndarray:
    """Numbers of the largest structures of each kind (kinds,).

    counts: atoms (structures,). periodic (structures, ...): what makes the kind; None: one kind.
    """
    largest_first = np.argsort(-counts, kind="stable")
    if periodic is None:
        return largest_first[:1]
    found = np.unique(periodic[largest_first], axis=0, return_index=True)[1]
    return largest_first[found]


def read_inputs(
    structures: Structures,
    names: Sequence[str],
    dtype: torch.dtype,
    optional: Sequence[str] = (),
) -> dict[str, torch.Tensor]:
    """Inputs of whole structures (structures,) by name; ValueError for one that is not known.

    optional: names that are read where the structures have them.
    """
    there = [name for name in optional if find_input(structures.extra, name) is not None]
    return {name: _input(structures, name, dtype) for name in dict.fromkeys([*names, *there])}


def _input(structures: Structures, name: str, dtype: torch.dtype) -> torch.Tensor:
    values = find_input(structures.extra, name)
    if values is None:
        held = ", ".join(sorted(structures.extra)) or "none"
        raise ValueError(
            f"the structures have no {name!r}, which the network reads (further values: {held}); "
            "add it to the file of structures, or leave it out of --condition"
        )
    if values.shape != (len(structures),) or not np.isfinite(values).all():
        raise ValueError(f"{name!r} must be one finite number for each structure")
    return torch.from_numpy(values).to(dtype)
