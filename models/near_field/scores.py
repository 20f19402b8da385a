"""Attention logits of E2Former: how strongly each head of an atom listens to a neighbour.

Each score is a module ``forward(x (nodes, rows, channels), geometry) -> logits (edges, heads)``,
invariant under rotation and reflection:

    QK_alpha          act(g_h(e_ij) <P_q(x_i)_h, P_k(x_j)_h> / sqrt(d))
    dot_alpha         <v_h, act(LayerNorm(Lin(what both ends show along the edge)))>
    dot_alpha_small   the same with an eighth of the channels

with invariants e_ij of the edge, g linear, and ``act(t) = 0.8 t sigmoid(t) + 0.2 t``, which is
smooth and never flat.

Cost: linear in nodes and edges; an edge takes heads x width multiply-adds for ``QK_alpha`` and
channels x lmax x heads x width for ``dot_alpha``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from farfield.models.choices import Registry
from farfield.models.graph_ops import node_dot
from farfield.models.kernels.recomputation import (
    recomputed,
    recomputed_module,
    runs_again,
    weight_views,
)
from farfield.models.layers.layer_norm import LayerNorm, layer_norm
from farfield.models.layers.linear import EquivariantLinear
from farfield.models.near_field.edge_geometry import NearFieldGeometry
from farfield.models.so3.irreps import degree_of_row, split_degrees, table
from farfield.models.tracing import is_tracing

# name -> (lmax, channels, heads, hidden, width, chunked) -> score
SCORES: Registry[type[nn.Module]] = Registry("score")


def leaky_silu(t: Tensor) -> Tensor:
    """``0.8 t sigmoid(t) + 0.2 t``."""
    return 0.8 * nn.functional.silu(t) + 0.2 * t


class ScalarMap(nn.Module):
    """Invariants of a node: products of two linear maps, then a small network.

    ``s_l[c] = sum_m (A_l x)_lm,c (B_l x)_lm,c / sqrt(2 l + 1)``, all l in one vector, then Linear,
    LayerNorm, SiLU, Linear. maps: number of independent maps that are computed at once (queries and
    keys). size: values of each.
    """

    def __init__(self, lmax: int, channels: int, size: int, maps: int):
        super().__init__()
        self.maps, self.width = maps, max(size // 2, 1)
        self.product = nn.Parameter(
            torch.randn(lmax + 1, channels, 2 * maps * self.width) / math.sqrt(channels)
        )
        self.bias = nn.Parameter(torch.zeros(maps * self.width))  # of A at degree 0

        inputs = (lmax + 1) * self.width
        self.first = nn.Parameter(torch.randn(maps, inputs, size) / math.sqrt(inputs))
        self.norm_weight = nn.Parameter(torch.ones(maps, size))
        self.norm_bias = nn.Parameter(torch.zeros(maps, size))
        self.second = nn.Parameter(torch.randn(maps, size, size) / math.sqrt(size))

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, rows, channels) -> (nodes, maps, size)."""
        sums = []
        degrees = zip(split_degrees(x), self.product.unbind(), strict=True)
        for l, (part, weight) in enumerate(degrees):
            left, right = (part @ weight).chunk(2, -1)  # (nodes, 2 l + 1, maps width)
            if l == 0:
                left = left + self.bias
            sums.append((left * right).sum(1) / math.sqrt(2 * l + 1))

        # (nodes, lmax + 1, maps, width)
        invariants = torch.stack(sums, 1).unflatten(-1, (self.maps, self.width))
        hidden = invariants.permute(2, 0, 1, 3).flatten(2) @ self.first  # (maps, nodes, size)
        hidden = layer_norm(hidden)
        hidden = hidden * self.norm_weight.unsqueeze(1) + self.norm_bias.unsqueeze(1)
        hidden = nn.functional.silu(hidden)
        return (hidden @ self.second).transpose(0, 1)


