"""SE(3)-Transformer for interacting particles: how their state changes over a horizon.

One update is a stack of SE(3)-Transformer layers that reads the present state and adds to it,

    x <- x + tau v + dx(x, v, q),      v <- v + dv(x, v, q),      tau = horizon / updates,

so that with ``updates = 1`` this is the network of the publication around the linear extrapolation,
and with more it is its iterative form (Fuchs et al. 2021, arXiv:2102.13419): every update sees the
geometry it has moved the particles to, hence new edge vectors and harmonics. Intermediate states
are returned as ``waypoints`` and may be supervised. Edges carry the invariants q_i q_j, u . dv,
|dv|^2 (u the unit edge vector, dv the relative velocity) and the vector dv. All quantities are
dimensionless, as in the public N-body data.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Annotated

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.choices import check_at_least, check_positive
from farfield.models.edges import edge_vectors
from farfield.models.graph_ops import GraphIndex
from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.models.network import NBODY, NETWORKS, Network, Output
from farfield.models.networks.se3_transformer import NodeEmbedding, SE3Layers, SE3Options
from farfield.models.option_fields import MAIN


@dataclasses.dataclass(frozen=True)
class NBodyOptions(SE3Options):
    """Options of :class:`SE3TransformerNBody`; the defaults are the network of the results."""

    layers: int = 1
    channels: int = 16
    lmax: int = 2
    heads: int = 4
    value_divisor: int = 1
    envelope: str = "none"
    cutoff: float = 10.0
    radial_basis: str = "log_gaussian"
    radial_size: int = 16
    norm: str = "bias"
    horizon: Annotated[float, "time from start to target"] = 1.0
    updates: Annotated[int, "number of updates of positions and velocities", MAIN] = 5
    share_updates: Annotated[bool, "use the same weights in every update"] = False
    edge_motion: Annotated[bool, "let edges carry the relative velocity"] = True

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 1, ["updates"])
        check_positive(self, ["horizon"])


class ParticleNetwork(Network):
    """Displacement and velocity change of every particle, and the states on the way.

    ``displacement`` and ``velocity_change`` are (nodes, 3), ``waypoints`` (nodes, updates, 6).

    Reads ``batch.graph``, ``batch.positions`` (nodes, 3), ``batch.node_features["velocities"]``
    (nodes, 3) and ``["charges"]`` (nodes,), and ``batch.edge_features["springs"]`` (edges, 1) in
    place of q_i q_j where bodies hang on springs. Subclasses give :meth:`update`; their options
    have ``horizon`` and ``updates``.
    """

    predicts = NBODY

    def outputs(self) -> dict[str, Output]:
        return {
            "displacement": Output("node", "vector"),
            "velocity_change": Output("node", "vector"),
            "waypoints": Output("node", "vectors"),
        }

    @abc.abstractmethod
    def update(
        self,
        step: int,
        hidden: Tensor | None,
        batch: AtomBatch,
        position: Tensor,
        velocity: Tensor,
        coupling: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One update from the present state: new hidden features, and two vectors (nodes, 3).

        The vectors are what the mean velocity has beyond the present one, and the velocity change.
        hidden: of the update before, None in the first. position, velocity (nodes, 3). coupling
        (edges, 1): :func:`coupling_of`.
        """

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        """State changes of all particles of a batch."""
        start, speed = batch.positions, batch.node_features["velocities"]
        coupling = coupling_of(batch)

        # the change is kept apart from the state, so that small changes stay exact
        shift, change = torch.zeros_like(start), torch.zeros_like(speed)
        tau = self.options.horizon / self.options.updates
        hidden, waypoints = None, []
        for step in range(self.options.updates):
            velocity = speed + change
            hidden, moved, pushed = self.update(
                step, hidden, batch, start + shift, velocity, coupling
            )
            shift = shift + tau * (velocity + moved)
            change = change + pushed
            waypoints.append(torch.cat([shift, change], -1))

        path = torch.stack(waypoints, 1)  # (nodes, updates, 6)
        return {
            "displacement": path[:, -1, :3],
            "velocity_change": path[:, -1, 3:],
            "waypoints": path,
        }


