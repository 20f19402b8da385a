"""The layers of an Equiformer on ragged graphs: from features of nodes to features of nodes.

    x <- pool_j message_ij + Lin x        embedding by one convolution
    x <- x + attention(x)                 (near_field/equiformer_attention.py)
    x <- x + feed_forward(x)              (layers/fiber_layers.py), both ``depth`` times
    x <- norm(x)

pool is the mean over neighbours. With an envelope u it is the smooth
``sum_j u_ij m_ij / (1 + sum_j u_ij)``, so that a neighbour which crosses the cutoff changes nothing
abruptly. With ``reversible`` the two branches run on two streams, and activations are computed
again from the output (``layers/reversible.py``).

Source: Liao & Smidt 2023 (arXiv:2206.11990) in the form of the public package equiformer-pytorch.
Cost: linear in edges.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.edges import safe_length
from farfield.models.graph_ops import GraphIndex, sum_edges
from farfield.models.kernels.edge_slots import EdgeSlots
from farfield.models.layers.fiber_layers import FiberFeedForward, FiberLinear, FiberNorm
from farfield.models.layers.radial import RADIAL_BASES, RadialTrunk
from farfield.models.layers.reversible import PlainLayers, ReversibleLayers
from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.models.near_field.equiformer_attention import EquiformerAttention
from farfield.models.near_field.fiber_convolution import (
    EDGE_KERNELS,
    PointGeometry,
    RadialSizes,
)
from farfield.models.networks.blocks import DropPath
from farfield.models.networks.equiformer_options import EquiformerLayerOptions
from farfield.models.so3.fibers import Fiber, join_fiber


class AttentionBranch(nn.Module):
    """Attention of one layer, which a structure may skip while training."""

    def __init__(self, options: EquiformerLayerOptions, radial: RadialSizes):
        super().__init__()
        self.attention = EquiformerAttention(options.logits, options.attention(radial))
        self.drop_path = DropPath(options.drop_path)

    def forward(self, x: Tensor, geometry: PointGeometry) -> Tensor:
        return self.drop_path(geometry.graph, self.attention(x, geometry))


class FeedForwardBranch(nn.Module):
    """Feed-forward network of one layer, which a structure may skip while training."""

    def __init__(self, options: EquiformerLayerOptions):
        super().__init__()
        self.network = FiberFeedForward(
            options.fiber,
            include_norms=options.ff_include_htype_norms,
            zero=options.init_out_zero,
            epsilon=options.norm_epsilon,
        )
        self.drop_path = DropPath(options.drop_path)

    def forward(self, x: Tensor, geometry: PointGeometry) -> Tensor:
        return self.drop_path(geometry.graph, self.network(x))


class EquiformerLayers(nn.Module):
    """Features (nodes, width of fiber_in) -> features (nodes, width of ``options.fiber``).

    edge_scalars: number of invariant edge features. radial_scale: length to which the radial basis
    is scaled. ``geometry(...)`` prepares what all layers share.
    """

    def __init__(
        self,
        options: EquiformerLayerOptions,
        fiber_in: Fiber,
        edge_scalars: int,
        radial_scale: float,
    ):
        super().__init__()
        self.options, self.degree = options, options.num_degrees - 1
        basis = RADIAL_BASES[options.radial_basis](radial_scale, options.radial_size)
        radial = RadialSizes(basis.size + edge_scalars, options.radial_hidden_dim)
        self.trunk = None
        if options.edge_kernel == "factorised":
            self.trunk = RadialTrunk(basis, edge_scalars, options.radial_hidden_dim)
        self.basis = basis

        self.embed = EDGE_KERNELS[options.edge_kernel](
            fiber_in, options.fiber, options.handed, radial
        )
        self.embed_own = FiberLinear(fiber_in, options.fiber)
        stack = ReversibleLayers if options.reversible else PlainLayers
        self.layers = stack(
            [
                (AttentionBranch(options, radial), FeedForwardBranch(options))
                for _ in range(options.depth)
            ]
        )
        self.norm = FiberNorm(options.fiber, options.norm_epsilon)

    def geometry(
        self,
        graph: GraphIndex,
        vectors: Tensor,
        envelope: Tensor,
        edge_scalars: Tensor | None,
        positions: Tensor,
        cell: Tensor | None = None,
        periodic: Tensor | None = None,
    ) -> PointGeometry:
        """What all layers share about the edges.

        vectors (edges, 3), x_dst - x_src. envelope (edges,). edge_scalars (edges, k) or None.
        positions, cell, periodic: of the batch, for a far field.
        """
        length = safe_length(vectors)
        invariants = self.basis(length)
        if edge_scalars is not None:
            invariants = torch.cat([invariants, edge_scalars], -1)
        return PointGeometry(
            graph=graph,
            slots=EdgeSlots(graph.src, graph.dst, graph.num_nodes, graph.num_nodes),
            frames=EdgeBasis.from_vectors(vectors, self.degree).matrices() if self.degree else (),
            envelope=envelope.view(-1, 1),
            invariants=invariants,
            hidden=None if self.trunk is None else self.trunk.dense(invariants),
            positions=positions,
            cell=cell,
            periodic=periodic,
        )

    def forward(self, x: Tensor, geometry: PointGeometry) -> Tensor:
        x = self._pooled(self.embed(x, geometry), geometry) + self.embed_own(x)
        return self.norm(self.layers(x, geometry))

    def _pooled(self, parts: list[Tensor], geometry: PointGeometry) -> Tensor:
        """Mean of the messages, a part (edges, 2l + 1, C_l) for each degree: (nodes, width)."""
        messages = join_fiber(parts)
        graph, envelope = geometry.graph, geometry.envelope
        total = sum_edges(graph, envelope)  # (nodes, 1)
        if self.options.envelope == "none":
            return sum_edges(graph, messages) / total.clamp_min(1.0)
        return sum_edges(graph, messages * envelope) / (1 + total)
