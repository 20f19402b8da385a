"""Equiformer that finds the way back from noised to clean coordinates.

    tokens of atoms, bonds between atoms, noised coordinates -> layers -> displacement of every atom

clean = noised + displacement, read from degree 1 (the example of the public package: denoising of
protein backbones). Cost: linear in edges.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.choices import check_at_least
from farfield.models.layers.fiber_layers import FiberLinear
from farfield.models.network import DENOISING, NETWORKS, Network, Output
from farfield.models.networks.equiformer_layers import EquiformerLayers
from farfield.models.networks.equiformer_networks import (
    CutoffOptions,
    EquiformerRemarks,
    cutoff_geometry,
)


@dataclasses.dataclass(frozen=True)
class EquiformerDenoiserOptions(CutoffOptions):
    """Options of :class:`EquiformerDenoiser`."""

    dim: str = "32,16"
    num_degrees: int = 2
    cutoff: float = 4.0
    num_tokens: Annotated[int, "number of tokens of an atom"] = 84
    max_hops: Annotated[int, "bonds up to which atoms are told apart"] = 3
    hop_size: Annotated[int, "width of the embedding of the number of bonds"] = 8

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 1, ["num_tokens", "max_hops", "hop_size"])
        if self.num_degrees < 2:
            raise ValueError("displacements are vectors: set num_degrees to 2 or more")


@NETWORKS.register("equiformer_denoiser")
class EquiformerDenoiser(EquiformerRemarks, Network):
    """Displacement of every atom (nodes, 3), Angstrom, from noised to clean coordinates.

    Reads ``batch.graph``, ``positions``, ``node_features["tokens"]`` (nodes,) int64 and
    ``edge_features["hops"]`` (edges,) int64: the bonds between two atoms, 0 for more than
    ``max_hops``. Bonded edges do not fade out.
    """

    Options = EquiformerDenoiserOptions
    predicts = DENOISING
    parts = {
        "embedding": ("tokens", "hops", "layers.trunk", "layers.embed", "layers.embed_own"),
        "layers": ("layers.layers.pairs",),
        "heads": ("vectors",),
    }

    def __init__(self, options: EquiformerDenoiserOptions):
        super().__init__()
        self.options = options
        self.tokens = nn.Embedding(options.num_tokens, options.fiber[0])
        self.hops = nn.Embedding(options.max_hops + 1, options.hop_size)
        self.layers = EquiformerLayers(options, options.fiber[:1], options.hop_size, options.cutoff)
        self.vectors = FiberLinear(options.fiber, (1, 1))

    def outputs(self) -> dict[str, Output]:
        return {"displacement": Output("node", "vector", "Angstrom")}

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        """``displacement`` (nodes, 3)."""
        hops = batch.edge_features["hops"]
        geometry = cutoff_geometry(self.layers, batch, self.hops(hops), bonded=hops > 0)
        x = self.layers(self.tokens(batch.node_features["tokens"]), geometry)
        return {"displacement": self.vectors(x)[:, 1:]}
