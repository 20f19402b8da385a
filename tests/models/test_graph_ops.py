"""Laws of the graph operations: two backends, one answer, with all derivatives."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.models import graph_ops
from farfield.models.graph_ops import (
    GraphIndex,
    broadcast_nodes,
    edge_softmax,
    gather_dst,
    gather_src,
    mean_nodes,
    node_dot,
    sum_edges,
    sum_nodes,
    use_backend,
    weighted_sum,
)
from tests.support.derivatives import assert_all_derivatives
from tests.support.graph_topologies import (
    BACKENDS,
    CROOKED,
    LAWS,
    NEEDS_DGL,
    NO_EDGES,
    inputs,
    topologies,
    topology,
)
from tests.support.processes import run_script

# operation and the shapes of its inputs; "N", "E", "G": number of nodes, edges and graphs
OPERATIONS = {
    "gather_src": (gather_src, [("N", 2, 3)]),
    "gather_dst": (gather_dst, [("N", 2, 3)]),
    "sum_edges": (sum_edges, [("E", 2, 3)]),
    "sum_edges of scalars": (sum_edges, [("E",)]),
    "weighted_sum": (weighted_sum, [("N", 2, 3), ("E", 2, 1)]),
    "weighted_sum, full weights": (weighted_sum, [("N", 2, 3), ("E", 2, 3)]),
    "node_dot": (node_dot, [("N", 2, 3), ("N", 2, 3)]),
    "edge_softmax": (edge_softmax, [("E", 2)]),
    "edge_softmax, envelope": (
        lambda graph, logits, envelope: edge_softmax(graph, logits, envelope.square() + 0.1),
        [("E", 2), ("E", 1)],
    ),
    "sum_nodes": (sum_nodes, [("N", 2)]),
    "sum_nodes of scalars": (sum_nodes, [("N",)]),
    "mean_nodes": (mean_nodes, [("N", 2)]),
    "broadcast_nodes": (broadcast_nodes, [("G", 2)]),
}
EVERY_OPERATION = pytest.mark.parametrize("name", OPERATIONS)


def value_and_derivatives(
    operation, graph: GraphIndex, tensors: list[Tensor], backend: str
) -> list[Tensor]:
    """The value y and two gradients.

    Of sum(w y + y^2), and of the squared norm of that gradient.
    """
    grad = functools.partial(torch.autograd.grad, materialize_grads=True)
    with use_backend(backend):
        value = operation(graph, *tensors)
        weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype).view_as(value)
        first = grad((weights * value + value.square()).sum(), tensors, create_graph=True)
        second = grad(sum(part.square().sum() for part in first), tensors)
    return [value, *first, *second]


def dense_answer(name: str, graph: GraphIndex, tensors: list[Tensor]) -> Tensor:
    """The definition of each operation, written with incidence matrices.

    (edges, nodes) and (graphs, nodes).
    """
    dtype = tensors[0].dtype
    send = torch.nn.functional.one_hot(graph.src, max(graph.num_nodes, 1)).to(dtype)[
        :, : graph.num_nodes
    ]
    receive = torch.nn.functional.one_hot(graph.dst, max(graph.num_nodes, 1)).to(dtype)[
        :, : graph.num_nodes
    ]
    member = (torch.arange(graph.num_graphs).view(-1, 1) == graph.graph_of_node).to(dtype)

    def spread(matrix: Tensor, values: Tensor) -> Tensor:
        return torch.tensordot(matrix, values, 1)

    def softmax(logits: Tensor, envelope: Tensor) -> Tensor:
        weights = (logits - logits.max() if logits.numel() else logits).exp() * envelope
        return weights / spread(receive @ receive.T, weights)

    count = member.sum(1).clamp_min(1).view(-1, 1)
    return {
        "gather_src": lambda x: spread(send, x),
        "gather_dst": lambda x: spread(receive, x),
        "sum_edges": lambda e: spread(receive.T, e),
        "weighted_sum": lambda x, w: spread(receive.T, spread(send, x) * w),
        "node_dot": lambda x, y: (spread(send, x) * spread(receive, y)).sum(-1),
        "edge_softmax": lambda s, u=None: softmax(s, 1.0 if u is None else u.square() + 0.1),
        "sum_nodes": lambda x: spread(member, x),
        "mean_nodes": lambda x: spread(member, x) / count,
        "broadcast_nodes": lambda g: spread(member.T, g),
    }[name.split(",")[0].split(" of ")[0]](*tensors)


@EVERY_OPERATION
@BACKENDS
@LAWS
@given(graph=topologies(), seed=st.integers(0, 99))
def test_value_is_the_dense_definition(name, backend, graph, seed):
    operation, shapes = OPERATIONS[name]
    tensors = inputs(graph, shapes, torch.float64, seed)
    with use_backend(backend):
        found = operation(graph, *tensors)
    torch.testing.assert_close(found, dense_answer(name, graph, tensors), rtol=1e-12, atol=1e-12)


@NEEDS_DGL
@EVERY_OPERATION
@pytest.mark.parametrize(
    ("dtype", "bar"), [(torch.float32, 2e-4), (torch.float64, 1e-11)], ids=["float32", "float64"]
)
@settings(LAWS, max_examples=8)
@given(graph=topologies(), seed=st.integers(0, 99))
def test_backends_agree_with_first_and_second_derivatives(name, dtype, bar, graph, seed):
    operation, shapes = OPERATIONS[name]
    tensors = inputs(graph, shapes, dtype, seed)
    expected, found = (
        value_and_derivatives(operation, graph, tensors, backend) for backend in ("torch", "dgl")
    )
    for one, other in zip(expected, found, strict=True):
        assert one.dtype == other.dtype == dtype
        scale = max(1.0, float(one.detach().abs().max()) if one.numel() else 1.0)
        torch.testing.assert_close(other / scale, one / scale, rtol=0, atol=bar)


@EVERY_OPERATION
@BACKENDS
@pytest.mark.parametrize("graph", [CROOKED, NO_EDGES], ids=["crooked", "no edges"])
def test_derivatives_match_differences(name, backend, graph):
    """Twice differentiable, by differences.

    A kernel that detaches its first gradient fails here.
    """
    operation, shapes = OPERATIONS[name]
    tensors = inputs(graph, shapes, torch.float64)
    with use_backend(backend):
        call = functools.partial(operation, graph)
        assert_all_derivatives(call, tensors)


@BACKENDS
def test_force_loss_through_attention_matches_differences(backend):
    """The gradient of a loss on forces by the parameters agrees with differences.

    For attention whose logits and values both depend on positions.
    """
    graph = topology([4], [(i, j) for i in range(4) for j in range(4) if i != j])
    generator = torch.Generator().manual_seed(0)
    draw = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    positions, weight = draw(4, 3).requires_grad_(True), draw(3, 2).requires_grad_(True)
    target = draw(4, 3)

    def loss(matrix: Tensor) -> Tensor:
        vectors = gather_dst(graph, positions) - gather_src(graph, positions)
        attention = edge_softmax(graph, torch.tanh(vectors @ matrix))  # (edges, 2)
        energy = sum_nodes(
            graph, weighted_sum(graph, positions.square(), attention.sum(-1, keepdim=True))
        ).sum()
        (force,) = torch.autograd.grad(-energy, positions, create_graph=True)
        return (force - target).square().sum()

    direction, step = draw(3, 2), 1e-5
    with use_backend(backend):
        (gradient,) = torch.autograd.grad(loss(weight), weight)
        slope = (loss(weight + step * direction) - loss(weight - step * direction)) / (2 * step)
    assert abs(float(slope.detach())) > 1e-2  # the loss does depend on the weights
    torch.testing.assert_close((gradient * direction).sum(), slope.detach(), rtol=1e-7, atol=1e-9)


@BACKENDS
def test_backend_is_the_one_asked_for(backend, monkeypatch):
    """Without its kernels the DGL path cannot answer; the torch path never asks for them."""
    assert CROOKED.dgl is not None or backend == "torch"
    monkeypatch.setattr(graph_ops, "load_dgl", lambda: None)
    calls = {
        name: OPERATIONS[name]
        for name in ("sum_edges", "weighted_sum", "node_dot", "edge_softmax", "sum_nodes")
    }
    for operation, shapes in calls.values():
        tensors = inputs(CROOKED, shapes, torch.float64)
        with use_backend(backend):
            if backend == "torch":
                operation(CROOKED, *tensors)
                continue
            with pytest.raises(AttributeError):
                operation(CROOKED, *tensors)


@pytest.mark.parametrize("name", OPERATIONS)
def test_torch_computes_everything_without_dgl(name, monkeypatch):
    """The same values and derivatives, also for a batch that is large enough for DGL."""
    operation, shapes = OPERATIONS[name]
    monkeypatch.setattr(graph_ops, "MIN_ROWS_FOR_DGL", 0)
    graph = topology([4, 0, 2], [(1, 0), (1, 2), (0, 1), (4, 1)])
    tensors = inputs(graph, shapes, torch.float64)
    expected = value_and_derivatives(operation, graph, tensors, "torch")

    graph_ops._dgl_serves.cache_clear()
    monkeypatch.setattr(graph_ops, "load_dgl", lambda: None)
    again = topology([4, 0, 2], [(1, 0), (1, 2), (0, 1), (4, 1)])
    assert again.dgl is None and not graph_ops.dgl_is_there()
    found = operation(again, *tensors)
    torch.testing.assert_close(found, expected[0], rtol=0, atol=0)
    graph_ops._dgl_serves.cache_clear()


@NEEDS_DGL
def test_a_forced_backend_is_not_replaced_in_silence():
    """A comparison of the two backends must never compare torch with itself."""
    graph = GraphIndex(torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))
    with use_backend("dgl"), pytest.raises(RuntimeError, match="bfloat16"):
        sum_edges(graph, torch.ones(1, 2, dtype=torch.bfloat16))


def test_backend_is_restored_and_checked():
    with pytest.raises(RuntimeError, match="inside"), use_backend("torch"):
        raise RuntimeError("inside")
    assert graph_ops._forced_backend is None
    with pytest.raises(ValueError, match="torch, dgl, got 'cuda'"), use_backend("cuda"):
        pass


# readout


@BACKENDS
@pytest.mark.parametrize("spread", [0.0, 1.0], ids=["equal", "random"])
def test_sum_of_many_float32_values_is_accurate(backend, spread):
    """50,000 nodes in one graph between two small ones, against the sum in float64."""
    graph = topology([3, 50_000, 2], [])
    values = 0.1 + spread * torch.rand(
        graph.num_nodes, 2, generator=torch.Generator().manual_seed(0)
    )
    exact = torch.stack([part.double().sum(0) for part in values.split([3, 50_000, 2])])
    with use_backend(backend):
        for found, expected in (
            (sum_nodes(graph, values), exact),
            (mean_nodes(graph, values), exact / graph.nodes_per_graph.view(-1, 1)),
        ):
            assert found.dtype == torch.float32
            assert float((found.double() / expected - 1).abs().max()) <= 2e-7


@BACKENDS
@LAWS
@given(graph=topologies(), seed=st.integers(0, 99))
def test_adjoints(backend, graph, seed):
    """Each operation is the transpose of another one.

    ``<sum_nodes x, g> = <x, broadcast_nodes g>``, ``<sum_edges e, x> = <e, gather_dst x>``, ``<e,
    node_dot(x, y)> = <weighted_sum(x, e), y>``.
    """
    nodes, others, edges, graphs = inputs(
        graph, [("N", 2), ("N", 2), ("E", 2), ("G", 2)], torch.float64, seed
    )
    with use_backend(backend):
        pairs = [
            (
                (sum_nodes(graph, nodes) * graphs).sum(),
                (nodes * broadcast_nodes(graph, graphs)).sum(),
            ),
            ((sum_edges(graph, edges) * nodes).sum(), (edges * gather_dst(graph, nodes)).sum()),
            (
                (edges[:, 0] * node_dot(graph, nodes, others)).sum(),
                (weighted_sum(graph, nodes, edges[:, :1]) * others).sum(),
            ),
        ]
    for left, right in pairs:
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@BACKENDS
@pytest.mark.parametrize("operation", [sum_edges, edge_softmax], ids=["sum_edges", "edge_softmax"])
def test_wrong_number_of_edge_rows_is_refused(backend, operation):
    with use_backend(backend), pytest.raises(Exception, match="size|shape"):
        operation(CROOKED, torch.zeros(CROOKED.num_edges + 1, 2))


@BACKENDS
@pytest.mark.parametrize("readout", [sum_nodes, mean_nodes], ids=["sum_nodes", "mean_nodes"])
@pytest.mark.parametrize("rows", [CROOKED.num_nodes - 1, CROOKED.num_nodes + 1])
def test_wrong_number_of_node_rows_is_refused(backend, readout, rows):
    with use_backend(backend), pytest.raises(ValueError, match=f"6 nodes .* got {rows}"):
        readout(CROOKED, torch.ones(rows, 2))


def test_import_is_quick_and_silent_and_writes_nothing(tmp_path):
    """Networks import neither DGL nor e3nn nor scipy.integrate before they need them.

    DGL greets its first user on stderr, and writes a file to the home folder, unless it is told its
    backend.
    """
    program = "import sys, farfield.models.factory; from farfield.models.graph_ops import load_dgl;"
    program += "assert not {'dgl', 'e3nn', 'scipy.integrate'} & set(sys.modules); load_dgl()"
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    done = run_script("-c", program, environment=home | {"DGLBACKEND": None})
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.rglob("*")) == []