@NETWORKS.register("se3_transformer_nbody")
class SE3TransformerNBody(ParticleNetwork):
    """SE(3)-Transformer layers in every update.

    Reads ``batch.edge_basis`` for the first update as well, if it is there and the positions ask
    for no gradient.
    """

    Options = NBodyOptions
    parts = {"embedding": ("embed",), "layers": ("updates",)}

    def __init__(self, options: NBodyOptions):
        super().__init__()
        motion = options.edge_motion
        options = dataclasses.replace(
            options, edge_scalars=1 + 2 * motion, edge_vectors=int(motion)
        )
        self.options = options
        self.embed = NodeEmbedding(options.lmax, options.channels, 2, 1, options.pseudo_channels)
        distinct = 1 if options.share_updates else options.updates
        self.updates = nn.ModuleList(StateUpdate(options) for _ in range(distinct))

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
        # a cached basis serves the first update only: then particles have moved
        graph = batch.graph
        basis = batch.edge_basis
        if step or basis is None or position.requires_grad:
            basis = EdgeBasis.from_vectors(edge_vectors(position, graph), self.options.lmax)

        scalars, vectors = self._edge_features(graph, basis, position, velocity, coupling)
        charges = batch.node_features["charges"].to(position.dtype)
        inputs = torch.stack([charges, velocity.square().sum(-1)], -1)  # (nodes, 2)
        fresh = self.embed(inputs, velocity.unsqueeze(1))
        hidden = fresh if hidden is None else hidden + fresh
        layers = self.updates[0 if self.options.share_updates else step]
        return layers(hidden, graph, basis, scalars, vectors)

    def _edge_features(
        self, graph, basis, position, velocity, coupling
    ) -> tuple[Tensor, Tensor | None]:
        """Invariants (edges, 1 or 3) and vectors (edges, 1, 3) or None."""
        if not self.options.edge_motion:
            return coupling, None
        vectors = edge_vectors(position, graph)
        relative, motion = motion_along_edges(graph, vectors, basis.length, velocity)
        return torch.cat([coupling, motion], -1), relative.unsqueeze(1)


def coupling_of(batch: AtomBatch) -> Tensor:
    """What acts along an edge (edges, 1): the stiffness of its spring, or q_i q_j."""
    springs = batch.edge_features.get("springs")
    if springs is not None:
        return springs
    charges = batch.node_features["charges"].to(batch.positions.dtype)
    source = charges.index_select(0, batch.graph.src)
    target = charges.index_select(0, batch.graph.dst)
    return (source * target).unsqueeze(-1)


def motion_along_edges(
    graph: GraphIndex, vectors: Tensor, length: Tensor, velocity: Tensor
) -> tuple[Tensor, Tensor]:
    """Relative velocity of the ends of every edge (edges, 3), and its invariants (edges, 2).

    vectors (edges, 3) and length (edges,) of the edges, velocity (nodes, 3). Invariants: the
    component along the edge, and the square.
    """
    relative = velocity.index_select(0, graph.dst) - velocity.index_select(0, graph.src)
    direction = vectors / length.clamp_min(1e-3).unsqueeze(-1)
    closing = (direction * relative).sum(-1, keepdim=True)
    speed = relative.square().sum(-1, keepdim=True)
    return relative, torch.cat([closing, speed], -1)


class StateUpdate(nn.Module):
    """One update: attention layers, then a linear map to two vectors per particle.

    The vectors are what the mean velocity has beyond the present one, and the velocity change.
    """

    def __init__(self, options: NBodyOptions):
        super().__init__()
        self.layers = SE3Layers(options)
        channels = options.channels - options.pseudo_channels
        self.channels = channels
        self.vectors = nn.Linear(channels, 2, bias=False)
        nn.init.normal_(self.vectors.weight, std=0.1 / channels**0.5)

    def forward(
        self, hidden: Tensor, graph, basis: EdgeBasis, scalars: Tensor, vectors: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """New hidden features (nodes, rows, channels) and the two vectors (nodes, 3)."""
        geometry = self.layers.geometry(graph, basis, scalars, vectors)
        hidden = self.layers(hidden, geometry)
        out = self.vectors(hidden[:, 1:4, : self.channels])
        return hidden, out[..., 0], out[..., 1]
