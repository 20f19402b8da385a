"""Laws of the convolutions of the Equiformer.

Equal to explicit kernels, equivariant, free in the choice of the frame, smooth.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from farfield.models.near_field.fiber_convolution import EDGE_KERNELS, FiberConvolution
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.fiber_kernels import (
    RADIAL,
    explicit_messages,
    ragged_geometry,
    random_fiber,
    turned_fiber,
)
from tests.support.turns import orthogonal, relative_error, turn_matrix

KERNELS = pytest.mark.parametrize("kernel", EDGE_KERNELS)
HANDED = pytest.mark.parametrize("handed", [False, True])
FIBERS = pytest.mark.parametrize(
    ("fiber_in", "fiber_out"),
    [
        ((4, 3, 2), (5, 4, 3)),
        ((4,), (5, 4, 3)),  # the embedding of scalars
        ((4, 3), (5, 3, 3, 4)),
        ((3, 2, 4, 1), (5, 4)),
        ((3, 2), (4,)),
    ],
    ids=["equal", "scalars", "shorter", "longer", "to-scalars"],
)


def convolution(kernel: str, handed: bool, fiber_in=(4, 3, 2), fiber_out=(5, 4, 3)):
    torch.manual_seed(0)
    made: FiberConvolution = EDGE_KERNELS[kernel](fiber_in, fiber_out, handed, RADIAL)
    with torch.no_grad():
        for pairs in getattr(made, "pairs", ()):
            for pair in pairs:
                pair.even.normal_()
                if pair.odd is not None:
                    pair.odd.normal_()
    return made.double()


def joined(parts: list[Tensor]) -> Tensor:
    """Parts of messages as features (edges, width)."""
    return torch.cat([part.flatten(1) for part in parts], 1)


@KERNELS
@HANDED
@FIBERS
@torch.no_grad()
def test_equal_to_explicit_kernels(kernel, handed, fiber_in, fiber_out):
    """The frame of the edge and harmonics x Clebsch-Gordan are one map."""
    layer, x = convolution(kernel, handed, fiber_in, fiber_out), random_fiber(fiber_in, seed=4)
    vectors = draw(9, 3, seed=0)
    vectors[0] = torch.tensor([0.0, -1.5, 0.0])
    geometry = ragged_geometry(degree=3, vectors=vectors)
    found = layer(x, geometry)
    expected = explicit_messages(layer, x, geometry, vectors)
    for l, (part, other) in enumerate(zip(found, expected, strict=True)):
        assert part.shape == (9, 2 * l + 1, fiber_out[l])
        assert relative_error(part, other) <= 1e-12


@KERNELS
@HANDED
@pytest.mark.parametrize("proper", [True, False])
@torch.no_grad()
def test_rotations_and_reflections(kernel, handed, proper):
    """With kernels of odd parity rotations hold and reflections do not."""
    fiber_in, fiber_out = (4, 3, 2), (5, 4, 3)
    layer, matrix = convolution(kernel, handed), orthogonal(3, proper)
    x, vectors = random_fiber(fiber_in, seed=4), draw(9, 3, seed=0)
    before = joined(layer(x, ragged_geometry(vectors=vectors)))
    after = joined(
        layer(turned_fiber(x, matrix, fiber_in), ragged_geometry(vectors=vectors @ matrix.T))
    )
    error = relative_error(after, turned_fiber(before, matrix, fiber_out))
    assert error > 1e-2 if handed and not proper else error <= 1e-12


@KERNELS
@HANDED
@torch.no_grad()
def test_any_frame_of_the_edge_gives_the_same_messages(kernel, handed):
    """A further turn about the polar axis, another for each edge, changes nothing.

    Kernels commute with it order by order.
    """
    layer, x, geometry = convolution(kernel, handed), random_fiber((4, 3, 2), 4), ragged_geometry()
    expected = joined(layer(x, geometry))
    angles = draw(9, seed=5)
    zero, one = torch.zeros_like(angles), torch.ones_like(angles)
    cos, sin = angles.cos(), angles.sin()
    about = torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], -1).view(9, 3, 3)

    turned = []
    for l, frame in enumerate(geometry.frames, 1):
        # rows of a frame: m = 0, -1, 1, -2, 2, ...
        order = [l, *(l + sign * m for m in range(1, l + 1) for sign in (-1, 1))]
        rows = torch.tensor([l * l + row for row in order])
        turns = torch.stack([turn_matrix(matrix, l)[rows][:, rows] for matrix in about])
        turned.append(turns @ frame)
    assert float((turned[1] - geometry.frames[1]).abs().max()) > 0.1
    geometry.frames = tuple(turned)
    assert relative_error(joined(layer(x, geometry)), expected) <= 1e-12


@torch.no_grad()
def test_channels_of_a_pairwise_kernel_hear_one_degree_each():
    """The first ones scalars, the next ones vectors, ..., as evenly as possible."""
    layer, x = convolution("pairwise", False), random_fiber((4, 3, 2), seed=4)
    for weight in layer.out:
        weight.copy_(torch.eye(len(weight)))
    x[:, :4] = 0  # scalars
    found = layer(x, ragged_geometry())
    for part, shares in zip(found, ([2, 2, 1], [2, 1, 1], [1, 1, 1]), strict=True):
        silent, heard = part.split([shares[0], sum(shares[1:])], -1)
        assert not silent.any() and heard.abs().amax((0, 1)).gt(1e-3).all()


@KERNELS
@HANDED
def test_all_derivatives(kernel, handed):
    """By features, edge vectors and what is read of an edge, twice."""
    layer = convolution(kernel, handed, (2, 2), (2, 1, 1))
    inputs = [
        random_fiber((2, 2), seed=4),
        draw(9, 3, seed=0),
        draw(9, 3, seed=1),
        draw(9, 4, seed=2),
    ]

    def messages(x, vectors, invariants, hidden):
        geometry = ragged_geometry(degree=2, vectors=vectors)
        geometry.invariants, geometry.hidden = invariants, hidden
        return joined(layer(x, geometry))

    read = [0, 1, 3] if kernel == "factorised" else [0, 1, 2]
    for place in read:
        inputs[place].requires_grad_()
    assert_all_derivatives(messages, inputs)


@KERNELS
@HANDED
def test_edges_of_length_zero_pass_scalars_only(kernel, handed):
    """With finite derivatives."""
    layer, x = convolution(kernel, handed), random_fiber((4, 3, 2), seed=4)
    vectors = torch.zeros(9, 3, dtype=torch.float64, requires_grad=True)
    scalars, *higher = layer(x, ragged_geometry(vectors=vectors))
    assert scalars.abs().max() > 1e-2 and not any(part.any() for part in higher)
    (gradient,) = torch.autograd.grad(joined([scalars, *higher]).square().sum(), vectors)
    assert torch.isfinite(gradient).all()


@KERNELS
def test_no_edges(kernel):
    layer, x = convolution(kernel, True), random_fiber((4, 3, 2), seed=4)
    found = layer(x, ragged_geometry("no-edges"))
    assert [part.shape for part in found] == [(0, 1, 5), (0, 3, 4), (0, 5, 3)]


@torch.no_grad()
def test_messages_have_the_size_of_the_features():
    """At the start, with radial functions near one: the sum of both ends has twice the variance."""
    torch.manual_seed(0)
    fiber = (32, 32, 32)
    layer = EDGE_KERNELS["factorised"](fiber, fiber, False, RADIAL).double()
    layer.radial.weight.zero_()
    parts = layer(random_fiber(fiber, seed=4), ragged_geometry())
    assert 1.0 <= float(joined(parts).square().mean()) <= 4.0
