"""Readouts: how the features of atoms become one number or one vector of a molecule.

Which one is right depends on how a property grows with the molecule and how it turns:

    sum             sum_i s_i                      energies, alpha, Cv: two molecules far apart add
    mean, max,
    attention       decode(pool_i h_i)             homo, lumo, gap, A, B, C: independent of the size
    dipole          sum_i (q_i - mean q) r_i + v_i            vector; odd under inversion,
                                                              independent of the origin
    dipole_norm     | dipole |                                mu
    spatial_extent  sum_i q_i |r_i - c|^2 + 2 (r_i - c) . v_i + t_i
                                                   r2; c is the centre of nuclear charge

s, h, q, t are small networks of an atom's scalars, v its degree-1 features with weights from its
scalars. The last line is the second moment of a charge cloud written about the atoms, as the dipole
is the first (charge, dipole and extent of each atom).

Source of the dipole and extent forms: Schuett et al. 2021 (PaiNN), sec. 3.3. Cost: linear in atoms.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.choices import Registry
from farfield.models.edges import safe_length
from farfield.models.graph_ops import (
    GraphIndex,
    broadcast_nodes,
    max_nodes,
    mean_nodes,
    node_softmax,
    sum_nodes,
)

READOUTS: Registry[type[Readout]] = Registry("readout")


def _network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 2 * inputs), nn.SiLU(), nn.Linear(2 * inputs, outputs))


class Readout(nn.Module):
    """``forward(graph, x, positions, atomic_numbers) -> (graphs,)`` or ``(graphs, 3)``.

    Takes features (nodes, rows, channels), positions (nodes, 3), atomic numbers (nodes,).

    channels: of the features. avg_atoms: mean number of atoms of a molecule; keeps sums near 1.
    ``kind`` says what the references of a property read this way are: "sum" or "mean" over atoms,
    or none for a "scalar" and a "vector" that must vanish by symmetry.
    """

    kind: str

    def __init__(self, channels: int, avg_atoms: float):
        super().__init__()
        self.channels, self.avg_atoms = channels, avg_atoms


@READOUTS.register("sum")
class SumReadout(Readout):
    """Sum of one number per atom."""

    kind = "sum"

    def __init__(self, channels: int, avg_atoms: float):
        super().__init__(channels, avg_atoms)
        self.network = _network(channels, 1)

    def forward(
        self, graph: GraphIndex, x: Tensor, positions: Tensor, atomic_numbers: Tensor
    ) -> Tensor:
        return sum_nodes(graph, self.network(x[:, 0]).squeeze(-1)) / self.avg_atoms**0.5


@READOUTS.register("mean")
class MeanReadout(Readout):
    """Scalars of atoms, encoded, averaged over the molecule and decoded."""

    kind = "mean"

    def __init__(self, channels: int, avg_atoms: float):
        super().__init__(channels, avg_atoms)
        self.encode = nn.Sequential(nn.Linear(channels, 2 * channels), nn.SiLU())
        self.decode = _network(2 * channels, 1)

    def pool(self, graph: GraphIndex, hidden: Tensor) -> Tensor:
        """(nodes, 2 channels) -> (graphs, 2 channels)."""
        return mean_nodes(graph, hidden)

    def forward(
        self, graph: GraphIndex, x: Tensor, positions: Tensor, atomic_numbers: Tensor
    ) -> Tensor:
        return self.decode(self.pool(graph, self.encode(x[:, 0]))).squeeze(-1)


@READOUTS.register("max")
class MaxReadout(MeanReadout):
    """The largest value of every hidden feature in place of the mean.

    The pooling of the published SE(3)-Transformer on QM9.
    """

    def pool(self, graph: GraphIndex, hidden: Tensor) -> Tensor:
        return max_nodes(graph, hidden)


@READOUTS.register("attention")
class AttentionReadout(MeanReadout):
    """A learned weight of every atom for every hidden feature, a softmax over the molecule."""

    def __init__(self, channels: int, avg_atoms: float):
        super().__init__(channels, avg_atoms)
        self.logits = nn.Linear(2 * channels, 2 * channels)

    def pool(self, graph: GraphIndex, hidden: Tensor) -> Tensor:
        return sum_nodes(graph, node_softmax(graph, self.logits(hidden)) * hidden)


@READOUTS.register("dipole")
class DipoleReadout(Readout):
    """Dipole vector (graphs, 3) of charges that sum to zero and of atomic dipoles."""

    kind = "vector"

    def __init__(self, channels: int, avg_atoms: float):
        super().__init__(channels, avg_atoms)
        self.network = _network(channels, 1 + channels)

    def forward(
        self, graph: GraphIndex, x: Tensor, positions: Tensor, atomic_numbers: Tensor
    ) -> Tensor:
        """Charges times positions, and the dipoles of the atoms: (graphs, 3)."""
        charge, weights = self.network(x[:, 0]).split([1, self.channels], -1)

        # positions from their mean: the same as charges from their mean, at any origin
        place = positions - broadcast_nodes(graph, mean_nodes(graph, positions))
        return sum_nodes(graph, charge * place + _atomic_dipole(x, weights)) / self.avg_atoms**0.5


@READOUTS.register("dipole_norm")
class DipoleNormReadout(DipoleReadout):
    """Length of the dipole vector.

    Zero with zero gradient for a dipole that vanishes by symmetry.
    """

    kind = "scalar"

    def forward(
        self, graph: GraphIndex, x: Tensor, positions: Tensor, atomic_numbers: Tensor
    ) -> Tensor:
        return safe_length(super().forward(graph, x, positions, atomic_numbers))


@READOUTS.register("spatial_extent")
class SpatialExtentReadout(Readout):
    """Second moment of the charge about the centre of nuclear charge."""

    kind = "scalar"

    def __init__(self, channels: int, avg_atoms: float):
        super().__init__(channels, avg_atoms)
        self.network = _network(channels, 2 + channels)

    def forward(
        self, graph: GraphIndex, x: Tensor, positions: Tensor, atomic_numbers: Tensor
    ) -> Tensor:
        """(graphs,)."""
        charge, extent, weights = self.network(x[:, 0]).split([1, 1, self.channels], -1)

        # positions from the centre of nuclear charge
        nuclear = atomic_numbers.to(positions.dtype).unsqueeze(-1)
        place = positions - broadcast_nodes(graph, mean_nodes(graph, positions))
        centre = sum_nodes(graph, nuclear * place) / sum_nodes(graph, nuclear).clamp_min(1)
        place = place - broadcast_nodes(graph, centre)

        inner = (place * (charge * place + 2 * _atomic_dipole(x, weights))).sum(-1)
        return sum_nodes(graph, inner + extent.squeeze(-1)) / self.avg_atoms


def _atomic_dipole(x: Tensor, weights: Tensor) -> Tensor:
    """Degree 1 of features (nodes, rows, channels), mixed by weights (nodes, channels).

    Returns (nodes, 3).
    """
    return torch.einsum("nmc,nc->nm", x[:, 1:4], weights) / weights.shape[-1] ** 0.5
