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

from farfield.models.diffusion.process import centred
from farfield.models.graph_ops import GraphIndex, mean_nodes, sum_nodes


def chain_rmsd(residual: Tensor, graph: GraphIndex) -> Tensor:
    """Root mean square of residuals (nodes, 3) over the atoms of each graph (graphs,) float64."""
    squares = residual.double().square().sum(-1)
    return mean_nodes(graph, squares).sqrt()


def superposed_rmsd(positions: Tensor, target: Tensor, graph: GraphIndex) -> Tensor:
    """The smallest rmsd (graphs,) float64 of each graph that a rotation and a shift can reach.

    positions, target: (nodes, 3).
    """
    x, y = (centred(graph, values.double()) for values in (positions, target))
    products = sum_nodes(graph, x.unsqueeze(2) * y.unsqueeze(1))  # (graphs, 3, 3)
    singular = torch.linalg.svdvals(products)
    handed = torch.stack(
        [torch.ones_like(singular[:, 0])] * 2 + [torch.linalg.det(products).sign()]
    )
    overlap = (singular * handed.T).sum(-1)

    spread = sum_nodes(graph, (x.square() + y.square()).sum(-1))
    return ((spread - 2 * overlap).clamp_min(0) / graph.nodes_per_graph).sqrt()
