"""Edge vectors follow their definition, across periodic boundaries as well."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.edges import batch_vectors, edge_vectors, image_vectors
from farfield.models.graph_ops import GraphIndex
from tests.support.draws import draw
from tests.support.turns import orthogonal

LAWS = settings(max_examples=25, deadline=None, derandomize=True, database=None)
SEEDS = st.integers(0, 10_000)


def two_crystals(seed: int) -> tuple[GraphIndex, Tensor, Tensor, Tensor]:
    """Two graphs with random triclinic cells: graph, positions, cells, image shifts."""
    graph = GraphIndex(
        torch.tensor([1, 2, 0, 1, 4, 3]), torch.tensor([0, 0, 1, 2, 3, 3]), torch.tensor([3, 2])
    )
    shifts = torch.randint(
        -2, 3, (graph.num_edges, 3), generator=torch.Generator().manual_seed(seed)
    )
    return graph, draw(5, 3, seed=seed), 3 * draw(2, 3, 3, seed=seed + 1), shifts


@LAWS
@given(seed=SEEDS)
def test_periodic_vectors_by_the_definition(seed):
    """``x_dst + n1 a1 + n2 a2 + n3 a3 - x_src``, written out for each edge.

    With the lattice vectors a of its own graph.
    """
    graph, positions, cells, shifts = two_crystals(seed)
    found = edge_vectors(positions, graph, image_vectors(graph, cells, shifts))
    for edge, (j, i) in enumerate(zip(graph.src.tolist(), graph.dst.tolist(), strict=True)):
        cell = cells[0 if i < 3 else 1]
        image = positions[i] + sum(
            int(n) * lattice for n, lattice in zip(shifts[edge], cell, strict=True)
        )
        torch.testing.assert_close(found[edge], image - positions[j], rtol=1e-13, atol=1e-13)
    assert image_vectors(graph, None, None) is None
    torch.testing.assert_close(
        edge_vectors(positions, graph), positions[graph.dst] - positions[graph.src]
    )


@LAWS
@given(seed=SEEDS, matrix_seed=SEEDS)
def test_periodic_vectors_know_no_choice_of_cell(seed, matrix_seed):
    """Edge vectors do not change when atoms move by lattice vectors, and their shifts with them.

    A translation changes nothing, and a rotation of everything turns them.
    """
    graph, positions, cells, shifts = two_crystals(seed)
    expected = edge_vectors(positions, graph, image_vectors(graph, cells, shifts))
    moves = torch.randint(-3, 4, (5, 3), generator=torch.Generator().manual_seed(matrix_seed))
    moved = (
        positions
        + torch.einsum("na,nab->nb", moves.double(), cells[graph.graph_of_node])
        + draw(3, seed=matrix_seed)
    )
    found = edge_vectors(
        moved, graph, image_vectors(graph, cells, shifts - moves[graph.dst] + moves[graph.src])
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    matrix = orthogonal(matrix_seed)
    found = edge_vectors(
        positions @ matrix.T, graph, image_vectors(graph, cells @ matrix.T, shifts)
    )
    torch.testing.assert_close(found, expected @ matrix.T, rtol=0, atol=1e-12)


def test_periodic_vectors_are_differentiable_in_positions_and_cell():
    graph, positions, cells, shifts = two_crystals(0)
    positions.requires_grad_(True), cells.requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda x, h: edge_vectors(x, graph, image_vectors(graph, h, shifts)), (positions, cells)
    )


def test_shift_without_cell_is_refused():
    graph, _, _, shifts = two_crystals(0)
    with pytest.raises(ValueError, match="image_shift was given without a cell: give the cell"):
        image_vectors(graph, None, shifts)


def test_vectors_of_rounded_positions_far_from_the_origin():
    """A batch that was rounded to float32 has the vectors of the exact positions."""
    graph, positions, cells, shifts = two_crystals(3)
    exact = positions + torch.tensor([[1e5, -2e5, 3e5]]).double()
    batch = AtomBatch(graph, exact.double(), cell=100 * cells.double(), image_shift=shifts)
    expected = batch_vectors(batch)
    rounded = batch.to(dtype=torch.float32)
    assert batch_vectors(rounded).dtype == torch.float32
    within = 2e-6 * float(expected.abs().max())  # cells are rounded as well
    torch.testing.assert_close(batch_vectors(rounded).double(), expected, rtol=0, atol=within)

    # without what was cut off, atoms are 0.01 Angstrom away from their places
    lost = dataclasses.replace(rounded, position_remainder=None)
    assert float((batch_vectors(lost).double() - expected).abs().max()) > 1e-3
