"""Blocks whose atoms hear clusters of atoms beyond the cutoff of the near field.

    x_i += attention over clusters c(norm(x_i), norm'(f_c)),    x_i += feed_forward(norm(x_i))

with the features f_c, made again from x in every block, and the pairs of ``near_field/
atom_clusters.py``. The attention is the near field's (``near_field/e2former_attention.py``), with
its options, on a topology of its own: clusters send, atoms receive. Pairs have radial functions and
a trunk of their own; a pair reads the elements of the atom and of the seed of the cluster.

Cost: linear in the pairs of an atom and a cluster inside the cutoff.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.layers.edge_embedding import EdgeScalars
from farfield.models.layers.feed_forward import keep_variance
from farfield.models.layers.norms import EquivariantNorm
from farfield.models.layers.radial import RADIAL_BASES, RadialTrunk
from farfield.models.near_field.atom_clusters import AtomClusters, make_clusters
from farfield.models.near_field.e2former_attention import NearFieldAttention
from farfield.models.near_field.edge_geometry import NearFieldGeometry
from farfield.models.networks.blocks import BlockOptions, ResidualBlock
from farfield.models.networks.e2former_options import BackboneOptions
from farfield.models.own_draws import own_draws


class ClusterLayer(nn.Module):
    """Attention of atoms to clusters: ``forward(x, clusters)`` -> the shape of x."""

    def __init__(self, options: BlockOptions):
        super().__init__()
        shape = (options.norm, options.lmax, options.channels, options.norm_epsilon)
        self.norm = EquivariantNorm(*shape)
        self.attention = NearFieldAttention(options.near)

    def forward(self, x: Tensor, clusters: AtomClusters) -> Tensor:
        """(nodes, rows, channels) -> (nodes, rows, channels)."""
        both = torch.cat([x, self.norm(clusters.features(x))])
        return self.attention(both, clusters.geometry)[: x.shape[0]]


class ClusterBlocks(nn.Module):
    """All blocks that hear clusters: ``forward(x, near, batch)`` -> the shape of x."""

    def __init__(self, options: BackboneOptions):
        super().__init__()
        self.options = options
        self.elements = EdgeScalars(options.element_size)
        reach = options.cluster.cutoff
        basis = RADIAL_BASES[options.radial_basis](reach, options.radial_size)
        self.trunk = RadialTrunk(basis, self.elements.features, options.radial_hidden)
        keep_variance(self.trunk)
        self.blocks = nn.ModuleList(
            ResidualBlock(ClusterLayer, options.cluster_block())
            for _ in range(options.cluster.layers)
        )

    def forward(self, x: Tensor, near: NearFieldGeometry, batch: AtomBatch) -> Tensor:
        """Features (nodes, rows, channels), edges of the near field, and the batch they are of."""
        clusters = make_clusters(
            near,
            batch,
            radius=self.options.cluster_radius,
            cutoff=self.options.cluster.cutoff,
            invariants=lambda pairs, length: self.trunk(length, self.elements(pairs)),
        )
        for block in self.blocks:
            x = block(x, clusters)
        return x


def cluster_blocks(options: BackboneOptions) -> ClusterBlocks | None:
    """The blocks of the options, None where they ask for none; they change the first weights of
    nothing else.
    """
    if not options.with_cluster:
        return None
    with own_draws():
        return ClusterBlocks(options)
