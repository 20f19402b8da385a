"""E2Former and its hybrid with a far field: energies of molecules and materials.

    elements, positions -> edges (harmonics, envelope, invariants) -> embedding
                        -> [attention, feed-forward] x layers -> energy of every atom

    embedding     x_i = element_i + avg_degree^(-1/2) sum_j u(r_ij) Y(r^_ij) f_l(e_ij)
    encoder       attention over the elements of the structure, if asked   (networks/encoder.py)
    invariants    e_ij = MLP(radial basis of r_ij, element_i, element_j), computed once
    blocks        near field, far field or both, as the schedule says    (networks/blocks.py)
    clusters      blocks that hear clusters of atoms, if asked   (networks/cluster_blocks.py)
    heads         energy of an atom, or a force of its own               (heads/energy.py)
    experts       several heads, of which an atom chooses, if asked      (heads/experts.py)
    charges       charges of atoms and their Coulomb energy, if asked    (far_field/charges.py)
    potential     energies of structures, forces and stress              (models/potential.py)

Sources: Li et al. 2025, E2Former, and E2Former-FMM. What differs by choice: true parity, no pair is
cut off by a list of nearest neighbours (an envelope fades every edge, and with ``max_neighbors`` a
second one), linear maps read one shared radial network, and everything is exactly equivariant.
Cost: linear in edges and atoms.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.edges import batch_images, check_reach
from farfield.models.elements import MAX_ATOMIC_NUMBER, check_elements
from farfield.models.far_field.charges import NearEdges, charge_model, dipole_of
from farfield.models.far_field.coulomb import repeating
from farfield.models.heads.energy import EnergyHead, VectorHead
from farfield.models.heads.experts import experts
from farfield.models.heads.per_set import energy_readout
from farfield.models.kernels.harmonic_sum import memory_efficient_sum
from farfield.models.layers.conditioning import conditioning
from farfield.models.layers.edge_embedding import EdgeScalars
from farfield.models.layers.element_start import ELEMENT_STARTS
from farfield.models.layers.feed_forward import keep_variance
from farfield.models.layers.linear import EquivariantLinear
from farfield.models.layers.norms import EquivariantNorm
from farfield.models.layers.radial import RADIAL_BASES, SMOOTH_ENVELOPES, RadialTrunk
from farfield.models.near_field.edge_geometry import NearFieldGeometry
from farfield.models.network import NETWORKS, EnergyNetwork, Output
from farfield.models.networks.blocks import ATTENTIONS, Block, Scene
from farfield.models.networks.cluster_blocks import cluster_blocks
from farfield.models.networks.e2former_options import PRESETS, BackboneOptions, E2FormerOptions
from farfield.models.networks.encoder import encoder


class EdgeDegreeEmbedding(nn.Module):
    """First features of a node from its surroundings.

        x_i = avg_degree^(-1/2) sum_j u(r_ij) Y_lm(r^_ij) (W_l e_ij),      u the envelope

    ``forward(geometry) -> (nodes, rows, channels)``. The map W_l of the invariants acts on the sum,
    which is the same and cheaper. It starts at variance 2 l + 1, so that all degrees start alike;
    the published factor 1 / avg_degree starts them ten times smaller than the element, where they
    are learned late.
    """

    def __init__(self, lmax: int, hidden: int, channels: int, avg_degree: float):
        super().__init__()
        self.lmax, self.scale = lmax, avg_degree**-0.5
        self.linear = EquivariantLinear(lmax, hidden, channels)
        with torch.no_grad():
            self.linear.weight *= (2 * torch.arange(lmax + 1).view(-1, 1, 1) + 1) ** 0.5

    def forward(self, geometry: NearFieldGeometry) -> Tensor:
        """Edges -> (nodes, rows, channels)."""
        # (edges, rows): there are fewer rows than invariants to multiply
        faded = geometry.harmonics(self.lmax) * (geometry.envelope * self.scale)
        invariants = geometry.invariants
        every = invariants.new_ones(geometry.graph.num_nodes, 1, invariants.shape[1])
        sums = memory_efficient_sum(geometry.edge_slots, faded, invariants, every)
        return self.linear(sums.squeeze(2))


class E2FormerBackbone(nn.Module):
    """Embedding and blocks: ``features(batch) -> (nodes, rows, channels)``; a network adds what is
    read from them.

    Reads ``batch.graph``, ``positions``, ``cell``, ``atomic_numbers``, ``periodic``,
    ``image_shift``, the inputs that ``options.condition`` names, and with ``bond_kinds`` the kinds
    of the edges (see ``layers/edge_embedding.py``). The graph must hold every edge shorter than the
    cutoff, ``ValueError`` if ``batch.cutoff`` says it does not; longer ones count for nothing.
    """

    def __init__(self, options: BackboneOptions, bond_kinds: bool = False):
        super().__init__()
        self.options = options
        lmax, channels = options.lmax, options.channels

        # what an edge and an atom start with
        self.elements = nn.Embedding(MAX_ATOMIC_NUMBER + 1, channels)
        self.edge_elements = EdgeScalars(options.element_size, bond_kinds)
        basis = RADIAL_BASES[options.radial_basis](options.cutoff, options.radial_size)
        self.trunk = RadialTrunk(basis, self.edge_elements.features, options.radial_hidden)
        keep_variance(self.trunk)
        self.edge_degree = EdgeDegreeEmbedding(
            lmax, options.radial_hidden, channels, options.avg_degree
        )

        # the layers
        self.blocks = nn.ModuleList(
            Block(name, options.block(name)) for name in options.attentions()
        )
        self.clusters = cluster_blocks(options)
        self.norm = EquivariantNorm(options.norm, lmax, channels, options.norm_epsilon)
        self.condition = conditioning(options.condition, channels)
        self.encoder = encoder(channels, options.encoder)
        for table in (self.elements, self.edge_elements):
            ELEMENT_STARTS[options.element_start](table)

    def features(self, batch: AtomBatch) -> Tensor:
        """Features of every atom (nodes, rows, channels) after all layers."""
        return self.features_in(self.scene(batch), batch)

    def features_in(self, scene: Scene, batch: AtomBatch) -> Tensor:
        """The same, given what :meth:`scene` makes of the batch."""
        x = self.start(scene, batch)
        for block in self.blocks:
            x = block(x, scene)
        if self.clusters is not None:
            x = self.clusters(x, scene.near, batch)
        return self.norm(x)

    def start(self, scene: Scene, batch: AtomBatch) -> Tensor:
        """Features of every atom (nodes, rows, channels) before the first layer."""
        scalars = self.elements(batch.atomic_numbers)  # (nodes, channels)
        if self.condition is not None:
            scalars = scalars + self.condition(batch)
        if self.encoder is not None:
            scalars = scalars + self.encoder(batch.graph, scalars)
        x = self.edge_degree(scene.near)
        return torch.cat([x[:, :1] + scalars.unsqueeze(1), x[:, 1:]], 1)

    def scene(self, batch: AtomBatch) -> Scene:
        """What all layers share, made once: edges, harmonics, envelope, invariants."""
        check_elements(batch.atomic_numbers)
        check_reach(batch.cutoff, self.options.cutoff)
        graph, options = batch.graph, self.options
        scalars = self.edge_elements(batch)

        # edges with their functions of length alone
        near = NearFieldGeometry.from_positions(
            graph,
            batch.exact_positions(),
            envelope=lambda length: SMOOTH_ENVELOPES[options.envelope](length / options.cutoff),
            invariants=lambda length: self.trunk(length, scalars),
            images=batch_images(batch),
            max_neighbors=options.max_neighbors,
            dtype=batch.positions.dtype,
        )
        return Scene(near, batch.positions, batch.cell, batch.periodic)


# parts of a network with this backbone, for ``Network.parts``
BACKBONE_PARTS: dict[str, tuple[str, ...]] = {
    "embedding": (
        "backbone.elements",
        "backbone.edge_elements",
        "backbone.trunk",
        "backbone.edge_degree",
        "backbone.condition",
        "backbone.encoder",
    ),
    "layers": ("backbone.blocks",),
    "clusters": ("backbone.clusters",),
}


FLASH_STEPS = (
    "near_kernel_implementation 'flash' rounds to 8 bits, so its energy is a staircase and forces "
    "depend on the orientation by 1e-2"
)


def present_backbone_weight(name: str) -> str:
    """Name of a weight of a backbone today, given its name in a checkpoint of format 2."""
    return name.replace(".attention.long_scale", ".attention.far_weight")


@NETWORKS.register("e2former")
class E2Former(EnergyNetwork):
    """Energies of atoms; forces read from degree 1, and charges, where the options ask for them.

    Reads what the backbone reads, and with charges the total charges of the batch where it has
    them. :class:`models.potential.Potential` makes energies, forces and stress of it.
    """

    Options = E2FormerOptions
    presets = PRESETS
    parts = {**BACKBONE_PARTS, "heads": ("energy", "vectors", "charges", "experts")}
    several_heads = True

    # first part of a weight's name in format 2 -> its name today
    moved_weights: ClassVar[dict[str, str]] = {
        "energy.reference.": "reference.",
        "energy.network.": "network.energy.network.",
        "vectors.": "network.vectors.",
    }

    def __init__(self, options: E2FormerOptions):
        super().__init__()
        self.options = options
        self.backbone = E2FormerBackbone(options)
        self.energy = energy_readout(options.energy_heads, lambda: EnergyHead(options.channels))
        self.vectors = VectorHead(options.channels) if options.forces == "direct" else None
        self.charges = charge_model(
            options.charges, options.channels, options.charge, options.avg_degree
        )
        self.experts = experts(options.channels, options.experts, self.vectors is not None)

    @classmethod
    def present_weight_name(cls, name: str) -> str:
        """In format 2 head, references and backbone were on one level."""
        for before, now in cls.moved_weights.items():
            if name.startswith(before):
                return now + name.removeprefix(before)
        return present_backbone_weight(f"network.backbone.{name}")

    def recompute_parts(self) -> None:
        """Invariants and weights of edges, score "QK_alpha", "sphere_grid", and norms."""
        for module in self.modules():
            if hasattr(module, "recompute"):
                module.recompute = True

    @property
    def energy_steps(self) -> str | None:
        """The near field with products in half precision."""
        return FLASH_STEPS if self.options.near.kernel_implementation == "flash" else None

    @property
    def remarks(self) -> list[str]:
        """Which choices make energies of pieces far apart not add up, or give them steps."""
        options = self.options
        found = options.encoder.unextensive()

        # what is summed over all atoms
        if any(ATTENTIONS[name].far for name in options.attentions()):
            found += options.far.unextensive()
        if options.charges == "equilibrated" or (
            options.charges == "latent" and options.charge.conservation == "total"
        ):
            found.append(
                f"charges {options.charges} conserve the total charge of a whole structure: "
                "energies of different pieces far apart do not add up exactly"
            )

        # what is rounded
        if self.energy_steps is not None:
            found.append(self.energy_steps)
        return found

    def outputs(self) -> dict[str, Output]:
        """Energies of atoms, and what charges and experts add to them."""
        found = super().outputs()
        if self.experts is not None:
            found["experts"] = Output("node", "scalar", columns=1 + self.options.experts.number)
        if self.charges is not None:
            found["charges"] = Output("node", "scalar", "e")
            found["dipole"] = Output("graph", "vector", "e Angstrom", open_only=True)
        return found

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        """``atomic_energy`` (nodes,) and, if direct, ``direct_forces`` (nodes, 3).

        With charges also ``graph_energy`` (graphs,), ``charges`` (nodes,) and, in a batch of open
        structures, ``dipole`` (graphs, 3) about the centroid. With experts also ``experts`` (nodes,
        1 + experts), their weights.
        """
        scene = self.backbone.scene(batch)
        x = self.backbone.features_in(scene, batch)
        out = self.read(x)
        if self.charges is not None:
            out |= self._charged(scene, batch, x[:, 0])
        return out

    def read(self, x: Tensor) -> dict[str, Tensor]:
        """What :meth:`forward` gives of atoms one by one, of features (nodes, rows, channels)."""
        out = {"atomic_energy": self.energy(x)}
        if self.vectors is not None:
            out["direct_forces"] = self.vectors(x)
        if self.experts is not None:
            out = self.experts(x, out["atomic_energy"], out.get("direct_forces"))
        return out

    def _charged(self, scene: Scene, batch: AtomBatch, scalars: Tensor) -> dict[str, Tensor]:
        """What the charges say, from scalars (nodes, channels)."""
        near = NearEdges(scene.near.length, scene.near.envelope.squeeze(1))
        charges, energy = self.charges(batch, scalars, near)
        out = {"graph_energy": energy, "charges": charges[:, 0]}
        if not any(repeating(batch.num_graphs, batch.cell, batch.periodic)):
            out["dipole"] = dipole_of(batch.graph, batch.positions, charges[:, 0])
        return out
