"""A batch survives the way to DGL and back, and knows when its rows do not fit."""

import pytest
import torch

from farfield.models.batch import AtomBatch, complete_edges, complete_graphs, edges_per_graph
from farfield.models.edges import edge_vectors
from farfield.models.graph_ops import GraphIndex
from farfield.models.near_field.edge_frames import EdgeBasis


def ragged_batch() -> AtomBatch:
    """Three graphs of 3, 1 and 2 nodes; the second has no edge."""
    src, dst = torch.tensor([1, 2, 0, 5, 4]), torch.tensor([0, 0, 1, 4, 5])
    graph = GraphIndex(src, dst, torch.tensor([3, 1, 2]))
    return AtomBatch(
        graph,
        positions=torch.randn(6, 3),
        atomic_numbers=torch.tensor([8, 1, 1, 2, 1, 1]),
        node_features={"velocities": torch.randn(6, 3)},
        edge_features={"bonds": torch.randn(5, 2)},
        cell=torch.eye(3).repeat(3, 1, 1),
        image_shift=torch.tensor([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 0, 2], [0, 0, -2]]),
        labels={"energy": torch.randn(3), "forces": torch.randn(6, 3)},
        periodic=torch.tensor([[True, True, True], [False, False, False], [True, True, False]]),
    )


def test_dgl_round_trip():
    batch = ragged_batch()
    graph = batch.to_dgl()
    assert graph.batch_num_nodes().tolist() == [3, 1, 2] and graph.batch_num_edges().tolist() == [
        3,
        0,
        2,
    ]
    back = AtomBatch.from_dgl(graph, cell=batch.cell, labels=batch.labels, periodic=batch.periodic)
    for name in ("src", "dst", "nodes_per_graph"):
        assert torch.equal(getattr(back.graph, name), getattr(batch.graph, name))
    for name in ("positions", "atomic_numbers", "image_shift", "cell", "periodic"):
        assert torch.equal(getattr(back, name), getattr(batch, name))
    assert torch.equal(back.node_features["velocities"], batch.node_features["velocities"])
    assert torch.equal(back.edge_features["bonds"], batch.edge_features["bonds"])
    assert (
        set(back.node_features) == {"velocities"}
        and set(back.edge_features) == {"bonds"}
        and set(back.labels) == {"energy", "forces"}
    )
    assert "positions" not in batch.graph.dgl.ndata  # the shared topology carries no data


def test_dgl_graph_without_positions_is_refused():
    graph = ragged_batch().graph.dgl
    with pytest.raises(ValueError, match="must have ndata 'positions'"):
        AtomBatch.from_dgl(graph)


def test_counts():
    batch = ragged_batch()
    assert (batch.num_graphs, batch.num_nodes, batch.num_edges) == (3, 6, 5)
    assert edges_per_graph(batch.graph).tolist() == [3, 0, 2]


def test_floating_type_changes_and_integers_stay():
    batch = ragged_batch().to(dtype=torch.float64)
    assert (
        batch.positions.dtype == batch.labels["energy"].dtype == batch.cell.dtype == torch.float64
    )
    assert batch.atomic_numbers.dtype == batch.image_shift.dtype == torch.int64
    assert torch.equal(batch.periodic, ragged_batch().periodic)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no second device here")
def test_everything_moves_to_the_device():
    moved = ragged_batch().to("cuda")
    tensors = [
        moved.positions,
        moved.periodic,
        moved.atomic_numbers,
        moved.edge_features["bonds"],
        moved.labels["forces"],
        moved.graph.src,
    ]
    assert all(value.device.type == "cuda" for value in tensors)


def test_a_cached_basis_is_dropped_rather_than_called_finer_than_it_is():
    graph = complete_graphs(1, 3)
    positions = torch.randn(3, 3)
    batch = AtomBatch(
        graph, positions, edge_basis=EdgeBasis.from_vectors(edge_vectors(positions, graph), 2)
    )
    assert batch.to(dtype=torch.float32).edge_basis is not None
    assert batch.to(dtype=torch.float64).edge_basis is None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "positions",
            torch.zeros(5, 3),
            r"positions must have one row for each of the 6 nodes, got the shape \(5, 3\)",
        ),
        (
            "edge_features",
            {"bonds": torch.zeros(4)},
            r"edge_features\['bonds'\] must have one row for each of the 5 edges",
        ),
        ("cell", torch.zeros(1, 3, 3), "cell must have one row for each of the 3 graphs"),
        (
            "periodic",
            torch.ones(2, 3, dtype=torch.bool),
            "periodic must have one row for each of the 3 graphs",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused(field, value, message):
    batch = ragged_batch()
    with pytest.raises(ValueError, match=message):
        AtomBatch(
            **{**{name: getattr(batch, name) for name in ("graph", "positions")}, field: value}
        )


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_complete_graphs_are_sorted_and_whole(nodes):
    src, dst = complete_edges(nodes)
    assert {(int(j), int(i)) for j, i in zip(src, dst, strict=True)} == {
        (j, i) for i in range(nodes) for j in range(nodes) if i != j
    }
    graph = complete_graphs(3, nodes)
    key = graph.dst * 3 * nodes + graph.src
    assert torch.equal(key, key.sort().values)
    assert torch.equal(graph.graph_of_node[graph.src], graph.graph_of_node[graph.dst])
    assert graph.num_edges == 3 * nodes * (nodes - 1)
