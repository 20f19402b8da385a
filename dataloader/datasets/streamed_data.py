"""Batches from one LMDB file: structures are read and their neighbours found when a batch is made.

Batches are those of ``MoleculeDataset`` for the same structures, bit for bit. In memory are the
sizes of all structures, 9 bytes each; loader processes share them and the pages of the file. Cost:
0.1 ms for a molecule of 9 atoms, most of it for its neighbours; give the run ``--workers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from farfield.dataloader import prepared_folder
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.datasets.structure_dataset import largest_of_kinds
from farfield.dataloader.graphs import NeighborStore, check_cutoff
from farfield.dataloader.storage.structure_lmdb import StructureLmdb
from farfield.dataloader.structures import Structures
from farfield.models.batch import AtomBatch


class StreamedDataset:
    """The split "train", "val" or "test" of an LMDB file; ``dataset[indices]`` is a batch.

    Arguments
        path    of the file
        split   "train", "val" or "test"
        cutoff  of the neighbour graphs, Angstrom (None: of the file)
        references, dtype, inputs, optional_inputs  as in ``MoleculeDataset``

    ``FileNotFoundError`` or ``ValueError`` with one line for a file that is missing or damaged, or
    whose statistics were made with another cutoff.
    """

    def __init__(
        self,
        path: str | Path,
        split: str,
        *,
        cutoff: float | None = None,
        references: dict[int, float] | None = None,
        dtype: torch.dtype = torch.float32,
        inputs: Sequence[str] = (),
        optional_inputs: Sequence[str] = (),
    ):
        self.file = StructureLmdb.open(path, prepared_folder.LMDB_HINT)
        self.split, self.numbers = split, self.file.splits[split]
        self.cutoff = check_cutoff(self.file.header["cutoff"])
        if cutoff is not None and cutoff != self.cutoff:
            raise ValueError(
                f"{path} was made for the cutoff {self.cutoff} Angstrom, but {cutoff} is needed; "
                f"{prepared_folder.LMDB_HINT} --cutoff {cutoff}"
            )
        self.references = references
        self.options = {"references": references, "dtype": dtype, "inputs": inputs}
        self.options["optional_inputs"] = optional_inputs

        # what batches of one structure have depends on the set
        self.repeats = bool(self._rows(self.file.repeats).any())

    def _rows(self, index: np.ndarray) -> np.ndarray:
        return index[self.numbers.start : self.numbers.stop]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def data_hash(self) -> str:
        """Identifies geometry and labels, as in memory."""
        return self.file.data_hash(self.split)

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that occur, in order."""
        return self.file.header["elements"][self.split]

    @property
    def atoms_per_structure(self) -> np.ndarray:
        """(structures,)"""
        return self._rows(self.file.atoms)

    @property
    def edges_per_structure(self) -> np.ndarray:
        """(structures,)"""
        return self._rows(self.file.edges)

    def has(self, label: str) -> bool:
        """Whether the structures have a label or another array of ``Structures``."""
        return label in self.file.labels

    def summary(self) -> str:
        """Lines for the reader: count, sizes, elements and labels."""
        return self.file.header["summaries"][self.split]

    def largest_of_each_kind(self) -> np.ndarray:
        """The largest structure of each kind of periodicity (kinds,)."""
        return largest_of_kinds(self.atoms_per_structure, self._rows(self.file.repeats))

    def read(self, indices: int | Sequence[int] | np.ndarray) -> Structures:
        """Structures of the split by their numbers in it; ``IndexError`` for one there is not."""
        ids = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(f"structures are 0 .. {len(self) - 1}, got {ids.min()} .. {ids.max()}")
        return self.file.read(self.numbers.start + ids, names=False)

    def __getitem__(self, indices: int | Sequence[int] | np.ndarray) -> AtomBatch:
        structures = self.read(indices)
        neighbors = NeighborStore.compute(structures, self.cutoff, images=self.repeats)
        dataset = MoleculeDataset(structures, neighbors, **self.options)
        return dataset[np.arange(len(structures))]
