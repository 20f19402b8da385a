"""Vectors of the edges of a batch, also across periodic boundaries."""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.models.graph_ops import GraphIndex


def image_vectors(
    graph: GraphIndex, cell: Tensor | None, image_shift: Tensor | None
) -> Tensor | None:
    """Displacement of the receiving atom of every edge (edges, 3), ``image_shift @ cell``; None in
    open space.

    cell (graphs, 3, 3), rows are lattice vectors; image_shift (edges, 3) integer cell vectors added
    to the receiving atom.
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
    """``x_dst - x_src`` of every edge (edges, 3), in the units of the positions.

    positions (nodes, 3); with periodic images their displacements (edges, 3), see
    :func:`image_vectors`.
    """
    vectors = positions.index_select(0, graph.dst) - positions.index_select(0, graph.src)
    return vectors if images is None else vectors + images


def check_reach(found: float | None, wanted: float) -> None:
    """``ValueError`` if edges were sought to ``found`` Angstrom only and the network looks further;
    None: nobody said how far.
    """
    if found is not None and found < wanted:
        raise ValueError(
            f"the batch has the edges within {found} Angstrom, the network wants all within "
            f"{wanted}; give --cutoff to both"
        )


def safe_length(vectors: Tensor) -> Tensor:
    """Length of vectors (edges, 3): (edges,); a zero vector has length 0 with zero first and second
    derivatives.
    """
    squared = vectors.square().sum(-1)
    empty = squared == 0
    return torch.where(empty, 0.0, torch.where(empty, 1.0, squared).sqrt())
