"""The far message of scalars by pairs: the double loop, and derivatives of every order."""

import math

import pytest
import torch
from torch import Tensor

from farfield.models.kernels.pair_sum import gaussian_pair_sum
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw

SCALE = 1.7
GRAPHS, ATOMS, HEADS, TERMS, VALUES = 2, 5, 2, 3, 2
RECEIVERS = [slice(0, ATOMS), slice(1, 4), slice(4, 5)]


def inputs(atoms: int = ATOMS) -> tuple[Tensor, Tensor, Tensor]:
    """Positions, coefficients and values; two atoms of the first graph lie in one place."""
    positions = 2 * draw(GRAPHS, atoms, 3, seed=0)
    positions[0, -1] = positions[0, 0]
    values = draw(GRAPHS, atoms, HEADS, VALUES, seed=2)
    leaves = (positions, draw(HEADS, TERMS, seed=1), values)
    return tuple(leaf.requires_grad_(True) for leaf in leaves)


def double_loop(
    receivers: slice, positions: Tensor, coefficients: Tensor, values: Tensor
) -> Tensor:
    """The sum atom by atom, with the formula of the kernel."""
    graphs, atoms, heads, width = values.shape
    rows = []
    for graph in range(graphs):
        for i in range(atoms)[receivers]:
            total = torch.zeros(heads, width, dtype=torch.float64)
            for j in range(atoms):
                squared = (positions[graph, i] - positions[graph, j]).square().sum()
                powers = torch.stack([squared**p for p in range(coefficients.shape[1])])
                kernel = coefficients @ powers * torch.exp(-squared / (2 * SCALE**2))
                total = total + kernel.unsqueeze(1) * values[graph, j]
            rows.append(total)
    return torch.stack(rows).unflatten(0, (graphs, -1))


@pytest.fixture(params=RECEIVERS, ids=["all", "some", "one"])
def receivers(request) -> slice:
    """All atoms of a graph, or a part of them."""
    return request.param


def test_sum_is_the_double_loop(receivers):
    expected = double_loop(receivers, *inputs())
    found = gaussian_pair_sum(SCALE, receivers, *inputs())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_lone_atom_hears_itself():
    positions, coefficients, values = inputs(atoms=1)
    found = gaussian_pair_sum(SCALE, slice(0, 1), positions, coefficients, values)
    torch.testing.assert_close(found, coefficients[:, :1] * values, rtol=1e-14, atol=0)


def test_derivatives_of_first_to_third_order(receivers):
    def summed(*arguments: Tensor) -> Tensor:
        return gaussian_pair_sum(SCALE, receivers, *arguments)

    def slopes(*arguments: Tensor) -> tuple[Tensor, ...]:
        total = summed(*arguments).square().sum()
        return torch.autograd.grad(total, arguments, create_graph=True)

    assert_all_derivatives(summed, inputs())
    assert_all_derivatives(slopes, inputs())


def test_derivatives_are_those_of_the_double_loop(receivers):
    """First and second derivatives, exact to rounding where differences are not."""
    weights = draw(GRAPHS, len(range(ATOMS)[receivers]), HEADS, VALUES, seed=3)

    def derivatives(function) -> tuple[Tensor, ...]:
        leaves = inputs()
        total = (weights * function(receivers, *leaves).sin()).sum()
        first = torch.autograd.grad(total, leaves, create_graph=True)
        bent = sum(slope.square().sum() for slope in first)
        return *first, *torch.autograd.grad(bent, leaves)

    expected = derivatives(double_loop)
    found = derivatives(lambda *arguments: gaussian_pair_sum(SCALE, *arguments))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            one, other, rtol=0, atol=1e-13 * float(other.detach().abs().max())
        )


@pytest.mark.parametrize("asked", range(3), ids=["positions", "coefficients", "values"])
def test_derivatives_by_one_argument_alone(asked):
    """Where one argument needs a gradient, it is the same as where all do."""
    leaves = inputs()
    alone = [one.detach().requires_grad_(place == asked) for place, one in enumerate(leaves)]

    def second(arguments) -> Tensor:
        total = gaussian_pair_sum(SCALE, slice(0, ATOMS), *arguments).square().sum()
        (slope,) = torch.autograd.grad(total, arguments[asked], create_graph=True)
        return torch.autograd.grad(slope.square().sum(), arguments[asked])[0]

    torch.testing.assert_close(second(alone), second(leaves), rtol=1e-13, atol=1e-13)


def test_values_may_follow_from_the_positions():
    positions, coefficients, values = inputs()

    def slopes(positions: Tensor) -> Tensor:
        moved = values.detach() * positions[..., :1, None].cos()
        total = gaussian_pair_sum(SCALE, slice(0, ATOMS), positions, coefficients.detach(), moved)
        return torch.autograd.grad(total.square().sum(), positions, create_graph=True)[0]

    assert_all_derivatives(slopes, [positions])


def test_float32_far_from_the_origin_is_close_to_float64():
    """Slopes and their gradients by coefficients, of a molecule 1000 Angstrom away."""
    positions, coefficients, values = inputs()
    moved = (positions.detach() + 1000).float()
    found = []
    for dtype in (torch.float64, torch.float32):
        leaves = [one.detach().to(dtype).requires_grad_(True) for one in (moved, coefficients)]
        total = gaussian_pair_sum(SCALE, slice(0, ATOMS), *leaves, values.detach().to(dtype))
        (slope,) = torch.autograd.grad(total.square().sum(), leaves[0], create_graph=True)
        (bend,) = torch.autograd.grad(slope.square().sum(), leaves[1])
        found.append([total.detach(), slope.detach(), bend])
    for exact, rounded in zip(*found, strict=True):
        error = float((rounded.double() - exact).abs().max() / exact.abs().max())
        assert math.isfinite(error) and error < 1e-6
