"""Networks for properties of molecules: an SE(3)-Transformer and an E2Former with readouts.

    elements, positions, edges -> features of atoms (backbone)
                               -> one number or vector of each molecule and target (heads)

The SE(3)-Transformer takes any graph, as a rule the bonds of the molecule: an edge carries its kind
of bond and the elements of both ends, and no envelope, since bonds do not come and go with the
length. The E2Former takes all pairs within its cutoff. Positions need no derivative here, so an
edge basis from a cache is as good as one that is computed, and training takes one backward pass.

Targets are listed in ``PROPERTIES``, readouts in ``READOUTS``. Sources: Fuchs et al. 2020, sec.
5.3; Li et al. 2025. Cost: linear in edges.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.choices import check_at_least, check_positive
from farfield.models.edges import batch_vectors
from farfield.models.elements import MAX_ATOMIC_NUMBER, check_elements
from farfield.models.far_field.attention import FarFieldOptions
from farfield.models.graph_ops import sum_edges
from farfield.models.heads.property_heads import PropertyHeads, choose_readouts
from farfield.models.heads.property_readouts import READOUTS
from farfield.models.layers.edge_embedding import EdgeScalars
from farfield.models.layers.feed_forward import keep_variance
from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.models.near_field.se3_attention import FrameGeometry
from farfield.models.network import NETWORKS, PROPERTIES, Network, Output
from farfield.models.networks.e2former import (
    BACKBONE_PARTS,
    E2FormerBackbone,
    present_backbone_weight,
)
from farfield.models.networks.e2former_options import PRESETS as E2FORMER_PRESETS
from farfield.models.networks.e2former_options import BackboneOptions
from farfield.models.networks.se3_transformer import LAYER_PARTS, SE3Layers, SE3Options
from farfield.models.option_fields import MAIN
from farfield.models.so3.irreps import degree_of_row

# options that both networks share
Targets = Annotated[str, "properties to learn, joined by commas", MAIN]
Readouts = Annotated[
    str | None, "target=readout joined by commas, in place of the standard readout"
]
BondKinds = Annotated[bool, "let edges carry the kind of their bond", MAIN]


@dataclasses.dataclass(frozen=True)
class SE3PropertyOptions(SE3Options):
    """Options of :class:`SE3TransformerProperties`.

    targets: names in ``PROPERTIES``. cutoff: largest length the radial basis resolves; where edges
    are bonds use the length of the longest bond, since what a bond tells lies in tenths of an
    Angstrom. bond_kinds: read from ``batch.edge_features["bond_kinds"]``.
    """

    targets: Targets = "homo"
    readouts: Readouts = None
    layers: int = 4
    channels: int = 16
    lmax: int = 2
    heads: int = 4
    cutoff: float = 5.0
    envelope: str = "none"
    radial_basis: str = "gaussian"
    radial_size: int = 32
    norm: str = "gate"
    bond_kinds: BondKinds = True
    element_size: Annotated[int, "width of the embedding of an element on an edge"] = 8
    avg_atoms: Annotated[float, "mean number of atoms in the training data"] = 18.0
    avg_degree: Annotated[float, "mean number of neighbours in the training data"] = 2.0

    def __post_init__(self):
        super().__post_init__()
        choose_readouts(self.targets, self.readouts)
        check_at_least(self, 1, ["element_size"])
        check_positive(self, ["avg_atoms", "avg_degree"])


@dataclasses.dataclass(frozen=True)
class E2FormerPropertyOptions(BackboneOptions):
    """Options of :class:`E2FormerProperties`: its backbone, and what it predicts.

    targets, readouts, bond_kinds: as in :class:`SE3PropertyOptions`.
    """

    targets: Targets = "homo"
    readouts: Readouts = None
    schedule: str = "first-order"
    cutoff: float = 5.0
    radial_size: int = 48
    far: FarFieldOptions = FarFieldOptions(kernel_lmax=2)
    bond_kinds: BondKinds = False

    def __post_init__(self):
        super().__post_init__()
        choose_readouts(self.targets, self.readouts)


SE3_PRESETS: dict[str, dict[str, object]] = {
    "small": {"value_divisor": 2},
    "base": {"layers": 5, "channels": 32, "value_divisor": 2},
    # sizes of the large networks of the literature
    "published": {
        "layers": 7,
        "channels": 32,
        "lmax": 3,
        "heads": 8,
        "value_divisor": 2,
        "norm": "layer",
    },
}
E2FORMER_PROPERTY_PRESETS: dict[str, dict[str, object]] = {
    "small": {"schedule": "first-order1+second-order1"},
    "base": {"schedule": "first-order3+second-order1"},
    "published": {**E2FORMER_PRESETS["paper"], "schedule": "first-order6"},
}


class PropertyNetwork(Network):
    """A backbone and its heads: ``model(batch) -> {target: (graphs,) or (graphs, 3)}``, float64.

    Predictions are in the units of the training data. Subclasses give ``features(batch) -> (nodes,
    rows, channels)`` with ``channels`` true ones in front.
    """

    predicts = PROPERTIES

    def __init__(self, options: SE3PropertyOptions | E2FormerPropertyOptions, channels: int):
        super().__init__()
        self.options = options
        self.readouts = choose_readouts(options.targets, options.readouts)
        self.heads = PropertyHeads(self.readouts, channels, options.avg_atoms)

    @abc.abstractmethod
    def features(self, batch: AtomBatch) -> Tensor:
        """Features of every atom (nodes, rows, channels)."""

    def outputs(self) -> dict[str, Output]:
        return {
            target: Output("graph", "vector" if READOUTS[readout].kind == "vector" else "scalar")
            for target, readout in self.readouts.items()
        }

    def raw(self, batch: AtomBatch) -> dict[str, Tensor]:
        """Normalised outputs in the type of the network: what labels are compared with.

        Labels are (value - reference) / scale while training.
        """
        return self.heads.raw(
            batch.graph, self.features(batch), batch.positions, batch.atomic_numbers
        )

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        """Predictions for an ``AtomBatch``."""
        return self.heads(batch.graph, self.features(batch), batch.positions, batch.atomic_numbers)

    def set_scaling(self, scaling: Mapping[str, Mapping]) -> None:
        """Take what :func:`models.heads.target_scaling.fit_scaling` found for the readouts."""
        self.heads.scaling.set(scaling)


@NETWORKS.register("se3_transformer_properties")
class SE3TransformerProperties(PropertyNetwork):
    """Reads ``batch.graph``, ``positions``, ``atomic_numbers``, ``edge_features["bond_kinds"]``
    (edges,) int64 in 0 .. 4 if the options ask for bonds, and ``edge_basis`` if it is there and the
    positions ask for no gradient.
    """

    Options = SE3PropertyOptions
    presets = SE3_PRESETS
    reads_basis = True
    parts = {**LAYER_PARTS, "heads": ("heads",)}

    def __init__(self, options: SE3PropertyOptions):
        true = options.channels - options.pseudo_channels
        super().__init__(options, true)
        self.elements = nn.Embedding(MAX_ATOMIC_NUMBER + 1, true)
        self.edge_elements = EdgeScalars(options.element_size, options.bond_kinds)
        self.layers = SE3Layers(
            dataclasses.replace(options, edge_scalars=self.edge_elements.features)
        )
        keep_variance(self.layers.trunk)
        self.surroundings = Surroundings(options, true)

    def features(self, batch: AtomBatch) -> Tensor:
        """Features of every atom after all layers."""
        check_elements(batch.atomic_numbers)
        geometry = self.layers.geometry(
            batch.graph, self._edge_basis(batch), self.edge_elements(batch)
        )

        around = self.surroundings(geometry)  # (nodes, rows, true channels)
        elements = self.elements(batch.atomic_numbers).unsqueeze(1)
        x = torch.cat([around[:, :1] + elements, around[:, 1:]], 1)
        return self.layers(nn.functional.pad(x, (0, self.options.pseudo_channels)), geometry)

    def _edge_basis(self, batch: AtomBatch) -> EdgeBasis:
        """The cached basis, or one that gradients by the positions pass through."""
        if batch.edge_basis is not None and not batch.positions.requires_grad:
            return batch.edge_basis
        return EdgeBasis.from_vectors(batch_vectors(batch), self.options.lmax)


class Surroundings(nn.Module):
    """First features of a node from its surroundings, as the E2Former starts.

        x_i = avg_degree^(-1/2) sum_j u(r_ij) Y_lm(r^_ij) (W_l e_ij)

    Without them the first layer meets scalars alone, and its kernels of order m > 0 nothing.
    ``forward(geometry) -> (nodes, rows, channels)``. The harmonics are the rows m = 0 of the
    rotations into the edge frame.
    """

    def __init__(self, options: SE3PropertyOptions, channels: int):
        super().__init__()
        self.lmax, self.channels, self.scale = options.lmax, channels, options.avg_degree**-0.5
        self.linear = nn.Linear(options.radial_hidden, (options.lmax + 1) * channels)
        self.register_buffer("degree", degree_of_row(options.lmax), persistent=False)

    def forward(self, geometry: FrameGeometry) -> Tensor:
        harmonics = geometry.rotation[:, : self.lmax + 1].sum(1)  # (edges, rows)
        weights = self.linear(geometry.hidden) * (geometry.envelope * self.scale)
        weights = weights.unflatten(1, (self.lmax + 1, self.channels)).index_select(1, self.degree)
        return sum_edges(geometry.graph, harmonics.unsqueeze(-1) * weights)


@NETWORKS.register("e2former_properties")
class E2FormerProperties(PropertyNetwork):
    """Reads what :class:`models.networks.e2former.E2FormerBackbone` reads, and kinds of bonds if
    the options ask for them.

    The graph must hold every pair closer than the cutoff, whether it is a bond or not.
    """

    Options = E2FormerPropertyOptions
    presets = E2FORMER_PROPERTY_PRESETS
    parts = {**BACKBONE_PARTS, "heads": ("heads",)}

    def __init__(self, options: E2FormerPropertyOptions):
        super().__init__(options, options.channels)
        self.backbone = E2FormerBackbone(options, options.bond_kinds)

    @classmethod
    def present_weight_name(cls, name: str) -> str:
        """Only the weight of the far field in a hybrid has another name today."""
        return present_backbone_weight(name)

    def features(self, batch: AtomBatch) -> Tensor:
        """Features of every atom after all layers."""
        return self.backbone.features(batch)
