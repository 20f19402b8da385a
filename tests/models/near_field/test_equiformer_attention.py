"""Laws of the attention of the Equiformer.

Its softmax is the dense one; the whole is the formula of the module, node by node.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from farfield.models.graph_ops import GraphIndex
from farfield.models.near_field.equiformer_attention import (
    ACTIVATIONS,
    LOGITS,
    AttentionOptions,
    EquiformerAttention,
    GlobalHeads,
    HeadSizes,
    self_softmax,
)
from farfield.models.near_field.fiber_convolution import EDGE_KERNELS, PointGeometry
from farfield.models.so3.fibers import split_fiber
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.fiber_kernels import (
    NODES,
    RADIAL,
    TOPOLOGIES,
    ragged_geometry,
    random_fiber,
    turned_fiber,
)
from tests.support.turns import orthogonal, relative_error

FIBER, HEADS, WIDTHS = (4, 3, 2), (3, 2, 1), (2, 3, 2)
EVERY_LOGITS = pytest.mark.parametrize("logits", LOGITS)
ATTEND_SELF = pytest.mark.parametrize("attend_self", [True, False], ids=["self", "others"])


def attention(logits: str, epsilon: float = 1e-2, **choices) -> EquiformerAttention:
    torch.manual_seed(0)
    heads = {name: choices.pop(name) for name in list(choices) if name in HeadSizes.__annotations__}
    sizes = HeadSizes(HEADS, WIDTHS, **heads)
    options = AttentionOptions(FIBER, sizes, RADIAL, zero=False, epsilon=epsilon, **choices)
    return EquiformerAttention(logits, options).double()


# softmax


def dense_softmax(graph: GraphIndex, logits: Tensor, own: Tensor | None, envelope: Tensor):
    """``u_ij exp(s_ij) / Z_i`` and ``exp(s_ii) / Z_i``, one node after the other."""
    weights = torch.zeros_like(logits)
    ours = None if own is None else torch.zeros_like(own)
    for node in range(graph.num_nodes):
        (edges,) = (graph.dst == node).nonzero(as_tuple=True)
        parts = envelope[edges] * logits[edges].exp()
        if own is not None:
            total = parts.sum(0) + own[node].exp()
            weights[edges], ours[node] = parts / total, own[node].exp() / total
        elif len(edges):
            weights[edges] = parts / parts.sum(0) * envelope[edges]
    return weights, ours


@ATTEND_SELF
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_softmax_is_the_dense_one(attend_self, topology):
    """Also where an envelope is zero and at nodes without neighbours."""
    geometry = ragged_geometry(topology)
    graph, envelope = geometry.graph, geometry.envelope
    envelope[3:5] = 0.0
    logits, own = 2 * draw(graph.num_edges, 4, seed=0), 2 * draw(NODES, 4, seed=1)
    own = own if attend_self else None
    weights, ours = self_softmax(graph, logits, own, envelope)
    expected, expected_own = dense_softmax(graph, logits, own, envelope)
    torch.testing.assert_close(weights, expected, rtol=1e-13, atol=1e-15)
    if attend_self:
        torch.testing.assert_close(ours, expected_own, rtol=1e-13, atol=1e-15)
        total = ours.index_add(0, graph.dst, weights)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-14)


@ATTEND_SELF
@pytest.mark.parametrize("size", [1e3, -1e3])
def test_softmax_of_huge_logits(attend_self, size):
    """A shift of all logits of a node changes nothing, in float32 too."""
    geometry = ragged_geometry()
    graph, envelope = geometry.graph, geometry.envelope
    logits, own = draw(graph.num_edges, 4, seed=0), draw(NODES, 4, seed=1)
    expected, _ = self_softmax(graph, logits, own if attend_self else None, envelope)
    shifted = (own + size).float() if attend_self else None
    found, _ = self_softmax(graph, (logits + size).float(), shifted, envelope.float())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)


def test_a_zero_envelope_hides_any_logit():
    """An edge that is out sets no maximum and no gradient, however large its logit."""
    graph, envelope = ragged_geometry().graph, torch.ones(9, 1).double()
    envelope[1] = 0.0
    logits = draw(9, 2, seed=0)
    logits[1] = 5000.0
    own = draw(NODES, 2, seed=1)
    logits.requires_grad_(), envelope.requires_grad_()
    weights, ours = self_softmax(graph, logits, own, envelope)
    assert not weights[1].any() and torch.isfinite(weights).all()
    loss = (weights * draw(9, 2, seed=2)).sum() + ours[0].sum()
    gradient, _ = torch.autograd.grad(loss, [logits, envelope])
    assert torch.isfinite(gradient).all() and not gradient[1].any() and gradient[2].any()


@ATTEND_SELF
def test_softmax_has_all_derivatives(attend_self):
    graph = ragged_geometry().graph
    inputs = [draw(9, 2, seed=0), draw(9, 1, seed=1).sigmoid(), draw(NODES, 2, seed=2)]

    def both(logits: Tensor, envelope: Tensor, own: Tensor) -> Tensor:
        parts = self_softmax(graph, logits, own if attend_self else None, envelope)
        return torch.cat([part.flatten() for part in parts if part is not None])

    inputs = [value.requires_grad_() for value in inputs[: 3 if attend_self else 2]]
    assert_all_derivatives(
        both if attend_self else (lambda logits, envelope: both(logits, envelope, None)), inputs
    )


# the whole attention


def by_node(layer: EquiformerAttention, x: Tensor, geometry: PointGeometry) -> Tensor:
    """The formula of the module, with a message for each edge."""
    x = layer.norm(x)
    reading, sizes, graph = layer.reading, layer.sizes, geometry.graph
    messages = reading.convolution(x, geometry)
    own = None
    if sizes.attend_self:
        own = split_fiber(reading.own(x), reading.convolution.fiber_out)
    read = _by_distance if hasattr(reading, "query") else _by_scalars
    logits, values = read(layer, x[graph.dst], messages)
    own_logits, own_values = (None, None) if own is None else read(layer, x, own)
    weights, ours = dense_softmax(graph, logits, own_logits, geometry.envelope)

    found, first = [], 0
    gates = None if layer.gates is None else layer.gates(x[:, : FIBER[0]]).sigmoid()
    for l, (count, width) in enumerate(zip(HEADS, WIDTHS, strict=True)):
        heads = []
        for h in range(first, first + count):
            mine = slice(0, width) if sizes.single_headed else slice((h - first) * width, None)
            value = values[l][..., mine][..., :width]
            heard = value.new_zeros(NODES, 2 * l + 1, width)
            heard = heard.index_add(0, graph.dst, weights[:, h].view(-1, 1, 1) * value)
            if own is not None:
                heard = heard + ours[:, h].view(-1, 1, 1) * own_values[l][..., mine][..., :width]
            heads.append(heard if gates is None else heard * gates[:, h].view(-1, 1, 1))
        found.append(torch.cat(heads, -1))
        first += count
    return layer.out(torch.cat([part.flatten(1) for part in found], 1))


def _by_distance(layer: EquiformerAttention, asking: Tensor, told) -> tuple[Tensor, list[Tensor]]:
    """``-d^(-1/2) sum_c |q_c - k_c|``, one distance over c for scalars; all keys come first."""
    sizes, reading = layer.sizes, layer.reading
    queries = split_fiber(reading.query(asking), sizes.queries)
    logits, s = [], reading.softening
    for l, (query, part, count, width) in enumerate(zip(queries, told, HEADS, WIDTHS, strict=True)):
        keys = part[..., : part.shape[-1] // 2]
        for h in range(count):
            key = keys if sizes.single_headed else keys[..., h * width : (h + 1) * width]
            square = (query[..., h * width : (h + 1) * width] - key).square()
            if l == 0:
                distance = (square.sum((1, 2)) + s * s).sqrt() - s
            else:
                distance = ((square.sum(1) + s * s).sqrt() - s).sum(-1)
            logits.append(-distance / math.sqrt(width))
    return torch.stack(logits, -1), [part[..., part.shape[-1] // 2 :] for part in told]


def _by_scalars(layer: EquiformerAttention, asking: Tensor, told) -> tuple[Tensor, list[Tensor]]:
    """``d^(-1/2) Lin(act(first scalars))``; values: gated, then mixed."""
    reading, sizes = layer.reading, layer.sizes
    scalars, logits = told[0], []
    for score, hidden, width in zip(reading.score, reading.hidden, WIDTHS, strict=True):
        seen, scalars = scalars[..., :hidden], scalars[..., hidden:]
        logits.append(score(reading.activation(seen[:, 0], reading.slope)) / math.sqrt(width))
    gates = scalars[..., : sum(sizes.values[1:])].sigmoid().split(sizes.values[1:], -1)
    values = [torch.nn.functional.silu(scalars[..., sum(sizes.values[1:]) :])]
    values += [part * gate for part, gate in zip(told[1:], gates, strict=True)]
    mixed = [part @ weight for part, weight in zip(values, reading.value.weights, strict=True)]
    return torch.cat(logits, -1), mixed


@EVERY_LOGITS
@ATTEND_SELF
@pytest.mark.parametrize("kernel", EDGE_KERNELS)
@pytest.mark.parametrize("single_headed", [False, True], ids=["heads", "single-head"])
@torch.no_grad()
def test_is_the_formula_node_by_node(logits, attend_self, kernel, single_headed):
    choices = {"attend_self": attend_self, "kernel": kernel, "single_headed": single_headed}
    layer = attention(logits, **choices)
    x, geometry = random_fiber(FIBER, seed=4), ragged_geometry(degree=2)
    found = layer(x, geometry)
    assert relative_error(found, by_node(layer, x, geometry)) <= 1e-12

    # the last two nodes hear nobody: of others, nothing
    alone = found[[1, 6]]
    assert bool(alone.any()) == attend_self


@EVERY_LOGITS
@pytest.mark.parametrize(
    "choice", [{"gated": False}, {"handed": True}, {"activation": "leaky_relu"}]
)
@torch.no_grad()
def test_is_the_formula_with_other_choices(logits, choice):
    layer = attention(logits, **choice)
    x, geometry = random_fiber(FIBER, seed=4), ragged_geometry(degree=2)
    assert relative_error(layer(x, geometry), by_node(layer, x, geometry)) <= 1e-12


@EVERY_LOGITS
@pytest.mark.parametrize("proper", [True, False])
@torch.no_grad()
def test_rotations_and_reflections(logits, proper):
    layer, matrix = attention(logits), orthogonal(3, proper)
    x, vectors = random_fiber(FIBER, seed=4), draw(9, 3, seed=0)
    before = layer(x, ragged_geometry(degree=2, vectors=vectors))
    turned = ragged_geometry(degree=2, vectors=vectors @ matrix.T)
    after = layer(turned_fiber(x, matrix, FIBER), turned)
    assert relative_error(after, turned_fiber(before, matrix, FIBER)) <= 1e-12


@EVERY_LOGITS
@ATTEND_SELF
def test_all_derivatives(logits, attend_self):
    layer = attention(logits, attend_self=attend_self)
    inputs = [random_fiber(FIBER, seed=4), draw(9, 3, seed=0), draw(9, 4, seed=1)]

    def answer(x: Tensor, vectors: Tensor, hidden: Tensor) -> Tensor:
        geometry = ragged_geometry(degree=2, vectors=vectors)
        geometry.hidden = hidden
        return layer(x, geometry)

    assert_all_derivatives(answer, [value.requires_grad_() for value in inputs])


@EVERY_LOGITS
def test_equal_queries_and_keys_have_finite_derivatives(logits):
    """All features zero: every distance is zero, and the root has no derivative there."""
    layer = attention(logits)
    x = torch.zeros_like(random_fiber(FIBER, seed=4)).requires_grad_()
    (first,) = torch.autograd.grad(layer(x, ragged_geometry(degree=2)).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert torch.isfinite(first).all() and torch.isfinite(second).all() and first.any()


@torch.no_grad()
def test_scalars_hear_the_whole_structure_through_global_heads():
    """Node 5 hears node 1 of its graph without an edge, node 6 of another graph it does not."""
    layer = attention("distance", everywhere=GlobalHeads(heads=2, width=3))
    x, geometry = random_fiber(FIBER, seed=4), ragged_geometry(degree=2)
    before = layer(x, geometry)[5]
    for node, heard in ((1, True), (6, False)):
        other = x.clone()
        other[node, : FIBER[0]] += draw(FIBER[0], seed=5)
        change = (layer(other, geometry)[5] - before).abs()
        assert bool(change[: FIBER[0]].gt(1e-4).any()) == heard
        assert not change[FIBER[0] :].any()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_have_their_slope_far_below_zero(name):
    x = torch.tensor([-60.0, 60.0], dtype=torch.float64)
    found = ACTIVATIONS[name](x, 0.1)
    torch.testing.assert_close(found, torch.tensor([-6.0, 60.0]).double(), rtol=1e-12, atol=1e-12)
