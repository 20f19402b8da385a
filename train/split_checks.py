"""Checks of a split of structures before anything is trained or written."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from farfield.common import memory_errors
from farfield.dataloader.datasets.structure_dataset import StructureDataset


def check_not_empty(dataset: StructureDataset, split: str, folder: str | Path) -> None:
    """``ValueError`` for a split without structures; folder: where it comes from."""
    if not len(dataset):
        raise ValueError(
            f"the {split} split of {folder} is empty; preprocess with other sizes of the splits"
        )


def try_structures(model: nn.Module, split: str, dataset: StructureDataset) -> None:
    """``ValueError`` for structures that the network refuses.

    The largest structure of each kind of periodicity, all in one batch: what the network accepts of
    these it accepts of all.
    """
    batch = dataset[dataset.largest_of_each_kind()]
    try:
        with memory_errors.naming(lambda: memory_errors.words_of([batch])):
            model.eval()(batch.to(dtype=next(model.parameters()).dtype))
    except ValueError as error:
        raise ValueError(f"{split} split of the data: {error}") from None
    model.train()
