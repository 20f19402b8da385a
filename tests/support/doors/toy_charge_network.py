"""A network of one file with charges: a charge for every element, shared out to the total charge.

q_i = c(Z_i) + (Q - sum_j c(Z_j)) / N,    e_i = u(Z_i) + w Q / N,    dipole = sum_i q_i (r_i - mean)
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.elements import MAX_ATOMIC_NUMBER
from farfield.models.graph_ops import broadcast_nodes, sum_nodes
from farfield.models.network import NETWORKS, EnergyNetwork, Output
from farfield.models.potential import PotentialOptions


@dataclasses.dataclass(frozen=True)
class ChargedAtomsOptions(PotentialOptions):
    """No options of its own."""


@NETWORKS.register("charged_atoms")
class ChargedAtoms(EnergyNetwork):
    """Charges, dipole, and an energy of the total charge; Q is 0 where it is not known."""

    Options = ChargedAtomsOptions

    def __init__(self, options: ChargedAtomsOptions):
        super().__init__()
        self.options = options
        self.elements = nn.Embedding(MAX_ATOMIC_NUMBER + 1, 2)
        nn.init.zeros_(self.elements.weight)
        self.of_charge = nn.Parameter(torch.zeros(()))

    @property
    def optional_inputs(self) -> list[str]:
        return ["total_charge"]

    def outputs(self) -> dict[str, Output]:
        """The energy, and charges and dipole."""
        dipole = Output("graph", "vector", "e Angstrom")
        return {**super().outputs(), "charges": Output("node", "scalar", "e"), "dipole": dipole}

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        graph, positions = batch.graph, batch.positions
        atoms = graph.nodes_per_graph.to(positions)
        total = batch.graph_features.get("total_charge", torch.zeros_like(atoms)).to(positions)

        raw, energy = self.elements(batch.atomic_numbers).unbind(-1)  # (nodes,) each
        missing = (total - sum_nodes(graph, raw)) / atoms
        charges = raw + broadcast_nodes(graph, missing)

        mean = sum_nodes(graph, positions) / atoms.unsqueeze(-1)
        arms = positions - broadcast_nodes(graph, mean)  # (nodes, 3)
        still = 0.0 * positions.sum(-1)  # forces are derivatives: zeros here
        return {
            "atomic_energy": energy
            + self.of_charge * broadcast_nodes(graph, total / atoms)
            + still,
            "charges": charges,
            "dipole": sum_nodes(graph, charges.unsqueeze(-1) * arms),
        }
