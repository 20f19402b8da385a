"""Sums of weighted messages and distances to keys, against the messages themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from farfield.models.near_field import frame_sums
from farfield.models.near_field.fiber_convolution import FactorisedConvolution, PointGeometry
from farfield.models.near_field.frame_sums import squared_distances, weighted_messages
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.fiber_kernels import NODES, RADIAL, TOPOLOGIES, ragged_geometry, random_fiber
from tests.support.turns import relative_error

HEADS = (3, 2, 1)
OUT = (6, 4, 3)  # channels: heads x width, for three degrees
EVERY_TOPOLOGY = pytest.mark.parametrize("topology", TOPOLOGIES)
FIBERS = pytest.mark.parametrize("fiber_in", [(4, 3, 2), (4,), (4, 3), (2, 3, 2, 1)], ids=str)
ONE_HEAD = pytest.mark.parametrize("single", [False, True], ids=["heads", "single-head"])


def convolution(fiber_in=(4, 3, 2), handed: bool = False) -> FactorisedConvolution:
    torch.manual_seed(0)
    return FactorisedConvolution(fiber_in, OUT, handed, RADIAL).double()


def value_heads(single: bool) -> tuple[int, ...]:
    """Over how many heads the channels are divided."""
    return (1, 1, 1) if single else HEADS


def mixing_of(layer: FactorisedConvolution) -> list[tuple[Tensor, ...]]:
    return [layer.matrices(m) for m in range(layer.orders)]


def weights_of(geometry: PointGeometry) -> list[Tensor]:
    """Weights (edges, heads) of each degree."""
    return [draw(geometry.graph.num_edges, count, seed=l) for l, count in enumerate(HEADS)]


def sums_by_node(geometry, messages, weights, groups) -> list[Tensor]:
    """``sum_j a_ij,h v_ij`` from the messages of all edges."""
    found = []
    for part, weight, group in zip(messages, weights, groups, strict=True):
        values = part.unflatten(-1, (group, -1)).expand(-1, -1, weight.shape[1], -1)
        weighted = (values * weight[:, None, :, None]).flatten(2)
        total = weighted.new_zeros(NODES, *weighted.shape[1:])
        found.append(total.index_add(0, geometry.graph.dst, weighted))
    return found


@EVERY_TOPOLOGY
@FIBERS
@ONE_HEAD
@pytest.mark.parametrize("handed", [False, True])
@torch.no_grad()
def test_sums_are_those_of_the_messages(topology, fiber_in, single, handed):
    layer, geometry = convolution(fiber_in, handed), ragged_geometry(topology)
    x, weights = random_fiber(fiber_in, seed=4), weights_of(geometry)
    groups = value_heads(single)
    inputs = layer.inputs(x, geometry)
    found = weighted_messages(geometry, inputs, mixing_of(layer), weights, groups)
    expected = sums_by_node(geometry, layer(x, geometry), weights, groups)
    for part, other in zip(found, expected, strict=True):
        assert part.shape == other.shape
        torch.testing.assert_close(part, other, rtol=0, atol=1e-13)
        assert bool(part.any()) == (topology != "no-edges")


@torch.no_grad()
def test_receivers_in_several_chunks_give_the_same_sums(monkeypatch):
    layer, x = convolution(), random_fiber((4, 3, 2), seed=4)

    def sums() -> list[Tensor]:
        geometry = ragged_geometry()
        inputs = layer.inputs(x, geometry)
        return weighted_messages(geometry, inputs, mixing_of(layer), weights_of(geometry), HEADS)

    whole = sums()
    monkeypatch.setattr(frame_sums, "VALUES_PER_EDGE", 10**9)
    geometry = ragged_geometry()
    assert len(geometry.slots.layout(frame_sums.VALUES_PER_EDGE).chunks) > 1
    for part, other in zip(sums(), whole, strict=True):
        torch.testing.assert_close(part, other, rtol=0, atol=1e-14)


@EVERY_TOPOLOGY
@FIBERS
@ONE_HEAD
@torch.no_grad()
def test_distances_are_those_of_the_keys(topology, fiber_in, single):
    """Keys in the frame of the edge, queries turned into it: no message in space is made."""
    layer, geometry = convolution(fiber_in, handed=True), ragged_geometry(topology)
    x = random_fiber(fiber_in, seed=4)
    told = value_heads(single)
    widths = [channels // heads for channels, heads in zip(OUT, told, strict=True)]
    queries = [
        draw(NODES, 2 * l + 1, heads * width, seed=10 + l)
        for l, (heads, width) in enumerate(zip(HEADS, widths, strict=True))
    ]
    inputs = layer.inputs(x, geometry)
    found = squared_distances(geometry, inputs, mixing_of(layer), queries, HEADS, told)

    keys = layer(x, geometry)
    for l, part in enumerate(found):
        asked = queries[l][geometry.graph.dst].unflatten(-1, (HEADS[l], -1))
        expected = (asked - keys[l].unflatten(-1, (told[l], -1))).square().sum(1)
        assert part.shape == (geometry.graph.num_edges, HEADS[l], widths[l])
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-12)


@ONE_HEAD
def test_all_derivatives(single):
    """By features, edge vectors, weights and queries, twice."""
    layer, groups = convolution((2, 2)), value_heads(single)
    queries = [
        channels * (heads if single else 1) for channels, heads in zip(OUT, HEADS, strict=True)
    ]
    sizes = [(2 * l + 1) * count for l, count in enumerate(queries)]
    inputs = [
        random_fiber((2, 2), seed=4),
        draw(9, 3, seed=0),
        draw(9, sum(HEADS), seed=1),
        draw(NODES, sum(sizes), seed=2),
    ]

    def both(x, vectors, weights, query):
        geometry = ragged_geometry(degree=2, vectors=vectors)
        parts, mixing = layer.inputs(x, geometry), mixing_of(layer)
        sums = weighted_messages(geometry, parts, mixing, weights.split(HEADS, -1), groups)
        asked = [
            part.unflatten(-1, (2 * l + 1, -1)) for l, part in enumerate(query.split(sizes, -1))
        ]
        squares = squared_distances(geometry, parts, mixing, asked, HEADS, groups)
        return torch.cat([part.flatten() for part in [*sums, *squares]])

    assert_all_derivatives(both, [value.requires_grad_() for value in inputs])


@torch.no_grad()
def test_float32_loses_no_more_than_its_digits():
    layer, x, geometry = convolution(), random_fiber((4, 3, 2), seed=4), ragged_geometry()
    weights = weights_of(geometry)
    expected = weighted_messages(
        geometry, layer.inputs(x, geometry), mixing_of(layer), weights, HEADS
    )
    single = ragged_geometry()
    single.frames = tuple(frame.float() for frame in single.frames)
    single.hidden = single.hidden.float()
    layer = layer.float()
    found = weighted_messages(
        single,
        layer.inputs(x.float(), single),
        mixing_of(layer),
        [weight.float() for weight in weights],
        HEADS,
    )
    for part, other in zip(found, expected, strict=True):
        assert part.dtype == torch.float32 and relative_error(part.double(), other) <= 2e-6
