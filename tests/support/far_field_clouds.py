"""Ragged batches of atoms in balls, with random queries, keys and values."""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.models.far_field.expansions import EXPANSIONS
from farfield.models.graph_ops import GraphIndex, broadcast_nodes, mean_nodes
from tests.support.draws import draw

CORNERS = [9, 1, 5, 5, 14]  # a lone atom, and two graphs of one size
OPEN = [name for name, expansion in EXPANSIONS.items() if expansion.cells != "needed"]
SHAPE = (2, 3, 4)  # heads, key features, values


def batch(sizes: list[int]) -> GraphIndex:
    """Graphs of the given sizes without edges."""
    none = torch.zeros(0, dtype=torch.long)
    return GraphIndex(none, none, torch.tensor(sizes, dtype=torch.long))


def ball(graph: GraphIndex, radius: float, seed: int = 0) -> Tensor:
    """Points of every graph about its own centroid, the farthest of the batch at ``radius``.

    Centroids are ``radius`` or so apart.
    """
    points = draw(graph.num_nodes, 3, seed=seed)
    points = points - broadcast_nodes(graph, mean_nodes(graph, points))
    points = points * (radius / points.norm(dim=1).max())
    return points + broadcast_nodes(graph, radius * draw(graph.num_graphs, 3, seed=seed + 1))


def features(
    graph: GraphIndex, shape: tuple[int, int, int] = SHAPE, seed: int = 5
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys (nodes, heads, features) and values (nodes, heads, V)."""
    heads, keys, values = shape
    return tuple(
        draw(graph.num_nodes, heads, width, seed=seed + n)
        for n, width in enumerate((keys, keys, values))
    )
