"""E2Former and its hybrid with a far field: energies, forces and stresses of molecules and
materials.

    elements, positions -> edges (harmonics, envelope, invariants) -> embedding
                        -> [attention, feed-forward] x layers -> energy

    embedding     x_i = element_i + avg_degree^(-1/2) sum_j u(r_ij) Y(r^_ij) f_l(e_ij)
                  (edge-degree embedding)
    invariants    e_ij = MLP(radial basis of r_ij, element_i, element_j), one trunk for all layers,
                  computed once
    blocks        near field, far field or both, as the schedule says
                  (``blocks.py``)
    heads         energy of every graph; forces and stress as its derivatives, or forces read from
                  degree 1    (``heads.py``)

Sources: Li et al. 2025, E2Former, and E2Former-FMM. What differs by choice: true parity, no pair is
cut off by a list of nearest neighbours (an envelope fades every edge), linear maps read one shared
radial network, and everything is exactly equivariant. Cost: linear in edges and atoms.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from farfield.models.edges import check_reach, image_vectors
from farfield.models.elements import MAX_ATOMIC_NUMBER, check_elements
from farfield.models.heads.energy import EnergyHead, VectorHead
from farfield.models.kernels.harmonic_sum import memory_efficient_sum
from farfield.models.layers.edge_embedding import EdgeScalars
from farfield.models.layers.feed_forward import SILU_SCALE
from farfield.models.layers.linear import EquivariantLinear
from farfield.models.layers.norms import EquivariantNorm
from farfield.models.layers.radial import RADIAL_BASES, SMOOTH_ENVELOPES, RadialTrunk
from farfield.models.near_field.edge_geometry import NearFieldGeometry
from farfield.models.networks.blocks import Block, Scene
from farfield.models.networks.e2former_options import BackboneOptions, E2FormerOptions
from farfield.models.potential import FORCES


class EdgeDegreeEmbedding(nn.Module):
    """First features of a node from its surroundings: ``avg_degree^(-1/2) sum_j u(r_ij) Y_lm(r^_ij)
    (W_l e_ij)``.

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
        weights = geometry.invariants * (geometry.envelope * self.scale)  # (edges, hidden)
        every = weights.new_ones(geometry.graph.num_nodes, 1, weights.shape[1])
        return self.linear(
            memory_efficient_sum(
                geometry.edge_slots, geometry.harmonics(self.lmax), weights, every
            ).squeeze(2)
        )


class E2FormerBackbone(nn.Module):
    """Embedding and blocks: ``features(batch, positions, cell) -> (nodes, rows, channels)``; what
    is read from them, a network adds.

    Reads ``batch.graph``, ``atomic_numbers``, ``periodic`` and ``image_shift``, and with
    ``bond_kinds`` the kinds of the edges (see ``edge_scalars.py``). The graph must hold every edge
    shorter than the cutoff, ``ValueError`` if ``batch.cutoff`` says it does not; longer ones count
    for nothing.
    """

    def __init__(self, options: BackboneOptions, bond_kinds: bool = False):
        super().__init__()
        self.options = options
        lmax, channels = options.lmax, options.channels
        self.elements = nn.Embedding(MAX_ATOMIC_NUMBER + 1, channels)
        self.edge_elements = EdgeScalars(options.element_size, bond_kinds)
        basis = RADIAL_BASES[options.radial_basis](options.cutoff, options.radial_size)
        self.trunk = RadialTrunk(basis, self.edge_elements.features, options.radial_hidden)
        keep_variance(self.trunk)
        self.edge_degree = EdgeDegreeEmbedding(
            lmax, options.radial_hidden, channels, options.avg_degree
        )
        self.blocks = nn.ModuleList(
            Block(name, options.block(name)) for name in options.attentions()
        )
        self.norm = EquivariantNorm(options.norm, lmax, channels)

    def features(self, batch, positions: Tensor, cell: Tensor | None) -> Tensor:
        """Features of every atom (nodes, rows, channels) after all layers."""
        check_elements(batch.atomic_numbers)
        check_reach(batch.cutoff, self.options.cutoff)
        scene = self.scene(batch, positions, cell)
        elements = self.elements(batch.atomic_numbers).unsqueeze(1)
        x = self.edge_degree(scene.near)
        x = torch.cat([x[:, :1] + elements, x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x, scene)
        return self.norm(x)

    def scene(self, batch, positions: Tensor, cell: Tensor | None) -> Scene:
        """What all layers share, made once: edges, harmonics, envelope, invariants."""
        graph, options = batch.graph, self.options
        scalars = self.edge_elements(batch)
        near = NearFieldGeometry.from_positions(
            graph,
            positions,
            envelope=lambda length: SMOOTH_ENVELOPES[options.envelope](length / options.cutoff),
            invariants=lambda length: self.trunk(length, scalars),
            images=image_vectors(graph, cell, batch.image_shift),
        )
        return Scene(near, positions, cell, batch.periodic)


class E2Former(E2FormerBackbone):
    """``model(batch) -> {"energy": (graphs,) float64, "forces": (nodes, 3), "stress": (graphs, 3,
    3)}``, in eV and Angstrom.

    Reads ``batch.positions`` and ``cell`` and what the backbone reads. The options say which of
    forces and stress are there.

    Derivatives are taken inside, also under ``torch.no_grad()``. They can be differentiated again
    in training mode, and in evaluation mode if the positions ask for a gradient; otherwise
    evaluation gives plain numbers without a graph.
    """

    def __init__(self, options: E2FormerOptions):
        super().__init__(options)
        self.energy = EnergyHead(options.channels)
        self.vectors = VectorHead(options.channels) if options.forces == "direct" else None

    def set_reference(
        self, energies: Mapping[int, float], scale: float = 1.0, shift: float = 0.0
    ) -> None:
        """Energy of each element (eV, by atomic number), and scale and shift of the learned energy
        of an atom; see ``heads.py``.

        From then on structures of other elements are refused. Direct forces are in units of the
        scale as well.
        """
        self.energy.reference.set(energies, scale, shift)

    def reference_energy(self, batch) -> Tensor:
        """The constant part of the energies (graphs,) float64: labels minus this are what the
        network learns.
        """
        return self.energy.reference(batch.graph, batch.atomic_numbers)

    def forward(self, batch) -> dict[str, Tensor]:
        """Predictions for an ``AtomBatch``."""
        return FORCES[self.options.forces](self, batch)


def keep_variance(network: nn.Module) -> None:
    """Start linear maps that a SiLU follows so that numbers keep their size (torch's start lets
    geometry fade to a tenth).
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=SILU_SCALE / layer.in_features**0.5)
            nn.init.zeros_(layer.bias)
