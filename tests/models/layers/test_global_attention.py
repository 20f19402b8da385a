"""Laws of the linear attention over all nodes: its direct sum, the public module, graphs alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from farfield.models.graph_ops import GraphIndex
from farfield.models.layers.global_attention import TaylorAttention
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.far_field_clouds import CORNERS, batch
from tests.support.turns import relative_error

CHANNELS, HEADS, DIM = 6, 3, 4
GATED = pytest.mark.parametrize("gate_values", [False, True])


def layer(gate_values: bool, heads: int = HEADS, dim_head: int = DIM) -> TaylorAttention:
    torch.manual_seed(0)
    return TaylorAttention(CHANNELS, heads, dim_head, gate_values=gate_values).double()


def direct(made: TaylorAttention, graph: GraphIndex, scalars: Tensor) -> Tensor:
    """The definition, with all pairs of nodes."""
    shape = (-1, made.heads, made.dim_head)
    queries = made.to_q(scalars).view(shape)
    keys, values = (part.reshape(shape) for part in made.to_kv(scalars).chunk(2, 1))
    product = torch.einsum("ihd,jhd->ijh", queries, keys) / made.dim_head**0.5
    weight = 1 + product + product.square() / 2
    one_graph = graph.graph_of_node.unsqueeze(1) == graph.graph_of_node
    weight = weight * one_graph.unsqueeze(-1)

    out = torch.einsum("ijh,jhd->ihd", weight / weight.sum(1, keepdim=True), values)
    if made.to_v_gates is not None:
        out = out * torch.sigmoid(made.to_v_gates(scalars)).unsqueeze(-1)
    return out.flatten(1)


@GATED
@pytest.mark.parametrize("dtype, bar", [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_is_the_direct_sum(gate_values, dtype, bar):
    made, graph = layer(gate_values), batch([*CORNERS, 0, 40])
    scalars = 3 * draw(graph.num_nodes, CHANNELS, seed=1)
    expected = direct(made, graph, scalars)
    found = made.to(dtype)(graph, scalars.to(dtype))
    assert found.shape == (graph.num_nodes, HEADS * DIM) and found.dtype == dtype
    assert relative_error(found, expected) <= bar


@GATED
def test_is_the_public_module(gate_values):
    package = pytest.importorskip("taylor_series_linear_attention")
    public = package.TaylorSeriesLinearAttn(
        CHANNELS,
        dim_head=DIM,
        heads=HEADS,
        combine_heads=False,
        gate_value_heads=gate_values,
    ).double()
    made = layer(gate_values)
    weights = {name.replace(".0.", "."): value for name, value in public.state_dict().items()}
    made.load_state_dict(weights)

    # padded there, ragged here
    sizes = [9, 1, 5]
    mask = torch.arange(9) < torch.tensor(sizes).unsqueeze(1)
    padded = draw(3, 9, CHANNELS, seed=1)
    expected = public(padded, mask=mask)[mask]
    assert relative_error(made(batch(sizes), padded[mask]), expected) <= 1e-13


@GATED
def test_each_graph_alone(gate_values):
    made, graph = layer(gate_values).float(), batch(CORNERS)
    scalars = draw(graph.num_nodes, CHANNELS, seed=1).float()
    together = made(graph, scalars).split(CORNERS)
    for size, part, found in zip(CORNERS, scalars.split(CORNERS), together, strict=True):
        torch.testing.assert_close(made(batch([size]), part), found, rtol=0, atol=1e-6)


def test_nodes_in_another_order():
    made, graph, order = layer(True), batch([9]), torch.randperm(9)
    scalars = draw(9, CHANNELS, seed=1)
    permuted = made(graph, scalars[order])
    torch.testing.assert_close(permuted, made(graph, scalars)[order], rtol=0, atol=1e-13)


def test_one_node_reads_its_own_value():
    made, scalars = layer(False), draw(1, CHANNELS, seed=1)
    values = made.to_kv(scalars)[:, HEADS * DIM :]
    torch.testing.assert_close(made(batch([1]), scalars), values, rtol=0, atol=1e-14)
    assert made(batch([0]), scalars[:0]).shape == (0, HEADS * DIM)


def test_every_node_reads_every_other_node_of_its_graph():
    """Not extensive: the output of node 0 changes with any node, but not with the other graph."""
    made, graph = layer(True), batch([4, 3])
    scalars = draw(7, CHANNELS, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad(made(graph, scalars)[0].sum(), scalars)
    assert gradient[:4].abs().amax(1).min() > 1e-4
    assert not gradient[4:].any()


@GATED
def test_all_derivatives(gate_values):
    made, graph = layer(gate_values, 2, 2), batch([3, 1, 2])
    scalars = draw(graph.num_nodes, CHANNELS, seed=1).requires_grad_()
    assert_all_derivatives(lambda x: made(graph, x), [scalars])


def test_second_derivatives_of_weights():
    """Through the weights too, which a training on forces needs: against the direct sum."""
    made, graph, found = layer(True), batch([5, 3]), []
    for form in (made, lambda *given: direct(made, *given)):
        scalars = draw(8, CHANNELS, seed=1).requires_grad_()
        (first,) = torch.autograd.grad(
            form(graph, scalars).pow(3).sum(), scalars, create_graph=True
        )
        found.append(torch.autograd.grad(first.square().sum(), list(made.parameters())))
    for one, other in zip(*found, strict=True):
        assert relative_error(one, other) <= 1e-11


def test_many_nodes_in_float32():
    made, graph = layer(False), batch([20_000])
    scalars = draw(graph.num_nodes, CHANNELS, seed=1) + 1
    expected = made(graph, scalars)
    assert relative_error(made.float()(graph, scalars.float()), expected) <= 2e-6


@pytest.mark.parametrize("wrong", [{"heads": 0}, {"dim_head": 0}])
def test_sizes_below_one_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} of the linear attention .* got 0"):
        layer(True, **wrong)
