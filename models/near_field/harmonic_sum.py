"""Sum over the edges of a node of weight x harmonic x source features: the one heavy operation of the near field."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from models.graph_ops import GraphIndex, weighted_sum


class Neighbourhoods:
    """Edges from ``num_sources`` senders ``src`` (edges,) to ``num_targets`` receivers ``dst`` (edges,)."""

    def __init__(self, src: Tensor, dst: Tensor, num_sources: int, num_targets: int):
        self.src, self.dst, self.num_sources, self.num_targets = src, dst, num_sources, num_targets

    @functools.cached_property
    def graph(self) -> GraphIndex:
        """The edges as one graph of max(num_sources, num_targets) nodes, as DGL wants them."""
        nodes = max(self.num_sources, self.num_targets)
        return GraphIndex.from_edges(self.src, self.dst, torch.tensor([nodes], device=self.src.device))


def math_sum(edges: Neighbourhoods, harmonics: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """``out_i[m, r, c] = sum_{e: j -> i} Y_e[m] w_e[c] x_j[r, c]``: one weighted sum of DGL for each component m."""
    missing = edges.num_targets - edges.num_sources
    if missing > 0:
        x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, missing))
    parts = [weighted_sum(edges.graph, x, (weights * harmonics[:, m : m + 1]).unsqueeze(1)) for m in range(harmonics.shape[1])]
    return torch.stack(parts, 1)[: edges.num_targets]


KERNELS = {"math": math_sum}
