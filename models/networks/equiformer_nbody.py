"""Equiformer for interacting particles: how their state changes over a horizon.

    x <- x + tau (v + dx),      v <- v + dv,      tau = horizon / updates,

as in ``nbody_transformer.py``, with the layers of the Equiformer in every update. Edges carry q_i
q_j, u . dv and |dv|^2 (u the unit edge vector, dv the relative velocity). All quantities are
dimensionless, as in the public N-body data. Cost: linear in edges.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.choices import check_at_least, check_positive
from farfield.models.edges import edge_vectors, safe_length
from farfield.models.graph_ops import GraphIndex
from farfield.models.layers.fiber_layers import FiberLinear
from farfield.models.layers.radial import ENVELOPES
from farfield.models.network import NETWORKS
from farfield.models.networks.equiformer_layers import EquiformerLayers
from farfield.models.networks.equiformer_networks import EquiformerRemarks
from farfield.models.networks.equiformer_options import EquiformerLayerOptions
from farfield.models.networks.nbody_transformer import ParticleNetwork, motion_along_edges
from farfield.models.option_fields import MAIN
from farfield.models.so3.fibers import split_fiber


@dataclasses.dataclass(frozen=True)
class EquiformerNBodyOptions(EquiformerLayerOptions):
    """Options of :class:`EquiformerNBody`; with envelope "none" no edge ends at the cutoff."""

    dim: str = "16,8"
    depth: int = 1
    heads: str = "4"
    dim_head: str = "4"
    radial_basis: str = "log_gaussian"
    envelope: str = "none"
    cutoff: Annotated[
        float, "scale of the radial basis and cutoff, in the unit of the positions"
    ] = 10.0
    horizon: Annotated[float, "time from start to target"] = 1.0
    updates: Annotated[int, "number of updates of positions and velocities", MAIN] = 5

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 1, ["updates"])
        check_positive(self, ["cutoff", "horizon"])
        if self.num_degrees < 2:
            raise ValueError("velocities are vectors: set num_degrees to 2 or more")

    def remarks(self) -> list[str]:
        """Complete graphs have no edge that could appear: "none" is smooth there."""
        return [line for line in super().remarks() if not line.startswith("envelope none")]


class EquiformerUpdate(nn.Module):
    """One update: what comes in joins the features, layers, then two vectors of a particle."""

    def __init__(self, options: EquiformerNBodyOptions):
        super().__init__()
        self.options = options
        self.embed = FiberLinear((2, 1), options.fiber)
        self.layers = EquiformerLayers(options, options.fiber, 3, options.cutoff)
        self.vectors = FiberLinear(options.fiber, (1, 2))
        with torch.no_grad():
            self.vectors.weights[1] *= 0.1

    def forward(
        self,
        hidden: Tensor | None,
        inputs: Tensor,
        graph: GraphIndex,
        position: Tensor,
        scalars: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """New hidden features (nodes, width) and the two vectors (nodes, 3).

        inputs (nodes, 5): charge, squared speed, velocity. scalars (edges, 3).
        """
        vectors = edge_vectors(position, graph)
        envelope = ENVELOPES[self.options.envelope](safe_length(vectors) / self.options.cutoff)
        geometry = self.layers.geometry(graph, vectors, envelope, scalars, position)

        fresh = self.embed(inputs)
        hidden = self.layers(fresh if hidden is None else hidden + fresh, geometry)
        moved, pushed = split_fiber(self.vectors(hidden), (1, 2))[1].unbind(-1)
        return hidden, moved, pushed


@NETWORKS.register("equiformer_nbody")
class EquiformerNBody(EquiformerRemarks, ParticleNetwork):
    """Layers of an Equiformer in every update; no cached basis is read."""

    Options = EquiformerNBodyOptions
    parts = {"layers": ("updates",)}

    def __init__(self, options: EquiformerNBodyOptions):
        super().__init__()
        self.options = options
        self.updates = nn.ModuleList(EquiformerUpdate(options) for _ in range(options.updates))

    def update(
        self,
        step: int,
        hidden: Tensor | None,
        batch: AtomBatch,
        position: Tensor,
        velocity: Tensor,
        coupling: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`ParticleNetwork.update`."""
        vectors = edge_vectors(position, batch.graph)
        _, motion = motion_along_edges(batch.graph, vectors, safe_length(vectors), velocity)
        charges = batch.node_features["charges"].to(position.dtype)
        square = velocity.square().sum(-1, keepdim=True)
        inputs = torch.cat([charges.unsqueeze(1), square, velocity], -1)
        return self.updates[step](
            hidden, inputs, batch.graph, position, torch.cat([coupling, motion], -1)
        )
