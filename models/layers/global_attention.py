"""Attention of every node to all nodes of its graph, at linear cost, on invariants.

    o_i = gate_i sum_j w_ij v_j / sum_j w_ij,    w_ij = 1 + s_ij + s_ij^2 / 2,
    s_ij = <q_i, k_j> / sqrt(d)

for each head, j over all nodes of the graph, i among them; gate_i is a sigmoid of a linear map, or
1. The weight is the Taylor series of exp(s_ij) to second order (Keles et al. 2022, "On the
computational complexity of self-attention"; Buckman et al. 2024, "Symmetric power transformers").
It is ((1 + s)^2 + 1) / 2 >= 1/2, so all weights are positive, and it is a scalar product:

    w_ij = <c phi(q_i / sqrt(d)), phi(k_j)>,    phi(x) = (1, x_a, x_a x_b for a <= b)

with c = 1/2 for the squares x_a^2, 1 for all else. Therefore the sums over j are moments ``sum_j c
phi(k_j) (v_j, 1)`` of the graph, made once and read by all of its nodes. Other graphs of the batch
change nothing. The function, and the names of its weights but for an index, are those of
``TaylorSeriesLinearAttn`` of the package taylor-series-linear-attention 0.2.0 without its last
linear map.

A graph is cut into blocks of 32 nodes, the last one filled up with zeros, so that the moments of
all blocks are one batched matrix product, however unequal the graphs; those of a graph are summed
in float64 by the node readout. This takes a third of the time of products and sums node by node.

Not extensive. The weights do not fall off with distance, so the output of a node depends on every
atom of the structure however far away, and two copies of a molecule far apart are not twice the
molecule. The far field (``far_field/``) is the attention over all atoms that knows where they are.

Cost: nodes x heads x (d + 1)^2 (d + 2) / 2 multiply-adds for each of the two maps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.graph_ops import GraphIndex, broadcast_nodes, sum_nodes

NODES_PER_BLOCK = 32


class _NodeBlocks:
    """The nodes of every graph in blocks of one size, the last block of a graph filled up."""

    def __init__(self, graph: GraphIndex):
        none = graph.src.new_zeros(0)
        counts = (graph.nodes_per_graph + NODES_PER_BLOCK - 1) // NODES_PER_BLOCK
        # blocks take the part of nodes here
        self.graph = GraphIndex(none, none, counts)

        first_slot = NODES_PER_BLOCK * self.graph.node_offsets[:-1] - graph.node_offsets[:-1]
        node = torch.arange(graph.num_nodes, device=none.device)
        self.slot = node + broadcast_nodes(graph, first_slot)

    def fill(self, nodes: Tensor) -> Tensor:
        """(nodes, ...) -> (blocks, NODES_PER_BLOCK, ...), zero where there is no node."""
        slots = nodes.new_zeros(self.graph.num_nodes * NODES_PER_BLOCK, *nodes.shape[1:])
        return slots.index_copy(0, self.slot, nodes).unflatten(0, (-1, NODES_PER_BLOCK))

    def take_out(self, blocks: Tensor) -> Tensor:
        """(blocks, NODES_PER_BLOCK, ...) -> (nodes, ...)."""
        return blocks.flatten(0, 1).index_select(0, self.slot)


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

        # pairs a <= b of components: a product of two different ones occurs twice in a square
        first, second = torch.triu_indices(dim_head, dim_head)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        weight = torch.cat([torch.ones(1 + dim_head), torch.where(first == second, 0.5, 1.0)])
        self.register_buffer("weight", weight.view(-1, 1), persistent=False)

    def forward(self, graph: GraphIndex, scalars: Tensor) -> Tensor:
        """(nodes, channels) -> (nodes, heads * dim_head)."""
        blocks, shape = _NodeBlocks(graph), (self.heads, self.dim_head)
        queries = self.to_q(scalars).unflatten(1, shape) * self.dim_head**-0.5
        keys, values = self.to_kv(scalars).unflatten(1, (2, *shape)).unbind(1)

        # a value of one sums to the denominator; it is zero where a block is filled up
        one = torch.ones_like(values[..., :1])
        together = blocks.fill(torch.cat([queries, keys, values, one], -1))
        sizes = (self.dim_head, self.dim_head, self.dim_head + 1)
        # each (blocks, heads, components, nodes of the block), so that products run along nodes
        queries, keys, values = together.permute(0, 2, 3, 1).contiguous().split(sizes, 2)

        # moments (blocks, heads, features, values), first of each block, then of its graph
        moments = self.weight * (self._features(keys) @ values.transpose(2, 3))
        moments = broadcast_nodes(blocks.graph, sum_nodes(blocks.graph, moments))
        read = self._features(queries).transpose(2, 3) @ moments
        sums = blocks.take_out(read.transpose(1, 2))  # (nodes, heads, values)

        out = sums[..., :-1] / sums[..., -1:]
        if self.to_v_gates is not None:
            out = out * torch.sigmoid(self.to_v_gates(scalars)).unsqueeze(-1)
        return out.flatten(1)

    def _features(self, x: Tensor) -> Tensor:
        """phi: (blocks, heads, dim_head, n) -> (blocks, heads, 1 + dim_head + pairs, n)."""
        products = x.index_select(2, self.first) * x.index_select(2, self.second)
        return torch.cat([torch.ones_like(x[:, :, :1]), x, products], 2)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, dim_head={self.dim_head}"
