"""A network of one file that denoises backbones: every edge pulls its ends together or apart.

d_i = sum_j u(x_ij) MLP(tokens of i and j, bonds between them, lengths) (x_i - x_j),
x = (r / cutoff)^2,   u = (1 - x)^2 below the cutoff
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.edges import edge_vectors
from farfield.models.graph_ops import gather_dst, gather_src, sum_edges
from farfield.models.network import DENOISING, NETWORKS, Network, Output

TOKENS, MAX_HOPS, RADII = 84, 64, 16


@dataclasses.dataclass(frozen=True)
class ToyDenoiserOptions:
    """Options of :class:`ToyDenoiser`."""

    width: Annotated[int, "hidden width"] = 16
    cutoff: Annotated[float, "reach of the edges, Angstrom"] = 5.0


@NETWORKS.register("toy_denoiser")
class ToyDenoiser(Network):
    """Displacements as sums of edge vectors."""

    Options = ToyDenoiserOptions
    predicts = DENOISING

    def __init__(self, options: ToyDenoiserOptions):
        super().__init__()
        self.options = options
        width = options.width
        self.tokens = nn.Embedding(TOKENS, width)
        self.hops = nn.Embedding(MAX_HOPS + 1, width)
        self.register_buffer("radii", torch.linspace(0, options.cutoff, RADII))
        self.factor = nn.Sequential(
            nn.Linear(3 * width + RADII, 2 * width), nn.SiLU(), nn.Linear(2 * width, 1)
        )
        nn.init.zeros_(self.factor[-1].weight)

    def outputs(self) -> dict[str, Output]:
        return {"displacement": Output("node", "vector", "A")}

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        graph = batch.graph
        vectors = edge_vectors(batch.positions, graph)
        square = vectors.square().sum(-1, keepdim=True)  # (edges, 1)
        length = (square + 1e-6).sqrt()

        tokens = self.tokens(batch.node_features["tokens"])
        known = [gather_src(graph, tokens), gather_dst(graph, tokens)]
        known.append(self.hops(batch.edge_features["hops"]))
        known.append(torch.exp(-(((length - self.radii) / 0.3) ** 2)))
        envelope = (1 - square / self.options.cutoff**2).clamp_min(0).square()
        pulls = self.factor(torch.cat(known, -1)) * envelope * vectors
        return {"displacement": sum_edges(graph, pulls)}
