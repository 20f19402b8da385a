"""Batches in an order that is a pure function of (seed, epoch), from any place inside an epoch.

That makes an exact resume possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from farfield.dataloader.augmentation import NO_AUGMENTATION, Augmentation
from farfield.dataloader.batch_plan import BatchPlan
from farfield.dataloader.batch_shares import EveryFew, Share, SharedPlan
from farfield.dataloader.datasets.epoch_draws import EpochIndices
from farfield.train.packed_batches import packed_in_worker, unpacked

# (batch, epoch, number of the batch in its epoch[, share of the whole batch]) -> what is trained on
Transform = Callable[..., Any]


class EpochLoader:
    """A torch ``DataLoader`` over whole batches, which can start inside an epoch.

    Arguments
        dataset    ``dataset[indices]`` -> batch
        sampler    iterable of index lists with ``set_epoch(int)`` and ``len``
        workers    loader processes (0: this process)
        seed       seed of the workers' random numbers; the global generators are never touched
        transform  changes a batch, given the epoch, the number of the batch in it and, where
                   several ranks share a batch, the `Share`; where it draws, it draws from these
    """

    def __init__(
        self,
        dataset,
        sampler,
        workers: int = 0,
        seed: int = 0,
        transform: Transform | None = None,
    ):
        self.dataset, self.sampler, self.seed = dataset, sampler, seed
        self.workers, self.transform = workers, transform
        self._epoch = self._first = 0
        self._generator = torch.Generator()
        self._loader = DataLoader(
            _BatchesByPlace(dataset, transform),
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
        self._epoch, self._first = number, first
        self._generator.manual_seed(self.seed * 1_000_003 + number)
        return unpacked(iter(self._loader))

    def __iter__(self) -> Iterator:
        return self.epoch(0)

    def whole_batch(self) -> int:
        """Number of samples in the first batch of the first epoch."""
        self.sampler.set_epoch(0)
        indices = next(iter(self.sampler))
        if isinstance(indices, Share):
            return len(indices.places)
        return len(indices.indices if isinstance(indices, EpochIndices) else indices)

    def transformed(self, transform: Transform) -> EpochLoader:
        """The same batches in the same order, changed by ``transform``."""
        return self._with(self.sampler, transform)

    def shared(self, rank: int, ranks: int) -> EpochLoader:
        """The share of one rank of every batch; None for a batch of which it gets nothing."""
        return self._with(SharedPlan(self.sampler, self.dataset, rank, ranks), self.transform)

    def every(self, first: int, step: int) -> EpochLoader:
        """Whole batches ``first``, ``first + step``, ..."""
        return self._with(EveryFew(self.sampler, first, step), self.transform)

    def _with(self, sampler, transform: Transform | None) -> EpochLoader:
        return EpochLoader(self.dataset, sampler, self.workers, self.seed, transform)


class _Place(NamedTuple):
    """Where a batch stands in a run, and what it is made of."""

    epoch: int
    number: int
    indices: Any


class _BatchesByPlace:
    """Batches of a data set, each known by its place in the run."""

    def __init__(self, dataset, transform: Transform | None):
        self.dataset, self.transform = dataset, transform

    def __getitem__(self, place: _Place):
        share = place.indices if isinstance(place.indices, Share) else None
        if share is not None and not len(share.places):
            return None
        batch = self.dataset[place.indices if share is None else share.chosen]
        if self.transform is not None:
            more = () if share is None else (share,)
            batch = self.transform(batch, place.epoch, place.number, *more)
        return packed_in_worker(batch)


class _RestOfEpoch:
    """The batches of the epoch that are still to come, by their places."""

    def __init__(self, owner: EpochLoader):
        self.owner = owner

    def __iter__(self):
        epoch, first = self.owner._epoch, self.owner._first
        numbered = enumerate(islice(iter(self.owner.sampler), first, None), first)
        return (_Place(epoch, number, indices) for number, indices in numbered)

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


def augmented_batches(loader: EpochLoader, config) -> EpochLoader:
    """The training batches as ``--augment`` asks for them; ``loader`` itself without.

    ``ValueError`` in one line for options that do not go together, and for data that cannot be
    turned: the first batch is tried.
    """
    group, copies = config.training.augment, config.training.augment_copies
    if group == NO_AUGMENTATION:
        if copies > 1:
            raise ValueError(
                f"--augment-copies {copies} makes copies that are all alike without --augment; "
                "give --augment rotations or orthogonal"
            )
        return loader
    if config.data.get("cache"):
        raise ValueError(
            f"--cache serves the edge bases of structures as they are stored, --augment {group} "
            "turns them; give --no-cache, or --augment none"
        )

    augmentation = Augmentation(group, copies, config.run.seed)
    try:
        augmentation(loader.dataset[next(iter(loader.sampler))], epoch=0, number=0)
    except ValueError as error:
        raise ValueError(f"--augment {group}: {error}") from None
    return loader.transformed(augmentation)


def defaults_with_augmentation(values: Mapping[str, object]) -> dict[str, object]:
    """Defaults that follow from ``--augment``: no cached bases. values: all options, flat."""
    is_augmented = values.get("augment", NO_AUGMENTATION) != NO_AUGMENTATION
    return {"cache": False} if is_augmented and "cache" in values else {}
