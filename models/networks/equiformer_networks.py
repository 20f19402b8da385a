"""Equiformers for energies of atoms and for properties of molecules.

    potential    elements -> layers -> energy of every atom
    properties   elements -> layers -> one number or vector of each molecule and target

Both share ``equiformer_layers.py`` and read a ragged batch; an envelope fades edges out at the
cutoff, so that predictions are smooth in the positions. Cost: linear in edges.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.choices import check_at_least, check_positive
from farfield.models.edges import batch_vectors, check_reach, safe_length
from farfield.models.elements import MAX_ATOMIC_NUMBER, check_elements
from farfield.models.graph_ops import GraphIndex
from farfield.models.heads.energy import EnergyHead
from farfield.models.heads.per_set import energy_readout
from farfield.models.heads.property_heads import choose_readouts
from farfield.models.layers.conditioning import conditioning, parse_inputs
from farfield.models.layers.edge_embedding import EdgeScalars
from farfield.models.layers.fiber_layers import FiberLinear
from farfield.models.layers.radial import ENVELOPES
from farfield.models.near_field.fiber_convolution import PointGeometry
from farfield.models.network import NETWORKS, EnergyNetwork
from farfield.models.networks.equiformer_layers import EquiformerLayers
from farfield.models.networks.equiformer_options import EquiformerLayerOptions
from farfield.models.networks.property_networks import (
    BondKinds,
    PropertyNetwork,
    Readouts,
    Targets,
)
from farfield.models.option_fields import MAIN
from farfield.models.point_graphs import nearest_incoming
from farfield.models.potential import PotentialOptions


@dataclasses.dataclass(frozen=True)
class CutoffOptions(EquiformerLayerOptions):
    """What an Equiformer on cutoff graphs needs, with defaults for molecules."""

    dim: str = "32"
    num_degrees: int = 3
    depth: int = 2
    heads: str = "4"
    dim_head: str = "8"
    radial_basis: str = "gaussian"
    radial_size: int = 32
    cutoff: Annotated[float, "cutoff of the edges, Angstrom", MAIN] = 4.0
    num_neighbors: Annotated[
        int | None, "nearest neighbours of an atom; none: all within the cutoff"
    ] = None
    element_size: Annotated[int, "width of the embedding of an element on an edge"] = 16
    condition: Annotated[
        str | None,
        "numbers of a structure that the network reads besides its geometry, joined by commas",
    ] = None

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, ["cutoff"])
        check_at_least(self, 1, ["element_size"])
        if self.num_neighbors is not None:
            check_at_least(self, 1, ["num_neighbors"])
        parse_inputs(self.condition)

    def remarks(self) -> list[str]:
        """What a user of these choices should know, a line each."""
        found = super().remarks()
        if self.num_neighbors:
            found.append(
                "num_neighbors: energies jump where the k-th neighbour changes; num_neighbors none "
                "is smooth"
            )
        return found


def cutoff_geometry(
    layers: EquiformerLayers,
    batch: AtomBatch,
    edge_scalars: Tensor | None,
    bonded: Tensor | None = None,
) -> PointGeometry:
    """Edges of a batch as the layers read them, with the cutoff of their options.

    edge_scalars: (edges, k) or None. bonded (edges,) bool: edges that stay at any distance.
    """
    options = layers.options
    check_reach(batch.cutoff, options.cutoff)
    graph = batch.graph
    vectors = batch_vectors(batch)
    length = safe_length(vectors)
    envelope = ENVELOPES[options.envelope](length / options.cutoff)
    if bonded is not None:
        envelope = torch.where(bonded, 1.0, envelope)
        length = torch.where(bonded, 0.0, length)  # bonded ones come first among the nearest
    if options.num_neighbors is not None:
        kept = nearest_incoming(graph, length.detach(), options.num_neighbors)
        graph = GraphIndex(graph.src[kept], graph.dst[kept], graph.nodes_per_graph)
        vectors, envelope = vectors[kept], envelope[kept]
        edge_scalars = None if edge_scalars is None else edge_scalars[kept]
    return layers.geometry(
        graph, vectors, envelope, edge_scalars, batch.positions, batch.cell, batch.periodic
    )


# parts of a network with these features, for ``Network.parts``
ATOM_PARTS: dict[str, tuple[str, ...]] = {
    "embedding": (
        "atoms.elements",
        "atoms.edge_elements",
        "atoms.condition",
        "atoms.layers.trunk",
        "atoms.layers.embed",
        "atoms.layers.embed_own",
    ),
    "layers": ("atoms.layers.layers.pairs",),
}


class AtomFeatures(nn.Module):
    """Elements and edges -> features of all atoms (nodes, width) after all layers.

    bond_kinds: edges carry the kind of their bond (see ``layers/edge_embedding.py``).
    """

    def __init__(self, options: CutoffOptions, bond_kinds: bool = False):
        super().__init__()
        scalars = options.fiber[0]
        self.elements = nn.Embedding(MAX_ATOMIC_NUMBER + 1, scalars)
        self.edge_elements = EdgeScalars(options.element_size, bond_kinds)
        self.layers = EquiformerLayers(
            options, (scalars,), self.edge_elements.features, options.cutoff
        )
        self.condition = conditioning(options.condition, scalars)

    def forward(self, batch: AtomBatch) -> Tensor:
        check_elements(batch.atomic_numbers)
        scalars = self.elements(batch.atomic_numbers)
        if self.condition is not None:
            scalars = scalars + self.condition(batch)
        return self.layers(scalars, cutoff_geometry(self.layers, batch, self.edge_elements(batch)))


class EquiformerRemarks:
    """``remarks`` of a network from those of its options."""

    @property
    def remarks(self) -> list[str]:
        """What a user of a network with these options should know, a line each."""
        return self.options.remarks()


@dataclasses.dataclass(frozen=True)
class EquiformerPotentialOptions(CutoffOptions, PotentialOptions):
    """Options of :class:`EquiformerPotential`."""

    def __post_init__(self):
        CutoffOptions.__post_init__(self)
        PotentialOptions.__post_init__(self)
        if self.forces == "direct" and self.num_degrees < 2:
            raise ValueError("direct forces are read from degree 1; set num_degrees to 2 or more")


# "small" is the defaults; "published" has the sizes of the network that was published for QM9 (Liao
# & Smidt 2023)
PRESETS: dict[str, dict[str, object]] = {
    "small": {},
    "base": {"dim": "64,48,32", "depth": 4, "heads": "8", "drop_path": 0.05},
    "published": {
        "dim": "128,64,32",
        "depth": 6,
        "heads": "4",
        "dim_head": "32,16,8",
        "l2_dist_attention": False,
        "cutoff": 5.0,
        "radial_size": 128,
    },
}


@NETWORKS.register("equiformer")
class EquiformerPotential(EquiformerRemarks, EnergyNetwork):
    """Energies of atoms, and forces read from degree 1 where the options ask for them.

    Reads ``batch.graph``, ``positions``, ``atomic_numbers``, ``cell``, ``periodic``,
    ``image_shift`` and the inputs that ``options.condition`` names.
    """

    Options = EquiformerPotentialOptions
    presets = PRESETS
    parts = {**ATOM_PARTS, "heads": ("energy", "vectors")}
    several_heads = True

    def __init__(self, options: EquiformerPotentialOptions):
        super().__init__()
        self.options = options
        self.atoms = AtomFeatures(options)
        self.energy = energy_readout(options.energy_heads, lambda: EnergyHead(options.fiber[0]))
        self.vectors = None
        if options.forces == "direct":
            self.vectors = FiberLinear(options.fiber, (1, 1))

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        """``atomic_energy`` (nodes,) and, if direct, ``direct_forces`` (nodes, 3)."""
        x = self.atoms(batch)
        out = {"atomic_energy": self.energy(x[:, : self.options.fiber[0]].unsqueeze(1))}
        if self.vectors is not None:
            out["direct_forces"] = self.vectors(x)[:, 1:]
        return out


@dataclasses.dataclass(frozen=True)
class EquiformerPropertyOptions(CutoffOptions):
    """Options of :class:`EquiformerProperties`; targets, readouts, bond_kinds: see
    ``networks/property_networks.py``.
    """

    targets: Targets = "homo"
    readouts: Readouts = None
    cutoff: float = 5.0
    bond_kinds: BondKinds = False

    def __post_init__(self):
        super().__post_init__()
        choose_readouts(self.targets, self.readouts)
        if self.num_degrees < 2:
            raise ValueError("properties may read vectors: set num_degrees to 2 or more")


@NETWORKS.register("equiformer_properties")
class EquiformerProperties(EquiformerRemarks, PropertyNetwork):
    """Reads what :class:`EquiformerPotential` reads, and with ``bond_kinds`` the kinds of bonds."""

    Options = EquiformerPropertyOptions
    presets = PRESETS
    parts = {**ATOM_PARTS, "heads": ("readable", "heads")}

    def __init__(self, options: EquiformerPropertyOptions):
        channels = options.fiber[0]
        super().__init__(options, channels)
        self.atoms = AtomFeatures(options, options.bond_kinds)
        self.readable = FiberLinear(options.fiber, (channels,) * options.num_degrees)

    def features(self, batch: AtomBatch) -> Tensor:
        """Features of every atom (nodes, rows, channels), as many channels of every degree."""
        return self.readable(self.atoms(batch)).unflatten(1, (-1, self.options.fiber[0]))
