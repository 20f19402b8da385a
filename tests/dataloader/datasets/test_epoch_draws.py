"""Draws are functions of what they are for, and nothing else."""

import itertools

from farfield.dataloader.batch_plan import BatchPlan
from farfield.dataloader.datasets.epoch_draws import (
    Draws,
    EpochIndices,
    EpochPlan,
    epoch_and_indices,
)


class Sizes:
    """Seven structures, as plans read them."""

    def __len__(self):
        return 7


def first(split, seed, epoch, structure):
    return Draws(split, seed).generator(epoch, structure).random()


def test_every_use_has_draws_of_its_own():
    uses = list(itertools.product(("train", "val"), (0, 1), (0, 3), (0, 5)))
    training = {first(*use) for use in uses}
    assert len(training) == 8, "the seed, the epoch and the structure count, the split does not"
    assert {first(*use) for use in uses} == training, "a generator is fresh each time"

    splits = itertools.product(("train", "val", "test"), (0, 1), (None,), (0, 5))
    evaluation = {first(*use) for use in splits}
    assert len(evaluation) == 6, "the split and the structure count, the seed does not"
    assert not evaluation & training


def test_a_plan_says_the_epoch_and_keeps_the_order():
    plan, plain = EpochPlan(Sizes(), batch_size=3, seed=2), BatchPlan(Sizes(), batch_size=3, seed=2)
    for epoch in (0, 4):
        plan.set_epoch(epoch)
        plain.set_epoch(epoch)
        assert list(plan) == [(epoch, batch) for batch in plain]
        assert all(epoch_and_indices(batch)[0] == epoch for batch in plan)
    assert epoch_and_indices([2, 1]) == (None, [2, 1])
    assert epoch_and_indices(EpochIndices(3, [2, 1])) == (3, [2, 1])
