"""What is computed again is what was computed: values and derivatives of three orders, in less
memory.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from farfield.models.kernels.recomputation import (
    recomputed,
    recomputed_module,
    weight_views,
)
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.live_bytes import LiveBytes


def bent(x: Tensor, y: Tensor) -> Tensor:
    return torch.sin(x @ y) + x.square().sum() * y.mean(0)


def derivatives(function, x: Tensor, y: Tensor) -> list[Tensor]:
    """Value and three orders of derivatives along random directions, of a chain of calls in which
    each argument depends on the other.
    """
    x, y = x.clone().requires_grad_(True), y.clone().requires_grad_(True)
    found = [function(function(x, y), torch.tanh(y) + x.mean())]
    for _ in range(3):
        slope = (found[-1] * draw(*found[-1].shape, seed=7)).sum()
        by_x, by_y = torch.autograd.grad(slope, (x, y), create_graph=True)
        found += [by_y, by_x]
    return found


@pytest.fixture
def arguments() -> tuple[Tensor, Tensor]:
    return draw(3, 3, seed=0), draw(3, 3, seed=1)


def test_derivatives_of_three_orders(arguments):
    found = derivatives(lambda *given: recomputed(bent, *given), *arguments)
    for one, other in zip(found, derivatives(bent, *arguments), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_one_inside_the_other(arguments):
    def outer(x: Tensor, y: Tensor) -> Tensor:
        return recomputed(bent, torch.cos(x), recomputed(bent, y, x))

    def plain(x: Tensor, y: Tensor) -> Tensor:
        return bent(torch.cos(x), bent(y, x))

    found = derivatives(lambda *given: recomputed(outer, *given), *arguments)
    for one, other in zip(found, derivatives(plain, *arguments), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_second_derivatives_against_differences(arguments):
    leaves = [argument.requires_grad_(True) for argument in arguments]
    assert_all_derivatives(lambda *given: recomputed(bent, *given), leaves)


def test_arguments_without_a_gradient(arguments):
    x, y = arguments
    y.requires_grad_(True)
    (slope,) = torch.autograd.grad(recomputed(bent, x, y).sum(), y, create_graph=True)
    (expected,) = torch.autograd.grad(bent(x, y).sum(), y, create_graph=True)
    assert torch.equal(slope, expected) and not recomputed(bent, x, y.detach()).requires_grad


def test_a_linear_function_has_no_second_derivative(arguments):
    x, y = (argument.requires_grad_(True) for argument in arguments)
    (slope,) = torch.autograd.grad(
        recomputed(lambda x: 2 * x, x * y).square().sum(), x, create_graph=True
    )
    (second,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(second, 8 * y.detach().square())


def test_weights_of_a_module_get_their_gradients(double):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2, bias=False))
    x = draw(5, 3, seed=0).requires_grad_(True)

    def slopes(call) -> list[Tensor]:
        """Gradients of a loss on a slope, as training on forces takes them."""
        (force,) = torch.autograd.grad(call(x).square().sum(), x, create_graph=True)
        return list(torch.autograd.grad(force.square().sum(), [x, *module.parameters()]))

    found = slopes(lambda given: recomputed_module(module, weight_views(module), given))
    for one, other in zip(found, slopes(module), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_only_what_is_asked_for_is_computed():
    """A pass for the positions of a network makes no gradient of its weights."""
    seen = []

    class Noted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, weight):
            return weight.clone()

        @staticmethod
        def backward(ctx, cotangent):
            seen.append(cotangent)
            return cotangent

    x, weight = (draw(3, seed=seed).requires_grad_(True) for seed in (0, 1))
    out = recomputed(lambda x, weight: x * Noted.apply(weight), x, weight.view_as(weight))
    torch.autograd.grad(out.sum(), x, retain_graph=True)
    assert not seen
    out.sum().backward()
    assert seen


def test_memory_of_trained_slopes_does_not_grow_with_the_calls():
    """Of 2 and 12 calls of a function with large temporaries, second derivatives taken."""

    def large(x: Tensor) -> Tensor:
        return torch.sin(x.unsqueeze(0) * torch.linspace(0, 1, 500).unsqueeze(1)).mean(0)

    def peak(call, count: int) -> int:
        x = draw(50, seed=0).requires_grad_(True)
        with LiveBytes() as live:
            y = x
            for _ in range(count):
                y = call(y)
            (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            slope.square().sum().backward()
        return live.peak

    def again(x: Tensor) -> Tensor:
        return recomputed(large, x)

    assert peak(again, 12) <= 1.3 * peak(again, 2)
    assert peak(large, 12) >= 4 * peak(large, 2)
