"""Networks of a diffusion over molecules: equivariant backbones with heads for noise and time.

    elements, noised positions, all pairs -> features of atoms (backbone)
                                          -> noise and time of every atom (heads/diffusion_heads.py)

An SE(3)-Transformer, an E2Former and an Equiformer; the EdgeTransformer, which is not equivariant,
is in ``edge_transformer_diffusion.py``. The graph holds all pairs of a molecule; an envelope fades
them out at the cutoff, 5 Angstrom as in MoreRed, and longer ones cost nothing but time. The heads
read the time; ``condition="time"`` tells the backbone as well. Source: Kahouli et al. 2024, MoreRed
(arXiv:2404.10935), with these backbones in the place of PaiNN. Cost: linear in edges, so quadratic
in the atoms of a molecule.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.choices import check_at_least, check_positive
from farfield.models.edges import batch_vectors, check_reach
from farfield.models.elements import MAX_ATOMIC_NUMBER, check_elements
from farfield.models.heads.diffusion_heads import (
    DiffusionHeadOptions,
    DiffusionHeads,
    NoiseHead,
    TimeHead,
)
from farfield.models.layers.conditioning import conditioning, parse_inputs
from farfield.models.layers.edge_embedding import EdgeScalars
from farfield.models.layers.feed_forward import keep_variance
from farfield.models.layers.fiber_layers import FiberLinear
from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.models.network import DIFFUSION, NETWORKS, Network, Output
from farfield.models.networks.e2former import BACKBONE_PARTS, E2FormerBackbone
from farfield.models.networks.e2former_options import BackboneOptions
from farfield.models.networks.equiformer_networks import (
    ATOM_PARTS,
    AtomFeatures,
    CutoffOptions,
    EquiformerRemarks,
)
from farfield.models.networks.property_networks import Surroundings
from farfield.models.networks.se3_transformer import LAYER_PARTS, SE3Layers, SE3Options

# an option that backbones share
Condition = Annotated[
    str | None,
    "numbers of a structure that the backbone reads besides its geometry, joined by commas: time, "
    "for one",
]


class DiffusionNetwork(Network):
    """A backbone and its heads: ``model(batch) -> {"noise": (nodes, 3), "time": (nodes,)}``.

    What of both there is the options say, and ``models.network.DIFFUSION`` what it means.
    Subclasses give ``features(batch) -> (nodes, rows, channels)`` with ``channels`` true ones in
    front, of degree 1 or higher, or other features with other heads.

    Class attributes

    noise_module, time_module   channels -> module that reads the features, for ``DiffusionHeads``
    """

    predicts = DIFFUSION
    noise_module: ClassVar[Callable[[int], nn.Module]] = NoiseHead
    time_module: ClassVar[Callable[[int], nn.Module]] = TimeHead

    def __init__(self, options: DiffusionHeadOptions, channels: int):
        super().__init__()
        self.options, self.channels = options, channels
        self.heads = DiffusionHeads(
            noise=self.noise_module(channels) if options.noise_head else None,
            time=self.time_module(channels) if options.time_head else None,
            detach_time=options.detach_time,
        )

    @abc.abstractmethod
    def features(self, batch: AtomBatch) -> Tensor:
        """Features of every atom (nodes, ..., channels)."""

    def outputs(self) -> dict[str, Output]:
        return self.heads.outputs()

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        """Noise and time, as far as there are heads for them."""
        return self.heads(batch, self.features(batch)[..., : self.channels])


@dataclasses.dataclass(frozen=True)
class E2FormerDiffusionOptions(BackboneOptions, DiffusionHeadOptions):
    """Options of :class:`E2FormerDiffusion`, for its backbone and its heads."""

    schedule: str = "first-order2"
    cutoff: float = 5.0

    def __post_init__(self):
        BackboneOptions.__post_init__(self)
        DiffusionHeadOptions.__post_init__(self)


@NETWORKS.register("e2former_diffusion")
class E2FormerDiffusion(DiffusionNetwork):
    """Reads what :class:`models.networks.e2former.E2FormerBackbone` reads, and the time."""

    Options = E2FormerDiffusionOptions
    presets = {
        "small": {},
        "base": {"irreps": "64x0e+64x1o+64x2e", "schedule": "first-order4", "radial_hidden": 96},
    }
    parts = {**BACKBONE_PARTS, "heads": ("heads",)}

    def __init__(self, options: E2FormerDiffusionOptions):
        super().__init__(options, options.channels)
        self.backbone = E2FormerBackbone(options)

    def features(self, batch: AtomBatch) -> Tensor:
        """Features of every atom after all layers."""
        return self.backbone.features(batch)


@dataclasses.dataclass(frozen=True)
class SE3DiffusionOptions(SE3Options, DiffusionHeadOptions):
    """Options of :class:`SE3TransformerDiffusion`, for its layers and its heads."""

    layers: int = 3
    channels: int = 16
    lmax: int = 2
    heads: int = 4
    radial_basis: str = "gaussian"
    radial_size: int = 32
    norm: str = "layer"
    element_size: Annotated[int, "width of the embedding of an element on an edge"] = 8
    avg_degree: Annotated[float, "mean number of neighbours in the training data"] = 16.0
    condition: Condition = None

    def __post_init__(self):
        SE3Options.__post_init__(self)
        DiffusionHeadOptions.__post_init__(self)
        check_at_least(self, 1, ["element_size"])
        check_positive(self, ["avg_degree"])
        parse_inputs(self.condition)


@NETWORKS.register("se3_transformer_diffusion")
class SE3TransformerDiffusion(DiffusionNetwork):
    """Reads ``batch.graph``, ``positions``, ``atomic_numbers``, the time, and what ``condition``
    names.
    """

    Options = SE3DiffusionOptions
    presets = {"small": {}, "base": {"layers": 5, "channels": 32}}
    parts = {**LAYER_PARTS, "heads": ("heads",)}

    def __init__(self, options: SE3DiffusionOptions):
        true = options.channels - options.pseudo_channels
        super().__init__(options, true)
        self.elements = nn.Embedding(MAX_ATOMIC_NUMBER + 1, true)
        self.edge_elements = EdgeScalars(options.element_size)
        self.layers = SE3Layers(
            dataclasses.replace(options, edge_scalars=self.edge_elements.features)
        )
        keep_variance(self.layers.trunk)
        self.surroundings = Surroundings(options, true)
        self.condition = conditioning(options.condition, true)

    def features(self, batch: AtomBatch) -> Tensor:
        """Features of every atom after all layers."""
        check_elements(batch.atomic_numbers)
        check_reach(batch.cutoff, self.options.cutoff)
        vectors = batch_vectors(batch)
        basis = EdgeBasis.from_vectors(vectors, self.options.lmax)
        geometry = self.layers.geometry(batch.graph, basis, self.edge_elements(batch))

        scalars = self.elements(batch.atomic_numbers)  # (nodes, true channels)
        if self.condition is not None:
            scalars = scalars + self.condition(batch)
        around = self.surroundings(geometry)  # (nodes, rows, true channels)
        x = torch.cat([around[:, :1] + scalars.unsqueeze(1), around[:, 1:]], 1)
        return self.layers(nn.functional.pad(x, (0, self.options.pseudo_channels)), geometry)


@dataclasses.dataclass(frozen=True)
class EquiformerDiffusionOptions(CutoffOptions, DiffusionHeadOptions):
    """Options of :class:`EquiformerDiffusion`, for its layers and its heads."""

    cutoff: float = 5.0

    def __post_init__(self):
        CutoffOptions.__post_init__(self)
        DiffusionHeadOptions.__post_init__(self)
        if self.num_degrees < 2:
            raise ValueError("noise is read from vectors: set num_degrees to 2 or more")


@NETWORKS.register("equiformer_diffusion")
class EquiformerDiffusion(EquiformerRemarks, DiffusionNetwork):
    """Reads ``batch.graph``, ``positions``, ``atomic_numbers``, the time, and what ``condition``
    names.
    """

    Options = EquiformerDiffusionOptions
    presets = {"small": {}, "base": {"dim": "64,48,32", "depth": 4, "heads": "8"}}
    parts = {**ATOM_PARTS, "heads": ("readable", "heads")}

    def __init__(self, options: EquiformerDiffusionOptions):
        channels = options.fiber[0]
        super().__init__(options, channels)
        self.atoms = AtomFeatures(options)
        self.readable = FiberLinear(options.fiber, (channels,) * 2)

    def features(self, batch: AtomBatch) -> Tensor:
        """Features of every atom (nodes, 4, channels), as many channels of degrees 0 and 1."""
        return self.readable(self.atoms(batch)).unflatten(1, (-1, self.channels))
