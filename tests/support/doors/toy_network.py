"""A network of one file: an energy for every pair of neighbours, learned from its length.

e_i = sum_j u(x_ij) MLP(x_ij, a_i a_j),    x = (r / cutoff)^2,    u = (1 - x)^3
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
from farfield.models.option_fields import MAIN
from farfield.models.potential import PotentialOptions


@dataclasses.dataclass(frozen=True)
class PairOptions(PotentialOptions):
    """Options of :class:`PairNetwork`."""

    width: Annotated[int, "hidden width", MAIN] = 8
    cutoff: Annotated[float, "reach of the edges, Angstrom"] = 4.0


@NETWORKS.register("pairs")
class PairNetwork(EnergyNetwork):
    """Energies of pairs."""

    Options = PairOptions
    presets = {"small": {}, "wide": {"width": 32}}

    def __init__(self, options: PairOptions):
        super().__init__()
        self.options = options
        self.elements = nn.Embedding(MAX_ATOMIC_NUMBER + 1, options.width)
        self.pair = nn.Sequential(
            nn.Linear(options.width + 1, options.width), nn.SiLU(), nn.Linear(options.width, 1)
        )

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        graph = batch.graph
        images = image_vectors(graph, batch.cell, batch.image_shift)
        vectors = edge_vectors(batch.positions, graph, images)
        x = vectors.square().sum(-1, keepdim=True) / self.options.cutoff**2  # (edges, 1)

        elements = self.elements(batch.atomic_numbers)
        both = gather_src(graph, elements) * gather_dst(graph, elements)  # (edges, width)
        energies = self.pair(torch.cat([both, x], -1)) * (1 - x).clamp_min(0) ** 3
        return {"atomic_energy": sum_edges(graph, energies).squeeze(-1)}
