"""A batch survives the way to DGL and back, and knows when its rows do not fit."""

import pytest
import torch

from farfield.models.batch import AtomBatch
from farfield.models.complete_graphs import complete_graphs
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
        graph_features={"total_charge": torch.tensor([0.0, 1.0, -1.0]), "spin": torch.arange(3)},
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
    back = AtomBatch.from_dgl(
        graph,
        cell=batch.cell,
        labels=batch.labels,
        periodic=batch.periodic,
        graph_features=batch.graph_features,
    )
    for name in ("src", "dst", "nodes_per_graph"):
        assert torch.equal(getattr(back.graph, name), getattr(batch.graph, name))
    for name in ("positions", "atomic_numbers", "image_shift", "cell", "periodic"):
        assert torch.equal(getattr(back, name), getattr(batch, name))
    assert torch.equal(back.node_features["velocities"], batch.node_features["velocities"])
    assert torch.equal(back.edge_features["bonds"], batch.edge_features["bonds"])
    assert back.graph_features == batch.graph_features
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
    assert batch.graph.edges_per_graph.tolist() == [3, 0, 2]


def test_floating_type_changes_and_integers_stay():
    batch = ragged_batch().to(dtype=torch.float64)
    assert (
        batch.positions.dtype == batch.labels["energy"].dtype == batch.cell.dtype == torch.float64
    )
    assert batch.graph_features["total_charge"].dtype == torch.float64
    assert batch.graph_features["spin"].dtype == torch.int64
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
        moved.graph_features["total_charge"],
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
        (
            "graph_features",
            {"total_charge": torch.zeros(6)},
            r"graph_features\['total_charge'\] must have one row for each of the 3 graphs",
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


def joined(batches: list[AtomBatch]) -> AtomBatch:
    """Batches laid end to end: what :meth:`AtomBatch.split` takes apart."""
    first = torch.tensor([0, *(batch.num_nodes for batch in batches)]).cumsum(0).tolist()

    def cat(name: str) -> torch.Tensor:
        return torch.cat([getattr(batch, name) for batch in batches])

    def cat_all(name: str) -> dict[str, torch.Tensor]:
        every = [getattr(batch, name) for batch in batches]
        return {key: torch.cat([values[key] for values in every]) for key in every[0]}

    ends = [
        torch.cat(
            [getattr(batch.graph, end) + low for batch, low in zip(batches, first, strict=False)]
        )
        for end in ("src", "dst")
    ]
    return AtomBatch(
        GraphIndex(*ends, torch.cat([batch.graph.nodes_per_graph for batch in batches])),
        **{name: cat(name) for name in ("positions", "atomic_numbers", "cell", "periodic")},
        image_shift=cat("image_shift"),
        node_features=cat_all("node_features"),
        edge_features=cat_all("edge_features"),
        graph_features=cat_all("graph_features"),
        labels=cat_all("labels"),
    )


def assert_same(one: AtomBatch, other: AtomBatch) -> None:
    for name in ("src", "dst", "nodes_per_graph"):
        assert torch.equal(getattr(one.graph, name), getattr(other.graph, name)), name
    for name in ("positions", "atomic_numbers", "cell", "periodic", "image_shift"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in ("node_features", "edge_features", "graph_features", "labels"):
        values, others = getattr(one, name), getattr(other, name)
        assert values.keys() == others.keys(), name
        assert all(torch.equal(values[key], others[key]) for key in values), name


def test_structures_laid_end_to_end_are_the_batch_again():
    batch = ragged_batch()
    parts = batch.split()
    assert [part.num_nodes for part in parts] == [3, 1, 2]
    assert [part.num_edges for part in parts] == [3, 0, 2]
    assert [part.labels["energy"].shape for part in parts] == [(1,)] * 3
    assert parts[2].labels["forces"].shape == (2, 3)
    assert parts[2].graph_features["total_charge"].tolist() == [-1.0]
    assert_same(joined(parts), batch)


def test_split_finds_the_edges_of_a_graph_in_any_order():
    batch = ragged_batch()
    order = torch.tensor([3, 0, 4, 2, 1])
    mixed = AtomBatch(
        GraphIndex(batch.graph.src[order], batch.graph.dst[order], batch.graph.nodes_per_graph),
        positions=batch.positions,
        edge_features={"bonds": batch.edge_features["bonds"][order]},
    )
    first = mixed.split()[0]
    assert (first.graph.src.tolist(), first.graph.dst.tolist()) == ([1, 0, 2], [0, 1, 0])
    assert torch.equal(first.edge_features["bonds"], batch.edge_features["bonds"][[0, 2, 1]])


@pytest.mark.parametrize("shared", [False, True], ids=["own frames", "shared frames"])
def test_split_takes_the_basis_along(shared):
    graph = complete_graphs(2, 3)
    positions = torch.randn(6, 3)
    basis = EdgeBasis.from_vectors(edge_vectors(positions, graph), 2)
    if shared:
        basis.rows = torch.arange(graph.num_edges)
    part = AtomBatch(graph, positions, edge_basis=basis).split()[1]
    expected = EdgeBasis.from_vectors(edge_vectors(positions[3:], complete_graphs(1, 3)), 2)
    assert torch.equal(part.edge_basis.rotation(), expected.rotation())
    assert torch.equal(part.edge_basis.length, expected.length)


@pytest.mark.parametrize(
    ("sizes", "rows", "message"),
    [
        ([2, 0], 2, "2 nodes in as many graphs"),
        ([2, 1], 4, r"labels\['energy'\] has 4 rows, .* 3 nodes nor the 2 graphs"),
    ],
)
def test_split_refuses_labels_of_nobody(sizes, rows, message):
    empty = torch.tensor([], dtype=torch.long)
    graph = GraphIndex(empty, empty, torch.tensor(sizes))
    batch = AtomBatch(graph, torch.zeros(sum(sizes), 3), labels={"energy": torch.zeros(rows)})
    with pytest.raises(ValueError, match=message):
        batch.split()


@pytest.mark.parametrize("kept", [[True, False, True], [False, True, False], [False] * 3])
def test_a_selection_is_the_chosen_structures_end_to_end(kept):
    batch = ragged_batch()
    found = batch.select(torch.tensor(kept))
    chosen = [part for part, keep in zip(batch.split(), kept, strict=True) if keep]
    if chosen:
        assert_same(found, joined(chosen))
    else:
        assert (found.num_graphs, found.num_nodes, found.num_edges) == (0, 0, 0)


def test_a_coarser_type_keeps_the_rest_of_the_positions():
    ends = torch.tensor([1, 0, 3]), torch.tensor([0, 1, 2])
    graph = GraphIndex(*ends, torch.tensor([2, 3]))
    exact = 1e3 + torch.randn(5, 3, dtype=torch.float64)
    batch = AtomBatch(graph, exact)
    assert batch.position_remainder is None

    rounded = batch.to(dtype=torch.float32)
    assert float((rounded.positions.double() - exact).abs().max()) > 1e-6
    torch.testing.assert_close(rounded.exact_positions(), exact, rtol=0, atol=1e-11)

    # parts, copies of the same type and finer types keep it
    parts = rounded.split()
    assert torch.equal(parts[1].exact_positions(), rounded.exact_positions()[2:])
    again = rounded.to(dtype=torch.float32)
    assert torch.equal(again.position_remainder, rounded.position_remainder)
    finer = rounded.to(dtype=torch.float64)
    assert finer.position_remainder is None
    torch.testing.assert_close(finer.positions, exact, rtol=0, atol=1e-11)