@SCORES.register("QK_alpha")
class QueryKeyScore(nn.Module):
    """``QK_alpha``: a query of the receiver meets a key of the sender.

    ``a_ijh = act(g_h(e_ij) <P_q(x_i)_h, P_k(x_j)_h> / sqrt(d))`` with g linear in the edge
    invariants. No edge tensor is larger than (edges, heads), whatever ``chunked`` says. recompute:
    keep no temporaries of queries, keys and act while training.
    """

    recompute = False

    def __init__(
        self, lmax: int, channels: int, heads: int, hidden: int, width: int, chunked: bool = True
    ):
        super().__init__()
        self.heads, self.width = heads, width
        self.invariants = ScalarMap(lmax, channels, heads * width, 2)
        self.gate = nn.Linear(hidden, heads)

    def forward(self, x: Tensor, geometry: NearFieldGeometry) -> Tensor:
        """(nodes, rows, channels) -> (edges, heads)."""
        again = runs_again(self)
        if again:
            maps = recomputed_module(self.invariants, weight_views(self.invariants), x)
        else:
            maps = self.invariants(x)
        query, key = maps.view(x.shape[0], 2, self.heads, self.width).unbind(1)

        # (edges, heads)
        agreement = node_dot(geometry.graph, key, query) / math.sqrt(self.width)
        gate = self.gate(geometry.invariants)
        return recomputed(_gated, gate, agreement) if again else _gated(gate, agreement)


def _gated(gate: Tensor, agreement: Tensor) -> Tensor:
    return leaky_silu(gate * agreement)


@SCORES.register("dot_alpha")
class DotScore(nn.Module):
    """``dot_alpha``: what both ends of an edge show along it, through a small network of the edge.

    y = linear map of x to channels / ``narrowing`` channels; ``t_l = (2 l + 1)^(1/2) sum_m
    Y_lm(u_ij) y_lm`` of both ends and all degrees, times factors linear in the edge invariants;
    Linear to (heads, width), LayerNorm, act, inner product with one learned vector for each head.

    chunked: edges are taken ``edges_per_chunk`` at a time and computed again for the derivatives,
    so that memory holds node tensors only.
    """

    narrowing = 1
    edges_per_chunk = 1 << 12

    def __init__(
        self, lmax: int, channels: int, heads: int, hidden: int, width: int, chunked: bool = True
    ):
        super().__init__()
        self.lmax, self.heads, self.chunked = lmax, heads, chunked
        self.channels = max(channels // self.narrowing, 1)
        seen = 2 * (lmax + 1) * self.channels
        self.show = EquivariantLinear(lmax, channels, self.channels)
        self.gate = nn.Linear(hidden, seen)
        nn.init.ones_(self.gate.bias)
        self.first = nn.Linear(seen, heads * width)
        self.norm = LayerNorm(width)
        self.vector = nn.Parameter(torch.randn(heads, width) / math.sqrt(width))

    def forward(self, x: Tensor, geometry: NearFieldGeometry) -> Tensor:
        """(nodes, rows, channels) -> (edges, heads)."""
        graph, shown = geometry.graph, self.show(x)
        edges = (graph.src, graph.dst, geometry.harmonics(self.lmax), geometry.invariants)
        if not self.chunked or is_tracing() or graph.num_edges <= self.edges_per_chunk:
            return self._logits(shown, *edges)

        chunks = zip(*(values.split(self.edges_per_chunk) for values in edges), strict=True)
        return torch.cat(
            [checkpoint(self._logits, shown, *chunk, use_reentrant=False) for chunk in chunks]
        )

    def _logits(
        self, shown: Tensor, src: Tensor, dst: Tensor, harmonics: Tensor, invariants: Tensor
    ) -> Tensor:
        """Logits (edges, heads) of some edges; shown: y (nodes, rows, channels)."""
        # (edges, lmax + 1, rows): harmonics of one degree in each row, times (2 l + 1)^(1/2)
        selector = degree_selector(self.lmax, harmonics.dtype, harmonics.device)
        along = harmonics.unsqueeze(1) * selector

        # (edges, 2 (lmax + 1) channels): t of the receiver, then of the sender
        seen = torch.cat(
            [torch.bmm(along, shown.index_select(0, end)).flatten(1) for end in (dst, src)], -1
        )
        mixed = self.first(seen * self.gate(invariants)).unflatten(-1, self.vector.shape)
        return (leaky_silu(self.norm(mixed)) * self.vector).sum(-1)


@SCORES.register("dot_alpha_small")
class SmallDotScore(DotScore):
    """``dot_alpha_small``: the same with an eighth of the channels."""

    narrowing = 8


@table
def degree_selector(lmax: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``sqrt(2 l + 1)`` where a row belongs to degree l, else 0: (lmax + 1, rows)."""
    belongs = nn.functional.one_hot(degree_of_row(lmax)).T
    scale = (2 * torch.arange(lmax + 1, dtype=torch.float64).unsqueeze(1) + 1).sqrt()
    return (belongs * scale).to(dtype=dtype, device=device)
