"""equiformer-pytorch as a network of the N-body task: ``--import`` this file, then name it.

    python -m train.train_nbody --import benchmarks/rivals/public_nbody.py \\
        --model public_equiformer_nbody --waypoint-weight 0

    x <- x + horizon (v + dx),      v <- v + dv

with dx and dv from two channels of degree 1, as one update of our networks. Bodies are a complete
graph: degree 0 reads charge and |v|^2, degree 1 the velocity, edges q_i q_j. The public program
takes dense arrays, so all systems of a batch have the same number of bodies.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
from torch import Tensor

from benchmarks.installed_equiformer import public_equiformer
from farfield.models.batch import AtomBatch
from farfield.models.choices import check_at_least, check_positive
from farfield.models.network import NBODY, NETWORKS, Network, Output
from farfield.models.networks.nbody_transformer import coupling_of
from farfield.models.option_fields import MAIN


@dataclasses.dataclass(frozen=True)
class PublicNBodyOptions:
    """Options of :class:`PublicEquiformerNBody`; the names of the public program."""

    dim: Annotated[int, "channels of each degree", MAIN] = 16
    num_degrees: Annotated[int, "degrees of the features", MAIN] = 2
    depth: Annotated[int, "layers of attention and feed-forward network", MAIN] = 2
    heads: Annotated[int, "attention heads", MAIN] = 4
    dim_head: Annotated[int, "width of a head", MAIN] = 8
    horizon: Annotated[float, "time from start to target"] = 1.0

    def __post_init__(self):
        check_at_least(self, 1, ["dim", "depth", "heads", "dim_head"])
        check_at_least(self, 2, ["num_degrees"])
        check_positive(self, ["horizon"])


@NETWORKS.register("public_equiformer_nbody")
class PublicEquiformerNBody(Network):
    """Displacement and velocity change of every body, (nodes, 3) each.

    Raises ValueError for systems of different sizes.
    """

    Options = PublicNBodyOptions
    predicts = NBODY

    def __init__(self, options: PublicNBodyOptions):
        super().__init__()
        self.options = options
        self.network = public_equiformer(
            dim=options.dim,
            dim_in=(2, 1),
            input_degrees=2,
            num_degrees=options.num_degrees,
            depth=options.depth,
            heads=options.heads,
            dim_head=options.dim_head,
            edge_dim=1,
        )

        # (..., 3, dim) -> (..., 3, 2): displacement and velocity change
        self.vectors = torch.nn.Linear(options.dim, 2, bias=False)
        with torch.no_grad():
            self.vectors.weight *= 0.1

    def outputs(self) -> dict[str, Output]:
        return {
            "displacement": Output("node", "vector"),
            "velocity_change": Output("node", "vector"),
        }

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        """State changes of all bodies of a batch."""
        graph, velocity = batch.graph, batch.node_features["velocities"]
        charges = batch.node_features["charges"].to(velocity.dtype)
        bodies = graph.nodes_per_graph
        each = int(bodies[0])
        if not bool((bodies == each).all()):
            raise ValueError("equiformer-pytorch takes systems with the same number of bodies")

        # (graphs, receiver, sender, 1)
        edges = velocity.new_zeros(batch.num_graphs, each, each, 1)
        edges[graph.dst // each, graph.dst % each, graph.src % each] = coupling_of(batch, charges)
        scalars = torch.stack([charges, velocity.square().sum(-1)], -1)
        feats = {
            0: scalars.view(-1, each, 2, 1),
            1: velocity.view(-1, each, 1, 3),
        }
        found = self.network(feats, batch.positions.view(-1, each, 3), edges=edges)

        moved, pushed = self.vectors(found.type1.mT).flatten(0, 1).unbind(-1)
        return {
            "displacement": self.options.horizon * (velocity + moved),
            "velocity_change": pushed,
        }
