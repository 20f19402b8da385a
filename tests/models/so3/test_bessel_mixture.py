"""Sums of Bessel functions over wave numbers are the sums as written, with all derivatives."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from farfield.models.so3.bessel import bessel_mixture, scaled_bessel
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw


def mixture_as_written(squared: Tensor, wave_numbers: Tensor, weights: Tensor) -> Tensor:
    # (n, q, l)
    functions = scaled_bessel(squared[:, None] * wave_numbers.square(), weights.shape[0] - 1)
    return torch.einsum("nql,lhq->lhn", functions, weights)


@pytest.mark.parametrize("ahead", [0, 1, 2])
@pytest.mark.parametrize("lmax", [0, 1, 5, 7])
def test_mixture_is_the_sum_it_says(lmax, ahead):
    """Values, and derivatives of three orders by r^2 and by the weights.

    Also of orders that were not foreseen.
    """
    squared = torch.linspace(0, 200, 61, dtype=torch.float64)
    kappa = torch.tensor([0.05, 0.4, 1.1], dtype=torch.float64)
    weights, upstream = draw(lmax + 1, 2, 3, seed=4), draw(lmax + 1, 2, 61, seed=5)
    columns = []
    for function in (functools.partial(bessel_mixture, ahead=ahead), mixture_as_written):
        leaves = [tensor.clone().requires_grad_(True) for tensor in (squared, weights)]
        value = (function(leaves[0], kappa, leaves[1]) * upstream).sum((0, 1))
        column = [value]
        for _ in range(3):
            column += torch.autograd.grad(
                column[-2 if len(column) > 1 else 0].sum(), leaves, create_graph=True
            )
        columns.append(column)
    for found, expected in zip(*columns, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("ahead", [0, 2])
def test_derivatives_of_mixtures_match_differences(ahead):
    """So do the derivatives of the derivatives.

    A network trained on forces takes them by the weights and by the positions.
    """
    kappa = torch.tensor([0.3, 1.0], dtype=torch.float64)
    squared = torch.tensor([0.0, 0.7, 30.0], dtype=torch.float64, requires_grad=True)
    weights = draw(3, 2, 2, seed=6).requires_grad_(True)

    def call(squared: Tensor, weights: Tensor) -> Tensor:
        return bessel_mixture(squared, kappa, weights, ahead)

    def slope(squared: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            call(squared, weights).square().sum(), (squared, weights), create_graph=True
        )

    assert_all_derivatives(call, (squared, weights))
    assert torch.autograd.gradgradcheck(slope, (squared, weights))


def test_mixtures_refuse_what_they_cannot_foresee():
    with pytest.raises(ValueError, match="ahead must be >= 0 orders of derivatives, got -1"):
        bessel_mixture(torch.ones(2), torch.ones(1), torch.ones(1, 1, 1), -1)
