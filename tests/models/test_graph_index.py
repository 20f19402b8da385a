"""Laws of the topology of a batch: one partition, the same through DGL, pickle and devices."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given

from farfield.models.graph_ops import GraphIndex, load_dgl, sum_edges
from tests.support.graph_topologies import CROOKED, LAWS, NEEDS_DGL, inputs, topologies, topology


@LAWS
@given(graph=topologies())
def test_offsets_and_membership_describe_the_same_partition(graph):
    assert graph.node_offsets[0] == 0 and graph.node_offsets[-1] == graph.num_nodes == len(
        graph.graph_of_node
    )
    for index in range(graph.num_graphs):
        low, high = graph.node_offsets[index : index + 2].tolist()
        assert high - low == graph.nodes_per_graph[index]
        assert (graph.graph_of_node[low:high] == index).all()


def same_topology(one: GraphIndex, other: GraphIndex) -> bool:
    names = ("src", "dst", "nodes_per_graph", "node_offsets", "graph_of_node")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


@NEEDS_DGL
@LAWS
@given(graph=topologies())
def test_round_trip_through_dgl(graph):
    """The single graphs, joined by ``dgl.batch``, are the topology we started from.

    Also with 32-bit ids.
    """
    ends = []
    for index, (low, high) in enumerate(
        zip(graph.node_offsets[:-1], graph.node_offsets[1:], strict=True)
    ):
        inside = graph.graph_of_node[graph.dst] == index
        single = load_dgl().graph(
            (graph.src[inside] - low, graph.dst[inside] - low), num_nodes=int(high - low)
        )
        ends.append(single)
    if not ends:
        return
    batched = load_dgl().batch(ends)
    for version in (batched, batched.int()):
        again = GraphIndex.from_dgl(version)
        assert (
            same_topology(again, graph)
            and again.src.dtype == again.nodes_per_graph.dtype == torch.int64
        )
    assert [graph.dgl.num_nodes(), graph.dgl.num_edges()] == [graph.num_nodes, graph.num_edges]
    assert all(
        torch.equal(*pair) for pair in zip(graph.dgl.edges(), (graph.src, graph.dst), strict=True)
    )


def test_pickled_topology_answers_alike():
    """What travels to a worker is the same whether the DGL graph was made before or not.

    The DGL graph never travels.
    """
    graph = topology([3, 2], [(1, 0), (1, 2), (4, 0)])
    (edges,) = inputs(graph, [("E", 2)], torch.float64)
    before = len(pickle.dumps(graph))
    expected = sum_edges(graph, edges)  # makes the DGL graph
    travelling = pickle.dumps(graph)
    assert len(travelling) == before
    again = pickle.loads(travelling)
    assert same_topology(again, graph) and torch.equal(sum_edges(again, edges), expected)


def test_moving_to_the_same_device_keeps_the_topology():
    assert CROOKED.to("cpu") is CROOKED
    assert same_topology(
        CROOKED, topology([4, 0, 2], [(1, 0), (1, 0), (1, 2), (0, 1), (2, 2), (4, 1), (5, 1)])
    )
    assert repr(CROOKED) == "GraphIndex(graphs=3, nodes=6, edges=7, device=cpu)"


@pytest.mark.parametrize(
    ("src", "dst", "quoted"),
    [
        ([0, 9], [1, 1], ["0 .. 2", "9"]),
        ([0, 1], [1, 3], ["0 .. 2", "3"]),
        ([-4, 1], [1, 1], ["0 .. 2", "-4"]),
        ([0, 1], [1, -1], ["0 .. 2", "-1 .. 1"]),
        ([0, 1, 2], [1, 1], ["(3,)", "(2,)"]),
        ([[0, 1]], [[1, 1]], ["(1, 2)"]),
    ],
)
def test_bad_ends_are_quoted(src, dst, quoted):
    with pytest.raises(ValueError) as error:
        GraphIndex(torch.tensor(src), torch.tensor(dst), torch.tensor([3]))
    assert all(part in str(error.value) for part in quoted) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("src", "dst", "message"),
    [
        ([0, 2], [1, 3], "edge 1 goes from node 2 of graph 0 to node 3 of graph 2: "),
        ([3, 4, 0], [4, 1, 3], "edge 1 goes from node 4 of graph 2 to node 1 of graph 0: "),
    ],
)
def test_an_edge_between_two_graphs_is_refused(src, dst, message):
    """Its message would count in another molecule.

    In one graph of all nodes the same edges are right.
    """
    src, dst = torch.tensor(src), torch.tensor(dst)
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        GraphIndex(src, dst, torch.tensor([3, 0, 2]))
    assert GraphIndex(src, dst, torch.tensor([5])).num_edges == len(src)


def test_a_moved_topology_is_the_same_without_new_checks(monkeypatch):
    graph = GraphIndex(torch.tensor([0, 1, 3]), torch.tensor([1, 0, 2]), torch.tensor([2, 2]))
    assert graph.sizes == (2, 2)
    monkeypatch.setattr(GraphIndex, "_check_ends", None)
    moved = graph.to("meta")
    assert (
        moved.src.device.type == moved.graph_of_node.device.type == "meta"
        and moved.sizes == graph.sizes
        and moved._dgl is None
    )
