"""Laws of turned batches: everything that points in space turns with its structure, nothing else
changes, and what nobody has told the kind of is refused.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from farfield.models.batch import AtomBatch
from farfield.models.edges import edge_vectors, image_vectors
from farfield.models.graph_ops import GraphIndex
from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.models.turned_batches import (
    KINDS,
    declare_kind,
    kind_of,
    repeated_batch,
    turned_batch,
    turned_values,
)
from tests.support.draws import draw
from tests.support.turns import orthogonal

SIZES = (3, 1, 2)
MATRICES = torch.stack([orthogonal(1), orthogonal(2, proper=False), orthogonal(3)])


def crystals() -> AtomBatch:
    """Three periodic structures with every kind of feature and label."""
    nodes, graphs = sum(SIZES), len(SIZES)
    src, dst = torch.tensor([1, 2, 0, 5, 4]), torch.tensor([0, 0, 1, 4, 5])
    return AtomBatch(
        GraphIndex(src, dst, torch.tensor(SIZES)),
        positions=draw(nodes, 3, seed=1),
        atomic_numbers=torch.tensor([8, 1, 1, 2, 1, 1]),
        node_features={"velocities": draw(nodes, 3, seed=2), "charges": draw(nodes, seed=3)},
        edge_features={"springs": draw(len(src), 1, seed=4), "hops": torch.arange(len(src))},
        graph_features={"total_charge": draw(graphs, seed=5)},
        cell=4 * torch.eye(3, dtype=torch.float64) + draw(graphs, 3, 3, seed=6),
        image_shift=torch.tensor([[0, 0, 0], [1, 0, 0], [-1, 0, 2], [0, 0, 2], [0, 1, -2]]),
        periodic=torch.tensor([[True] * 3, [True, False, True], [True] * 3]),
        labels={
            "energy": draw(graphs, seed=7),
            "forces": draw(nodes, 3, seed=8),
            "stress": draw(graphs, 3, 3, seed=9),
            "dipole": draw(graphs, 3, seed=10),
            "waypoints": draw(nodes, 2, 6, seed=11),
        },
    )


def test_each_structure_turns_by_its_own_matrix():
    """Against loops over structures, atoms and vectors."""
    batch = crystals()
    found = turned_batch(batch, MATRICES)
    graphs = batch.graph.graph_of_node.tolist()
    for node, graph in enumerate(graphs):
        matrix = MATRICES[graph]
        for before, after in (
            (batch.positions, found.positions),
            (batch.node_features["velocities"], found.node_features["velocities"]),
            (batch.labels["forces"], found.labels["forces"]),
        ):
            assert torch.allclose(after[node], matrix @ before[node], atol=1e-14)
        for step in range(2):
            for part in (slice(0, 3), slice(3, 6)):
                expected = matrix @ batch.labels["waypoints"][node, step, part]
                assert torch.allclose(found.labels["waypoints"][node, step, part], expected)

    for graph, matrix in enumerate(MATRICES):
        assert torch.allclose(found.labels["dipole"][graph], matrix @ batch.labels["dipole"][graph])
        stress = matrix @ batch.labels["stress"][graph] @ matrix.T
        assert torch.allclose(found.labels["stress"][graph], stress)
        for row in range(3):
            assert torch.allclose(found.cell[graph, row], matrix @ batch.cell[graph, row])


def test_scalars_topology_and_images_stay():
    batch = crystals()
    found = turned_batch(batch, MATRICES)
    assert found.graph is batch.graph
    for name in ("atomic_numbers", "image_shift", "periodic"):
        assert torch.equal(getattr(found, name), getattr(batch, name))
    assert torch.equal(found.node_features["charges"], batch.node_features["charges"])
    assert torch.equal(found.labels["energy"], batch.labels["energy"])
    for name in ("edge_features", "graph_features"):
        before, after = getattr(batch, name), getattr(found, name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_edges_turn_with_their_cells():
    """Also those to periodic images: the stored edges are those of the turned crystal."""
    batch = crystals()
    found = turned_batch(batch, MATRICES)

    def vectors(one: AtomBatch) -> torch.Tensor:
        images = image_vectors(one.graph, one.cell, one.image_shift)
        return edge_vectors(one.positions, one.graph, images)

    of_edge = MATRICES[batch.graph.graph_of_node[batch.graph.dst]]
    expected = (of_edge @ vectors(batch).unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(vectors(found), expected, atol=1e-14)


def test_a_turn_and_its_inverse_are_nothing():
    batch = crystals()
    back = turned_batch(turned_batch(batch, MATRICES), MATRICES.mT)
    for name, value in batch.labels.items():
        assert torch.allclose(back.labels[name], value, atol=1e-13)
    assert torch.allclose(back.positions, batch.positions, atol=1e-13)


def test_single_precision_is_rounded_once():
    batch = crystals()
    exact = turned_batch(batch.to(dtype=torch.float32).to(dtype=torch.float64), MATRICES)
    found = turned_batch(batch.to(dtype=torch.float32), MATRICES)
    assert found.positions.dtype == torch.float32
    assert torch.equal(found.positions, exact.positions.float())
    assert torch.equal(found.labels["stress"], exact.labels["stress"].float())


def test_a_cached_basis_is_dropped():
    batch = dataclasses.replace(crystals(), cell=None, periodic=None, image_shift=None)
    basis = EdgeBasis.from_vectors(edge_vectors(batch.positions, batch.graph), 1)
    assert turned_batch(dataclasses.replace(batch, edge_basis=basis), MATRICES).edge_basis is None


@pytest.mark.parametrize(
    ("field", "rows", "columns"),
    [("labels", 6, 3), ("labels", 3, 3), ("node_features", 6, 5), ("edge_features", 5, 9)],
)
def test_what_may_be_a_vector_is_refused_until_its_kind_is_told(field, rows, columns):
    batch = dataclasses.replace(crystals(), **{field: {"spin_axis": draw(rows, columns, seed=1)}})
    with pytest.raises(
        ValueError, match=f"'spin_axis' has {columns} numbers a row, .*declare_k"
    ) as e:
        turned_batch(batch, MATRICES)
    assert "\n" not in str(e.value)
    try:
        declare_kind("spin_axis", "scalar")
        found = getattr(turned_batch(batch, MATRICES), field)["spin_axis"]
        assert torch.equal(found, getattr(batch, field)["spin_axis"])
    finally:
        KINDS._entries.pop("spin_axis")


def test_a_kind_is_one_of_four_and_told_once():
    with pytest.raises(ValueError, match="kind of 'x' must be one of .*did you mean 'vectors'"):
        declare_kind("x", "vektors")
    with pytest.raises(ValueError, match="the field of a batch 'forces' is registered already"):
        declare_kind("forces", "tensor")
    assert kind_of("anything", torch.zeros(4)) == "scalar"
    assert kind_of("tokens", torch.zeros(4, 3, dtype=torch.long)) == "scalar"


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("vector", (2, 4)), ("vector", (2,)), ("vectors", (2, 4)), ("tensor", (2, 3))],
)
def test_values_must_have_the_shape_of_their_kind(kind, shape):
    with pytest.raises(ValueError, match=f"'f' is declared as {kind}, which its shape"):
        turned_values(torch.zeros(shape), kind, MATRICES[:2], "f")


def test_matrices_must_be_orthogonal_one_for_each_structure():
    with pytest.raises(ValueError, match="3 structures are turned by matrices of the shape"):
        turned_batch(crystals(), MATRICES[:2])
    with pytest.raises(ValueError, match="must be orthogonal to 1e-05, .* R R.T - 1 is 3.0e"):
        turned_batch(crystals(), 2 * MATRICES)


def test_copies_are_the_batch_laid_end_to_end():
    batch = crystals()
    parts = repeated_batch(batch, 3).split()
    assert len(parts) == 9
    for copy, one in enumerate(parts):
        expected = batch.split()[copy % 3]
        assert torch.equal(one.graph.src, expected.graph.src)
        assert torch.equal(one.graph.dst, expected.graph.dst)
        for field in ("positions", "cell", "periodic", "image_shift", "atomic_numbers"):
            assert torch.equal(getattr(one, field), getattr(expected, field))
        for field in ("labels", "node_features", "edge_features", "graph_features"):
            for name, value in getattr(expected, field).items():
                assert torch.equal(getattr(one, field)[name], value)


def test_one_copy_is_the_batch_and_none_is_refused():
    batch = crystals()
    assert repeated_batch(batch, 1) is batch
    with pytest.raises(ValueError, match="copies of a batch must be >= 1, got 0"):
        repeated_batch(batch, 0)


def test_a_batch_without_structures_turns_into_itself():
    nothing = torch.zeros(0, dtype=torch.long)
    batch = AtomBatch(GraphIndex(nothing, nothing, nothing), positions=torch.zeros(0, 3))
    assert turned_batch(batch, torch.zeros(0, 3, 3)).positions.shape == (0, 3)
