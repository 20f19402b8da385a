"""Laws of the layers of one node: formulas, symmetry, derivatives, also at zero features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from farfield.models.layers.fiber_layers import (
    FiberFeedForward,
    FiberGate,
    FiberLinear,
    FiberNorm,
    soft_length,
)
from farfield.models.so3.fibers import Fiber, fiber_width, split_fiber
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.fiber_kernels import random_fiber, turned_fiber
from tests.support.turns import orthogonal, relative_error

FIBER: Fiber = (4, 3, 2)
OTHER: Fiber = (5, 2, 4)


def layers() -> dict[str, tuple[nn.Module, Fiber, Fiber]]:
    """name -> layer in float64 with random weights, fibers that come in and go out."""
    torch.manual_seed(0)
    gate = FiberGate(FIBER)
    made = {
        "linear": (FiberLinear(FIBER, OTHER), FIBER, OTHER),
        "norm": (FiberNorm(FIBER, 1e-2), FIBER, FIBER),
        "gate": (gate, gate.fiber_in, FIBER),
        "feed-forward": (FiberFeedForward(FIBER, OTHER, zero=False), FIBER, OTHER),
        "lengths": (
            FiberFeedForward(FIBER, include_norms=True, zero=False, epsilon=1e-2),
            FIBER,
            FIBER,
        ),
    }
    with torch.no_grad():
        for layer, *_ in made.values():
            for weight in layer.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
    return {name: (layer.double(), *fibers) for name, (layer, *fibers) in made.items()}


EVERY_LAYER = pytest.mark.parametrize("name", layers())


@EVERY_LAYER
@pytest.mark.parametrize("proper", [True, False])
@torch.no_grad()
def test_rotations_and_reflections(name, proper):
    (layer, fiber_in, fiber_out), matrix = layers()[name], orthogonal(3, proper)
    x = random_fiber(fiber_in, seed=0)
    found = layer(turned_fiber(x, matrix, fiber_in))
    assert found.shape == (len(x), fiber_width(fiber_out))
    assert relative_error(found, turned_fiber(layer(x), matrix, fiber_out)) <= 1e-13


@EVERY_LAYER
def test_all_derivatives(name):
    layer, fiber_in, _ = layers()[name]
    assert_all_derivatives(layer, [random_fiber(fiber_in, seed=0, nodes=3).requires_grad_()])


@EVERY_LAYER
def test_derivatives_at_zero_features_are_finite(name):
    layer, fiber_in, _ = layers()[name]
    x = torch.zeros(3, fiber_width(fiber_in), dtype=torch.float64, requires_grad=True)
    # a linear map has no second derivative: the square gives every layer one
    loss = layer(x).sum() + x.square().sum()
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert first.any() and torch.isfinite(first).all() and torch.isfinite(second).all()


@EVERY_LAYER
@torch.no_grad()
def test_no_nodes(name):
    layer, fiber_in, fiber_out = layers()[name]
    assert layer(random_fiber(fiber_in, seed=0, nodes=0)).shape == (0, fiber_width(fiber_out))


# formulas


@torch.no_grad()
def test_linear_mixes_the_channels_of_each_degree():
    layer, x = layers()["linear"][0], random_fiber(FIBER, seed=0)
    parts = zip(split_fiber(x, FIBER), layer.weights, split_fiber(layer(x), OTHER), strict=True)
    for part, weight, found in parts:
        expected = torch.einsum("nmc,cd->nmd", part, weight)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@torch.no_grad()
def test_degrees_that_do_not_come_in_leave_as_zeros():
    layer = FiberLinear((4,), OTHER).double()
    scalars, *higher = split_fiber(layer(random_fiber((4,), seed=0)), OTHER)
    assert scalars.any() and not any(part.any() for part in higher)
    # and those that do not go out are dropped
    assert FiberLinear(FIBER, (5,)).double()(random_fiber(FIBER, seed=0)).shape[1] == 5


@torch.no_grad()
def test_linear_keeps_the_size_and_starts_at_zero_if_told():
    torch.manual_seed(0)
    wide = (64, 64)
    x = random_fiber(wide, seed=0, nodes=50)
    assert 0.8 <= float(FiberLinear(wide, wide).double()(x).square().mean()) <= 1.25
    assert not FiberLinear(wide, wide, zero=True).double()(x).any()


@torch.no_grad()
def test_norm_makes_the_mean_square_of_channels_one():
    """Smoothed by epsilon; a channel has its own scale."""
    layer, x = FiberNorm(FIBER, 1e-12).double(), random_fiber(FIBER, seed=0)
    for part in split_fiber(layer(100 * x), FIBER):
        size = part.square().sum(1).mean(-1)
        torch.testing.assert_close(size, torch.ones_like(size), rtol=0, atol=1e-9)

    layer, small = FiberNorm(FIBER, 1e-2).double(), 1e-3 * x
    assert relative_error(layer(small), 10 * small) <= 1e-3
    layer.scales[1][2] = 7.0
    assert (
        relative_error(
            split_fiber(layer(x), FIBER)[1][..., 2],
            7 * split_fiber(FiberNorm(FIBER, 1e-2).double()(x), FIBER)[1][..., 2],
        )
        <= 1e-14
    )


@torch.no_grad()
def test_gates_stand_before_the_scalars_one_for_each_channel():
    layer = layers()["gate"][0]
    assert layer.fiber_in == (9, 3, 2)
    x = random_fiber(layer.fiber_in, seed=0)
    (scalars, vectors, tensors), found = split_fiber(x, layer.fiber_in), layer(x)
    expected = [
        nn.functional.silu(scalars[..., 5:]),
        vectors * scalars[..., :3].sigmoid(),
        tensors * scalars[..., 3:5].sigmoid(),
    ]
    for part, other in zip(split_fiber(found, FIBER), expected, strict=True):
        torch.testing.assert_close(part, other, rtol=0, atol=1e-15)


@torch.no_grad()
def test_feed_forward_reads_the_lengths_of_higher_degrees():
    """With include_norms scalars depend on vectors."""
    x = random_fiber(FIBER, seed=0)
    other = x.clone()
    other[:, 4:7] += 1.0  # the first component of all vectors
    for name, hears in (("lengths", True), ("feed-forward", False)):
        layer, _, fiber_out = layers()[name]
        before, after = (split_fiber(layer(value), fiber_out)[0] for value in (x, other))
        assert bool((before - after).abs().gt(1e-3).any()) == hears


@torch.no_grad()
def test_feed_forward_is_its_formula():
    layer, x = layers()["lengths"][0], random_fiber(FIBER, seed=0)
    scalars, *higher = split_fiber(layer.norm(x), FIBER)
    softening = 1e-2**0.25
    lengths = [
        (part.square().sum(1, keepdim=True) + softening**2).sqrt() - softening for part in higher
    ]
    read = [torch.cat([scalars, *lengths], -1), *higher]
    hidden = [part @ weight for part, weight in zip(read, layer.expand.weights, strict=True)]
    gated = split_fiber(layer.gate(torch.cat([part.flatten(1) for part in hidden], 1)), (16, 12, 8))
    expected = [part @ weight for part, weight in zip(gated, layer.reduce.weights, strict=True)]
    for part, other in zip(split_fiber(layer(x), FIBER), expected, strict=True):
        torch.testing.assert_close(part, other, rtol=0, atol=1e-13)


@torch.no_grad()
def test_feed_forward_starts_at_zero():
    assert not FiberFeedForward(FIBER).double()(random_fiber(FIBER, seed=0)).any()


def test_soft_length_is_a_length_with_derivatives_at_zero():
    x = torch.cat([torch.zeros(1, 3), draw(3, 3, seed=0).float()]).double().requires_grad_()
    found = soft_length(x, 1, 1e-3)
    assert found[0] == 0
    torch.testing.assert_close(found, x.norm(dim=1), rtol=0, atol=1e-3)
    assert_all_derivatives(lambda value: soft_length(value, 1, 0.1), [x])


def test_float32_stays_float32():
    x: Tensor = random_fiber(FIBER, seed=0)
    for name in ("linear", "norm", "feed-forward", "lengths"):
        layer = layers()[name][0]
        found = layer.float()(x.float())
        assert found.dtype == torch.float32
        assert relative_error(found.double(), layer.double()(x)) <= 1e-6
