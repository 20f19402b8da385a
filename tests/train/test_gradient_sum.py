"""Laws of the sum over ranks: one rank alone gets back what it gave, two give the weighted mean."""

from __future__ import annotations

import math

import pytest
import torch

from farfield.common import ranks
from farfield.train.gradient_sum import GradientSum


def weights_with(*gradients):
    """Weights of two numbers each with these gradients."""
    weights = [torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in gradients]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = None if gradient is None else torch.tensor(gradient, dtype=torch.float64)
    return weights


def test_one_rank_alone_gets_back_what_it_gave():
    weights = weights_with([1.0, 2.0], None)
    summed = GradientSum(weights)
    assert summed({"loss": 3.0}, True, 7) == ({"loss": 3.0}, True, 7)
    assert weights[0].grad.tolist() == [1.0, 2.0] and weights[1].grad is None
    # a part of the loss that comes later
    assert summed({"loss": 3.0, "late": 4.0}, True, 7) == ({"loss": 3.0, "late": 4.0}, True, 7)


@pytest.fixture
def other_rank(monkeypatch):
    """Gives a second rank its gradients, scalars, state and samples."""

    def join(gradients, scalars, finite, samples):
        other = GradientSum(weights_with(*gradients))

        def add_up_(message):
            other.names = sorted(scalars)
            numbers = [samples, not finite, 0, *(samples * scalars[name] for name in other.names)]
            message += other._message(finite, samples, numbers)

        monkeypatch.setattr(ranks, "add_up_", add_up_)

    return join


def test_two_ranks_give_the_mean_over_all_samples(other_rank):
    other_rank([[5.0, 6.0], [1.0, 1.0], None], {"loss": 7.0}, True, 1)
    weights = weights_with([1.0, 2.0], None, None)
    assert GradientSum(weights)({"loss": 3.0}, True, 3) == ({"loss": 4.0}, True, 4)
    assert weights[0].grad.tolist() == [2.0, 3.0]
    assert weights[1].grad.tolist() == [0.25, 0.25] and weights[2].grad is None


def test_a_loss_of_one_rank_that_is_not_finite_is_of_all(other_rank):
    other_rank([[math.nan, 1.0]], {"loss": math.nan}, False, 2)
    weights = weights_with([1.0, 2.0])
    scalars, finite, samples = GradientSum(weights)({"loss": 3.0}, True, 2)
    assert math.isnan(scalars["loss"]) and not finite and samples == 4
    assert weights[0].grad.isfinite().all()
