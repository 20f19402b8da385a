"""A network of one file that takes any graph: no cutoff, every edge counts as far as it reaches.

e_i = sum_j w(a_i a_j) exp(-(r_ij / width)^2)
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.edges import edge_vectors, image_vectors
from farfield.models.elements import MAX_ATOMIC_NUMBER
from farfield.models.graph_ops import gather_dst, gather_src, sum_edges
from farfield.models.network import NETWORKS, EnergyNetwork
from farfield.models.potential import PotentialOptions


@dataclasses.dataclass(frozen=True)
class FreeOptions(PotentialOptions):
    """Options of :class:`FreeNetwork`."""

    width: Annotated[float, "width of a Gaussian, Angstrom"] = 3.0


@NETWORKS.register("free_pairs")
class FreeNetwork(EnergyNetwork):
    """Gaussians of pairs."""

    Options = FreeOptions

    def __init__(self, options: FreeOptions):
        super().__init__()
        self.options = options
        self.elements = nn.Embedding(MAX_ATOMIC_NUMBER + 1, 4)

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        graph = batch.graph
        images = image_vectors(graph, batch.cell, batch.image_shift)
        vectors = edge_vectors(batch.positions, graph, images)
        near = torch.exp(-vectors.square().sum(-1) / self.options.width**2)  # (edges,)

        weights = gather_src(graph, self.elements(batch.atomic_numbers))
        weights = weights * gather_dst(graph, self.elements(batch.atomic_numbers))
        return {"atomic_energy": sum_edges(graph, weights.sum(-1) * near)}
