"""Clouds of atoms and the edge geometry of the near field, for its laws."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from farfield.models.graph_ops import GraphIndex
from farfield.models.layers.radial import BesselBasis, RadialTrunk, polynomial_envelope
from farfield.models.near_field.edge_geometry import NearFieldGeometry
from tests.support.law_cases import cutoff_graph


def cloud(nodes: int, seed: int = 0, side: float = 0.0) -> Tensor:
    """Positions (nodes, 3) in float64, no two closer than 1 Angstrom.

    About 0.08 atoms a cubic Angstrom unless ``side`` is given.
    """
    generator = torch.Generator().manual_seed(seed)
    side = side or (nodes / 0.08) ** (1 / 3)
    points: list[Tensor] = []
    while len(points) < nodes:
        point = side * torch.rand(3, generator=generator, dtype=torch.float64)
        if all((point - other).norm() > 1 for other in points):
            points.append(point)
    return torch.stack(points) - side / 2


def near_graph(positions: Tensor, sizes: list[int], cutoff: float) -> GraphIndex:
    """Pairs closer than the cutoff within each graph, sorted by (dst, src)."""
    return cutoff_graph(positions, torch.tensor(sizes), cutoff)


@dataclasses.dataclass
class Surveyor:
    """Makes the geometry of positions with a trunk of its own, as a network does."""

    cutoff: float = 4.0
    hidden: int = 16
    seed: int = 0

    def __post_init__(self):
        torch.manual_seed(self.seed)
        self.trunk = RadialTrunk(BesselBasis(self.cutoff), 0, self.hidden)

    def __call__(
        self, positions: Tensor, graph: GraphIndex, images: Tensor | None = None
    ) -> NearFieldGeometry:
        trunk: nn.Module = self.trunk.to(positions.dtype)
        return NearFieldGeometry.from_positions(
            graph,
            positions,
            envelope=lambda length: polynomial_envelope(length / self.cutoff),
            invariants=lambda length: trunk(length, None),
            images=images,
        )
