"""Structures with energies and forces, wherever they lie: a folder, or one LMDB file."""

from __future__ import annotations

from pathlib import Path

from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.datasets.streamed_data import StreamedDataset
from farfield.dataloader.storage.structure_lmdb import is_lmdb_name

PotentialData = MoleculeDataset | StreamedDataset


def open_potential_data(path: str | Path, split: str, **options) -> PotentialData:
    """The split of a folder, or of an LMDB file (a name that ends in .lmdb).

    options: of :meth:`MoleculeDataset.open`. ``FileNotFoundError`` or ``ValueError``, one line.
    """
    if is_lmdb_name(path):
        return StreamedDataset(path, split, **options)
    return MoleculeDataset.open(path, split, **options)
