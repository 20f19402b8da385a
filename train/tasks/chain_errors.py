"""How far two sets of atoms are apart, chain by chain: root mean square deviations.

    rmsd(x, y)            = sqrt(1/n sum_i |x_i - y_i|^2)
    superposed_rmsd(x, y) = min over rotations R and shifts t of rmsd(R x + t, y)

The minimum follows from the singular values s of H = sum_i x_i y_i^T (both about their means):
n rmsd^2 = sum |x|^2 + sum |y|^2 - 2 (s_1 + s_2 + sign(det H) s_3) (Kabsch 1976, Acta Cryst. A32,
922); the sign keeps mirror images apart. Cost: linear in atoms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.models.graph_ops import GraphIndex


def chain_rmsd(residual: Tensor, graph: GraphIndex) -> Tensor:
    """Root mean square of residuals (nodes, 3) over the atoms of each graph (graphs,) float64."""
    squares = residual.double().square().sum(-1)
    return (_sum_of_chains(squares, graph) / graph.nodes_per_graph).sqrt()


def superposed_rmsd(positions: Tensor, target: Tensor, graph: GraphIndex) -> Tensor:
    """The smallest rmsd (graphs,) float64 of each graph that a rotation and a shift can reach.

    positions, target: (nodes, 3).
    """
    x, y = (_about_mean(values.double(), graph) for values in (positions, target))
    products = _sum_of_chains(x.unsqueeze(2) * y.unsqueeze(1), graph)  # (graphs, 3, 3)
    singular = torch.linalg.svdvals(products)
    handed = torch.stack(
        [torch.ones_like(singular[:, 0])] * 2 + [torch.linalg.det(products).sign()]
    )
    overlap = (singular * handed.T).sum(-1)

    spread = _sum_of_chains((x.square() + y.square()).sum(-1), graph)
    return ((spread - 2 * overlap).clamp_min(0) / graph.nodes_per_graph).sqrt()


def _about_mean(values: Tensor, graph: GraphIndex) -> Tensor:
    """Values (nodes, 3) less their mean over each graph."""
    mean = _sum_of_chains(values, graph) / graph.nodes_per_graph.unsqueeze(-1)
    return values - mean.index_select(0, graph.graph_of_node)


def _sum_of_chains(values: Tensor, graph: GraphIndex) -> Tensor:
    """Sums of node values (nodes, ...) over each graph (graphs, ...)."""
    total = values.new_zeros(graph.num_graphs, *values.shape[1:])
    return total.index_add_(0, graph.graph_of_node, values)
