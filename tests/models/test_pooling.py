"""Maximum and softmax over the nodes of each graph.

Their definitions, and derivatives that DGL's max would lose.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from farfield.models.graph_ops import GraphIndex, max_nodes, node_softmax
from tests.models.test_graph_ops import value_and_derivatives
from tests.support.graph_topologies import BACKENDS, LAWS, inputs, topologies, topology

RAGGED = topology([4, 0, 2, 1], [])
POOLS = pytest.mark.parametrize(
    "operation", [max_nodes, node_softmax], ids=["max_nodes", "node_softmax"]
)


@LAWS
@given(graph=topologies(), seed=st.integers(0, 3))
def test_values_are_those_of_each_graph_alone(graph, seed):
    (nodes,) = (tensor.detach() for tensor in inputs(graph, [("N", 2, 3)], torch.float64, seed))
    largest, weights = max_nodes(graph, nodes), node_softmax(graph, nodes)
    for index, part in enumerate(nodes.split(graph.nodes_per_graph.tolist())):
        assert torch.equal(
            largest[index], part.amax(0) if len(part) else torch.zeros(2, 3, dtype=torch.float64)
        )
        torch.testing.assert_close(
            weights[graph.graph_of_node == index], torch.softmax(part, 0), rtol=1e-12, atol=0
        )


@POOLS
@BACKENDS
def test_derivatives_match_differences(operation, backend):
    tensors = inputs(RAGGED, [("N", 3)], torch.float64)
    first = value_and_derivatives(operation, RAGGED, tensors, backend)
    assert torch.autograd.gradcheck(lambda x: operation(RAGGED, x), tensors)
    assert torch.autograd.gradgradcheck(lambda x: operation(RAGGED, x).square(), tensors)
    assert all(torch.isfinite(value).all() for value in first)


@BACKENDS
def test_only_the_largest_gets_the_gradient(backend):
    """One row of each graph and column gets it, equal rows share it.

    Also in a second derivative.
    """
    nodes = torch.tensor(
        [[1.0, 5.0], [3.0, 5.0], [2.0, 4.0], [-1.0, 7.0]], dtype=torch.float64, requires_grad=True
    )
    graph = GraphIndex(
        torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long), torch.tensor([3, 1])
    )
    value, first, second = value_and_derivatives(
        lambda g, x: max_nodes(g, x).square(), graph, [nodes], backend
    )
    assert value.tolist() == [[9.0, 25.0], [1.0, 49.0]]
    chosen = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]).bool()
    assert torch.equal(first != 0, chosen) and torch.equal(second != 0, chosen)
    assert first[0, 1] == first[1, 1]


@POOLS
def test_large_values_of_one_graph_do_not_reach_another(operation):
    """A softmax is shifted by the maximum of its own graph.

    With 1e4 in one graph and -1e4 in another it neither overflows nor vanishes.
    """
    graph = topology([2, 2], [])
    nodes = torch.tensor([[1e4], [1e4 - 1], [-1e4], [-1e4 - 1]], requires_grad=True)
    value = operation(graph, nodes)
    assert torch.isfinite(value).all()
    if operation is node_softmax:
        torch.testing.assert_close(value[:2], value[2:])
    (gradient,) = torch.autograd.grad(value.square().sum(), nodes)
    assert torch.isfinite(gradient).all() and gradient.any()
