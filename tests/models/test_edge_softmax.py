"""Laws of the softmax over incoming edges.

Normalised, blind to shifts, finite with all derivatives, and smooth where edges vanish.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from farfield.models.graph_ops import GraphIndex, edge_softmax, gather_dst, sum_edges, use_backend
from farfield.models.layers.radial import ENVELOPES
from tests.support.graph_topologies import BACKENDS, CROOKED, LAWS, inputs, topologies, topology


@BACKENDS
@LAWS
@given(graph=topologies(), seed=st.integers(0, 99))
def test_softmax_sums_to_one_and_ignores_a_shift_of_each_receiver(backend, graph, seed):
    logits, shift = inputs(graph, [("E", 3), ("N", 3)], torch.float64, seed)
    with use_backend(backend):
        weights = edge_softmax(graph, 3 * logits)
        total = sum_edges(graph, weights)
        shifted = edge_softmax(graph, 3 * logits + gather_dst(graph, 50 * shift))
    receives = torch.bincount(graph.dst, minlength=graph.num_nodes) > 0
    torch.testing.assert_close(
        total, receives.to(total).view(-1, 1).expand_as(total), rtol=1e-13, atol=1e-13
    )
    torch.testing.assert_close(shifted, weights, rtol=1e-11, atol=1e-13)


@BACKENDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@LAWS
@given(signs=st.lists(st.sampled_from([-1e4, 0.0, 1e4]), min_size=7, max_size=7))
def test_softmax_survives_huge_logits(backend, dtype, signs):
    logits = torch.tensor(signs, dtype=dtype).view(-1, 1).requires_grad_(True)
    with use_backend(backend):
        weights = edge_softmax(CROOKED, logits)
        (gradient,) = torch.autograd.grad(weights.square().sum(), logits, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), logits, materialize_grads=True)
    assert all(torch.isfinite(part).all() for part in (weights, gradient, second))
    for node in range(CROOKED.num_nodes):
        incoming = CROOKED.dst == node
        torch.testing.assert_close(
            weights[incoming], torch.softmax(logits[incoming], 0), rtol=1e-5, atol=0
        )


@BACKENDS
@LAWS
@given(graph=topologies(), seed=st.integers(0, 99), data=st.data())
def test_zero_envelope_removes_an_edge(backend, graph, seed, data):
    """It has weight 0, and the others have the weights of the graph without it.

    With all edges removed all weights are zero.
    """
    (logits,) = inputs(graph, [("E", 2)], torch.float64, seed)
    kept = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=graph.num_edges, max_size=graph.num_edges)),
        dtype=torch.bool,
    )
    smaller = GraphIndex(graph.src[kept], graph.dst[kept], graph.nodes_per_graph)
    with use_backend(backend):
        weights = edge_softmax(graph, logits, kept.to(logits.dtype))
        expected = edge_softmax(smaller, logits[kept])
    assert not weights[~kept].any()
    torch.testing.assert_close(weights[kept], expected, rtol=1e-12, atol=0)


@BACKENDS
def test_envelope_is_a_logarithm_in_the_logits(backend):
    logits, raw = inputs(CROOKED, [("E", 2), ("E", 1)], torch.float64)
    envelope = torch.sigmoid(raw)
    with use_backend(backend):
        found = edge_softmax(CROOKED, logits, envelope)
        torch.testing.assert_close(
            found, edge_softmax(CROOKED, logits + envelope.log()), rtol=1e-13, atol=0
        )
        assert torch.equal(found, edge_softmax(CROOKED, logits, envelope.squeeze(1)))


@BACKENDS
@pytest.mark.parametrize("gap", [200.0, 1e4])
def test_removed_edge_sets_no_maximum(backend, gap):
    """An edge of envelope 0 leaves the others' weights alone however large its logit."""
    graph = topology([3], [(2, 0), (2, 1)])
    with use_backend(backend):
        weights = edge_softmax(graph, torch.tensor([[gap], [0.0]]), torch.tensor([0.0, 1.0]))
    assert weights.flatten().tolist() == [0.0, 1.0]


@BACKENDS
def test_gradient_is_finite_where_all_edges_are_removed(backend):
    graph = topology([2], [(1, 0)])
    logits, envelope = torch.zeros(1, 2, requires_grad=True), torch.zeros(1, requires_grad=True)
    with use_backend(backend):
        gradients = torch.autograd.grad(
            1000 * edge_softmax(graph, logits, envelope).sum(), [logits, envelope]
        )
    assert all(torch.isfinite(part).all() for part in gradients)


@BACKENDS
@pytest.mark.parametrize("name", ["cosine", "polynomial"])
def test_lone_neighbour_at_the_cutoff_has_finite_second_derivatives(backend, name):
    """In float32, for the last values below the cutoff.

    There the envelope is as small as 1e-20.
    """
    graph = topology([2], [(1, 0)])
    for below in range(20):
        x = torch.tensor([1 - below * 2.0**-24], requires_grad=True)
        strength = torch.tensor([[3.0]], requires_grad=True)
        with use_backend(backend):
            envelope = ENVELOPES[name](x).view(-1, 1)
            received = (
                100 * edge_softmax(graph, strength * x.view(-1, 1), envelope) * envelope
            ).sum()
            first = torch.autograd.grad(received, [x, strength], create_graph=True)
            second = torch.autograd.grad(
                sum((part + part.square()).sum() for part in first), [x, strength]
            )
        assert all(torch.isfinite(part).all() for part in (*first, *second)), below
