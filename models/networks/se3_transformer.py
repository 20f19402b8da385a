"""SE(3)-Transformer (Fuchs et al. 2020, arXiv:2006.10503) on features (nodes, rows, channels).

    scalars, vectors -> embed -> [edge attention -> norm non-linearity] x layers -> scalars, vectors

All layers share the edge basis (lengths, rotations), one radial trunk and one envelope; a layer
adds one linear map of the trunk. What differs from the publication, each by choice: kernels of even
parity only (true O(3) equivariance; odd kernels act between true and pseudo channels), contraction
in the edge frame with factorised radial weights, a radial basis and, with a cutoff, an envelope on
every weight. Cost: linear in edges.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
from torch import Tensor, nn

from farfield.models.choices import check_at_least, check_choices, check_positive
from farfield.models.graph_ops import GraphIndex
from farfield.models.layers.nonlinearities import NONLINEARITIES
from farfield.models.layers.radial import (
    ENVELOPES,
    RADIAL_BASES,
    EnvelopeName,
    RadialBasisName,
    RadialHidden,
    RadialSize,
    RadialTrunk,
)
from farfield.models.layers.self_interaction import SELF_INTERACTIONS
from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.models.near_field.se3_attention import (
    AttentionShape,
    EdgeAttention,
    FrameGeometry,
)
from farfield.models.option_fields import DERIVED, MAIN, Alias
from farfield.models.so3.irreps import channel_parity, num_rows

MAX_COUPLED_DEGREE = 11


@dataclasses.dataclass(frozen=True)
class SE3Options:
    """Options of an SE(3)-Transformer; all have the field's names.

    cutoff is the radius (in the units of the positions) at which the envelope is zero and to which
    the radial basis is scaled; with ``envelope="none"`` (complete graphs) it is only the scale of
    the basis. edge_scalars: invariant edge features; edge_vectors: vector ones. norm: the
    non-linearity after each block, "layer" or "bias" (on norms) or "gate".
    """

    layers: Annotated[int, "attention layers", MAIN, Alias("num_layers")] = 4
    channels: Annotated[int, "channels of every degree", MAIN, Alias("num_channels")] = 8
    lmax: Annotated[int, "highest degree of features and kernels", MAIN] = 3
    heads: Annotated[int, "attention heads", MAIN, Alias("n_heads")] = 2
    value_divisor: Annotated[
        int, "channels of the features / channels of the values", Alias("div")
    ] = 2
    cutoff: Annotated[
        float,
        "cutoff of the edges and scale of the radial basis, in the unit of the positions",
        MAIN,
    ] = 5.0
    envelope: EnvelopeName = "polynomial"
    radial_basis: RadialBasisName = "bessel"
    radial_size: RadialSize = 8
    radial_hidden: RadialHidden = 32
    relative_position: Annotated[str | None, "how edge vectors enter values: add, cat or none"] = (
        "add"
    )
    self_interaction: Annotated[str, "map of a node's own features", SELF_INTERACTIONS] = "linear"
    skip: Annotated[str, "how messages join what came in: cat or sum"] = "cat"
    norm: Annotated[str, "non-linearity after each layer", NONLINEARITIES] = "layer"
    pseudo_channels: Annotated[int, "channels of the opposite parity"] = 0
    edge_scalars: Annotated[int, "invariant features of an edge", DERIVED] = 0
    edge_vectors: Annotated[int, "vector features of an edge", DERIVED] = 0

    def __post_init__(self):
        check_positive(self, ["cutoff"])
        check_at_least(
            self,
            1,
            [
                "layers",
                "channels",
                "lmax",
                "heads",
                "value_divisor",
                "radial_size",
                "radial_hidden",
            ],
        )
        check_choices(
            self, {"envelope": ENVELOPES, "radial_basis": RADIAL_BASES, "norm": NONLINEARITIES}
        )
        if self.lmax > MAX_COUPLED_DEGREE:
            raise ValueError(
                f"lmax must be <= {MAX_COUPLED_DEGREE}, the largest degree with coupling tables, "
                f"got {self.lmax}"
            )
        # refuses as many pseudo channels as channels
        channel_parity(self.channels, self.pseudo_channels)

    def attention(self, channels_in: int, channels_out: int, **changes) -> AttentionShape:
        """Sizes of one attention layer of this network."""
        shape = AttentionShape(
            lmax=self.lmax,
            channels_in=channels_in,
            channels_out=channels_out,
            heads=self.heads,
            value_divisor=self.value_divisor,
            radial_hidden=self.radial_hidden,
            edge_vectors=self.edge_vectors,
            relative_position=self.relative_position,
            pseudo=self.pseudo_channels,
        )
        return dataclasses.replace(shape, **changes)


# parts of a network with these layers and elements of atoms, for ``Network.parts``
LAYER_PARTS: dict[str, tuple[str, ...]] = {
    "embedding": ("elements", "edge_elements", "layers.trunk", "surroundings", "condition"),
    "layers": ("layers.blocks", "layers.norms"),
}


class SE3Layers(nn.Module):
    """Attention blocks on hidden features (nodes, rows, channels) that share a radial trunk.

    ``forward(x, geometry) -> x``; ``geometry(graph, basis, edge_scalars, edge_vectors)`` prepares
    what the layers share.
    """

    def __init__(self, options: SE3Options):
        super().__init__()
        self.options = options
        basis = RADIAL_BASES[options.radial_basis](options.cutoff, options.radial_size)
        self.trunk = RadialTrunk(basis, options.edge_scalars, options.radial_hidden)

        # a layer is an attention and the non-linearity that follows it
        shape = options.attention(options.channels, options.channels)
        self.blocks = nn.ModuleList(
            EdgeAttention(shape, self_interaction=options.self_interaction, skip=options.skip)
            for _ in range(options.layers)
        )
        nonlinearity = NONLINEARITIES[options.norm]
        self.norms = nn.ModuleList(
            nonlinearity(options.lmax, options.channels, options.pseudo_channels)
            for _ in range(options.layers)
        )

    def geometry(
        self,
        graph: GraphIndex,
        basis: EdgeBasis,
        edge_scalars: Tensor | None = None,
        edge_vectors: Tensor | None = None,
    ) -> FrameGeometry:
        """Rotations, envelope and trunk features of the edges.

        edge_scalars (edges, k), edge_vectors (edges, k, 3).
        """
        basis = basis.up_to(self.options.lmax)
        fade = ENVELOPES[self.options.envelope]
        envelope = fade(basis.length / self.options.cutoff).unsqueeze(-1)  # (edges, 1)

        return FrameGeometry(
            graph,
            basis.rotation(),
            basis.length,
            envelope,
            self.trunk(basis.length, edge_scalars),
            edge_vectors,
        )

    def forward(self, x: Tensor, geometry: FrameGeometry) -> Tensor:
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = norm(block(x, geometry))
        return x


class SE3Transformer(nn.Module):
    """Scalars and vectors of nodes in, scalars and vectors of nodes out.

    In: scalars (nodes, scalars_in), vectors (nodes, vectors_in, 3), and of the edges scalars
    (edges, k) and vectors (edges, k, 3). Out: (nodes, scalars_out) and (nodes, vectors_out, 3).
    """

    def __init__(
        self,
        options: SE3Options,
        *,
        scalars_in: int,
        vectors_in: int,
        scalars_out: int,
        vectors_out: int,
    ):
        super().__init__()
        self.options = options
        self.embed = NodeEmbedding(
            options.lmax, options.channels, scalars_in, vectors_in, options.pseudo_channels
        )
        self.layers = SE3Layers(options)
        self.readout = NodeReadout(
            options.channels - options.pseudo_channels, scalars_out, vectors_out
        )

    def forward(
        self, graph, basis, scalars, vectors, edge_scalars=None, edge_vectors=None
    ) -> tuple[Tensor, Tensor]:
        geometry = self.layers.geometry(graph, basis, edge_scalars, edge_vectors)
        return self.readout(self.layers(self.embed(scalars, vectors), geometry))


class NodeEmbedding(nn.Module):
    """Linear map of scalars and vectors to features; higher degrees start at zero.

    (nodes, scalars_in) and (nodes, vectors_in, 3) -> (nodes, rows, channels).
    """

    def __init__(self, lmax: int, channels: int, scalars_in: int, vectors_in: int, pseudo: int = 0):
        super().__init__()
        self.lmax, self.pseudo = lmax, pseudo
        self.scalar = nn.Linear(scalars_in, channels - pseudo)
        self.vector = nn.Linear(vectors_in, channels - pseudo, bias=False) if vectors_in else None

    def forward(self, scalars: Tensor, vectors: Tensor | None) -> Tensor:
        rows = [self.scalar(scalars).unsqueeze(1)]
        if self.vector is not None:
            rows.append(self.vector(vectors.transpose(1, 2)))
        x = torch.cat(rows, 1)
        return nn.functional.pad(x, (0, self.pseudo, 0, num_rows(self.lmax) - x.shape[1]))


class NodeReadout(nn.Module):
    """Linear map of the true channels to scalars (nodes, scalars_out) and vectors.

    Vectors are (nodes, vectors_out, 3).
    """

    def __init__(self, channels: int, scalars_out: int, vectors_out: int):
        super().__init__()
        self.channels = channels
        self.scalar = nn.Linear(channels, scalars_out) if scalars_out else None
        self.vector = nn.Linear(channels, vectors_out, bias=False) if vectors_out else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (nodes, rows, channels) -> scalars and vectors of nodes."""
        true = x[..., : self.channels]
        scalars, vectors = true.new_zeros(x.shape[0], 0), true.new_zeros(x.shape[0], 0, 3)
        if self.scalar is not None:
            scalars = self.scalar(true[:, 0])
        if self.vector is not None:
            vectors = self.vector(true[:, 1:4]).transpose(1, 2)
        return scalars, vectors
