"""Vectors and lengths of the edges of a batch, also across periodic boundaries.

    v_e = x_dst + n_e C - x_src

with the cell C of the graph, rows are lattice vectors, and the image n_e of the receiving atom. A
batch whose positions were rounded knows what was cut off of them, and the vectors are differences
of the exact positions: as good far from the origin as near to it.
Cost: linear in edges.
"""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import GraphIndex, gather_dst, gather_src


def image_vectors(
    graph: GraphIndex, cell: Tensor | None, image_shift: Tensor | None
) -> Tensor | None:
    """Displacement ``n_e C`` of the receiving atom of every edge (edges, 3).

    cell (graphs, 3, 3), rows are lattice vectors. image_shift (edges, 3) integer cell vectors. In
    open space, without shifts, the result is None. ValueError for shifts without a cell.
    """
    if image_shift is None:
        return None
    if cell is None:
        raise ValueError(
            "image_shift was given without a cell: give the cell (graphs, 3, 3) as well"
        )
    cell_of_edge = cell.index_select(0, graph.graph_of_node.index_select(0, graph.src))
    return (image_shift.to(cell.dtype).unsqueeze(1) @ cell_of_edge).squeeze(1)


def edge_vectors(positions: Tensor, graph: GraphIndex, images: Tensor | None = None) -> Tensor:
    """``x_dst - x_src`` of every edge (edges, 3), in the unit of the positions.

    positions (nodes, 3). images (edges, 3): :func:`image_vectors`, or None in open space.
    """
    vectors = gather_dst(graph, positions) - gather_src(graph, positions)
    return vectors if images is None else vectors + images


def batch_vectors(batch: AtomBatch) -> Tensor:
    """Vectors of the edges of a batch (edges, 3), of the type of its positions.

    ValueError as of :func:`image_vectors`.
    """
    exact = batch.exact_positions()
    vectors = edge_vectors(exact, batch.graph, batch_images(batch))
    return vectors.to(batch.positions.dtype)


def batch_images(batch: AtomBatch) -> Tensor | None:
    """:func:`image_vectors` of a batch (edges, 3), of the type of its exact positions."""
    cell = batch.cell
    if cell is not None and batch.position_remainder is not None:
        cell = cell.double()
    return image_vectors(batch.graph, cell, batch.image_shift)


def check_reach(found: float | None, needed: float) -> None:
    """Raise ValueError if the graphs of a batch end before the cutoff of the network.

    found: cutoff of the graphs (Angstrom), None where nothing is known. needed: cutoff of the
    network (Angstrom).
    """
    if found is not None and found < needed:
        raise ValueError(
            f"graphs were built with cutoff {found} A but the model needs {needed} A; preprocess "
            f"with --cutoff {needed}, or train with --cutoff {found}"
        )


def safe_length(vectors: Tensor) -> Tensor:
    """Length of vectors (edges, 3): (edges,).

    A zero vector has length 0 with zero first and second derivatives.
    """
    squared = vectors.square().sum(-1)
    empty = squared == 0
    return torch.where(empty, 0.0, torch.where(empty, 1.0, squared).sqrt())
