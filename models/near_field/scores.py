"""Attention logits of E2Former: how strongly each head of an atom listens to a neighbour.

Each score is a module ``forward(x (nodes, rows, channels), geometry) -> logits (edges, heads)``, invariant under rotation and
reflection. ``act(t) = 0.8 t sigmoid(t) + 0.2 t`` is smooth and never flat.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.graph_ops import node_dot
from models.irreps import split_degrees
from models.near_field.geometry import NearFieldGeometry

NORM_EPSILON = 1e-4


def leaky_silu(t: Tensor) -> Tensor:
    """``0.8 t sigmoid(t) + 0.2 t``."""
    return 0.8 * nn.functional.silu(t) + 0.2 * t


class ScalarMap(nn.Module):
    """Invariants of a node: products of two linear maps summed over the orders of each degree, then a small network.

    ``s_l[c] = sum_m (A_l x)_lm,c (B_l x)_lm,c / sqrt(2 l + 1)``, all l side by side, Linear, LayerNorm, SiLU, Linear.
    ``forward(x (nodes, rows, channels)) -> (nodes, maps, size)``: ``maps`` independent maps at once (queries and keys).
    """

    def __init__(self, lmax: int, channels: int, size: int, maps: int):
        super().__init__()
        self.maps, self.width = maps, max(size // 2, 1)
        self.product = nn.Parameter(torch.randn(lmax + 1, channels, 2 * maps * self.width) / math.sqrt(channels))
        self.bias = nn.Parameter(torch.zeros(maps * self.width))  # of A at degree 0
        inputs = (lmax + 1) * self.width
        self.first = nn.Parameter(torch.randn(maps, inputs, size) / math.sqrt(inputs))
        self.norm_weight = nn.Parameter(torch.ones(maps, size))
        self.norm_bias = nn.Parameter(torch.zeros(maps, size))
        self.second = nn.Parameter(torch.randn(maps, size, size) / math.sqrt(size))

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, rows, channels) -> (nodes, maps, size)."""
        sums = []
        for l, (part, weight) in enumerate(zip(split_degrees(x), self.product.unbind(), strict=True)):
            left, right = (part @ weight).chunk(2, -1)  # (nodes, 2 l + 1, maps width)
            if l == 0:
                left = left + self.bias
            sums.append((left * right).sum(1) / math.sqrt(2 * l + 1))
        invariants = torch.stack(sums, 1).view(x.shape[0], -1, self.maps, self.width)  # (nodes, lmax + 1, maps, width)
        hidden = invariants.permute(2, 0, 1, 3).flatten(2) @ self.first  # (maps, nodes, size)
        hidden = nn.functional.layer_norm(hidden, hidden.shape[-1:], eps=NORM_EPSILON)
        hidden = nn.functional.silu(hidden * self.norm_weight.unsqueeze(1) + self.norm_bias.unsqueeze(1))
        return (hidden @ self.second).transpose(0, 1)


class QueryKeyScore(nn.Module):
    """``QK_alpha``: ``a_ijh = act(g_h(e_ij) <P_q(x_i)_h, P_k(x_j)_h> / sqrt(d))`` with g linear in the edge invariants."""

    def __init__(self, lmax: int, channels: int, heads: int, hidden: int, width: int):
        super().__init__()
        self.heads, self.width = heads, width
        self.invariants = ScalarMap(lmax, channels, heads * width, 2)
        self.gate = nn.Linear(hidden, heads)

    def forward(self, x: Tensor, geometry: NearFieldGeometry) -> Tensor:
        """(nodes, rows, channels) -> (edges, heads)."""
        query, key = self.invariants(x).view(x.shape[0], 2, self.heads, self.width).unbind(1)
        agreement = node_dot(geometry.graph, key, query) / math.sqrt(self.width)
        return leaky_silu(self.gate(geometry.invariants) * agreement)


SCORES = {"QK_alpha": QueryKeyScore}
