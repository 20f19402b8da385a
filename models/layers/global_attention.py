"""Attention of every node to all nodes of its graph, at linear cost, on invariants.

    o_i = gate_i sum_j w_ij v_j / sum_j w_ij,    w_ij = 1 + s_ij + s_ij^2 / 2,
    s_ij = <q_i, k_j> / sqrt(d)

for each head, j over all nodes of the graph, i among them; gate_i is a sigmoid of a linear map, or
1. The weight is the Taylor series of exp(s_ij) to second order (Keles et al. 2022, "On the
computational complexity of self-attention"; Buckman et al. 2024, "Symmetric power transformers").
It is ((1 + s)^2 + 1) / 2 >= 1/2, so all weights are positive, and it is a scalar product:

    w_ij = <c phi(q_i / sqrt(d)), phi(k_j)>,    phi(x) = (1, x_a, x_a x_b for a <= b)

with c = 1/2 for the squares x_a^2, 1 for all else. Therefore the sums over j are moments ``sum_j
phi(k_j) (v_j, 1)`` of the graph, made once and read by all of its nodes (``kernels/moments.py``).
Nothing is padded, and what stands in other graphs of the batch changes nothing. The function, and
the names of its weights but for an index, are those of ``TaylorSeriesLinearAttn`` of the package
taylor-series-linear-attention 0.2.0 without its last linear map.

Not extensive. The weights do not fall off with distance, so the output of a node depends on every
atom of the structure however far away, and two copies of a molecule far apart are not twice the
molecule. The far field (``far_field/``) is the attention over all atoms that knows where they are.

Cost: nodes x heads x (d + 1)(d + 2) / 2 x (d + 1) multiply-adds for each of the two maps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.graph_ops import GraphIndex
from farfield.models.kernels.moments import MomentReadout


class TaylorAttention(nn.Module):
    """Linear attention of scalars over all nodes of each graph; heads are not combined.

    Formula: see the module. ``forward(graph, scalars (nodes, channels)) -> (nodes, heads *
    dim_head)``, head by head; invariant, differentiable to any order, not extensive. gate_values:
    multiply each head of a node by a sigmoid of its scalars. ValueError for heads or dim_head below
    1.

    Example

        attention = TaylorAttention(channels=64, heads=4, dim_head=8, gate_values=True)
        attention(batch.graph, scalars)  # (nodes, 32)
    """

    def __init__(self, channels: int, heads: int, dim_head: int, *, gate_values: bool):
        super().__init__()
        for name, value in (("heads", heads), ("dim_head", dim_head)):
            if value < 1:
                raise ValueError(f"{name} of the linear attention must be >= 1, got {value}")
        self.heads, self.dim_head = heads, dim_head
        self.to_q = nn.Linear(channels, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(channels, 2 * heads * dim_head, bias=False)
        self.to_v_gates = nn.Linear(channels, heads, bias=False) if gate_values else None
        self.readout = MomentReadout()

        # pairs a <= b of components: a product of two different ones occurs twice in a square
        first, second = torch.triu_indices(dim_head, dim_head)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        weight = torch.cat([torch.ones(1 + dim_head), torch.where(first == second, 0.5, 1.0)])
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, graph: GraphIndex, scalars: Tensor) -> Tensor:
        """(nodes, channels) -> (nodes, heads * dim_head)."""
        queries = self.to_q(scalars).unflatten(1, (self.heads, self.dim_head))
        keys_values = self.to_kv(scalars).unflatten(1, (2, self.heads, self.dim_head))
        keys, values = keys_values.unbind(1)  # each (nodes, heads, dim_head)

        # a value of one, whose sum is the denominator
        values = torch.cat([values, torch.ones_like(values[..., :1])], -1)
        queries = self.weight * self._features(queries * self.dim_head**-0.5)
        sums = self._weighted_sums(graph, queries, self._features(keys), values)
        out = sums[..., :-1] / sums[..., -1:]
        if self.to_v_gates is not None:
            out = out * torch.sigmoid(self.to_v_gates(scalars)).unsqueeze(-1)
        return out.flatten(1)

    def _features(self, x: Tensor) -> Tensor:
        """phi: (nodes, heads, dim_head) -> (nodes, heads, 1 + dim_head + pairs)."""
        products = x.index_select(-1, self.first) * x.index_select(-1, self.second)
        return torch.cat([torch.ones_like(x[..., :1]), x, products], -1)

    def _weighted_sums(
        self, graph: GraphIndex, queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """``sum_j <queries_i, keys_j> values_j`` over the graph of i: (nodes, heads, V)."""
        # one moment for each graph: geometry has no part in it
        factors = values.new_ones(values.shape[0], 1)
        moments = self.readout(graph, factors, keys, values)
        scale = values.new_ones(self.heads, 1, 1)
        sums = self.readout.read_back(graph, factors.unsqueeze(1), scale, queries, moments)
        return sums.squeeze(2)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, dim_head={self.dim_head}"
