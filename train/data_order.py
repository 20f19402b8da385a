"""Batches in an order that is a pure function of (seed, epoch), from any place inside an epoch.

That makes an exact resume possible.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch.utils.data import DataLoader

from farfield.dataloader.batch_plan import BatchPlan


class EpochLoader:
    """A torch ``DataLoader`` over whole batches, which can start inside an epoch.

    Arguments
        dataset  ``dataset[indices]`` -> batch
        sampler  iterable of index lists with ``set_epoch(int)`` and ``len``
        workers  loader processes (0: this process)
        seed     seed of the workers' random numbers; the global generators are never touched
    """

    def __init__(self, dataset, sampler, workers: int = 0, seed: int = 0):
        self.dataset, self.sampler, self.seed = dataset, sampler, seed
        self._first = 0
        self._generator = torch.Generator()
        self._loader = DataLoader(
            dataset,
            sampler=_RestOfEpoch(self),
            batch_size=None,
            num_workers=workers,
            generator=self._generator,
        )

    def __len__(self) -> int:
        return len(self.sampler)

    def epoch(self, number: int, first: int = 0) -> Iterator:
        """Batches ``first``, ``first + 1``, ... of epoch ``number``."""
        self.sampler.set_epoch(number)
        self._first = first
        self._generator.manual_seed(self.seed * 1_000_003 + number)
        return iter(self._loader)

    def __iter__(self) -> Iterator:
        return self.epoch(0)


class _RestOfEpoch:
    """The batches of the epoch that are still to come."""

    def __init__(self, owner: EpochLoader):
        self.owner = owner

    def __iter__(self):
        return islice(iter(self.owner.sampler), self.owner._first, None)

    def __len__(self):
        return len(self.owner.sampler) - self.owner._first


def shuffled_batches(dataset, config, plan_class: type[BatchPlan] = BatchPlan) -> EpochLoader:
    """Training batches of the sizes that ``config`` allows, in a new order in every epoch.

    plan_class: ``EpochPlan`` for data that are drawn anew in every epoch.
    """
    data, run = config.data, config.run
    plan = plan_class(
        dataset,
        batch_size=config.training.batch_size,
        max_atoms=data.max_atoms_per_batch,
        max_edges=data.max_edges_per_batch,
        seed=run.seed,
    )
    return EpochLoader(dataset, plan, run.workers, run.seed)


def ordered_batches(dataset, max_atoms: int) -> EpochLoader:
    """All structures in order, ``max_atoms`` atoms in a batch at most, or one larger structure."""
    largest = int(dataset.atoms_per_structure.max())
    plan = BatchPlan(dataset, max_atoms=max(max_atoms, largest), shuffle=False)
    return EpochLoader(dataset, plan)
