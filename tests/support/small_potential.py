"""A potential of a few operations that has all sums over edges of the C++, to be compiled."""

from __future__ import annotations

import torch
from torch import nn

from farfield.models.edges import edge_vectors, safe_length
from farfield.models.graph_ops import sum_edges
from farfield.models.kernels.edge_slots import EdgeSlots
from farfield.models.kernels.harmonic_sum import memory_efficient_sum
from farfield.models.network import EnergyNetwork
from farfield.models.potential import Potential, PotentialOptions
from farfield.models.so3.harmonics import solid_harmonics


class SmallNetwork(EnergyNetwork):
    """``e_i = tanh of scalars of two sums over edges``; 11 channels, a register and some more."""

    Options = PotentialOptions
    channels = 11

    def __init__(self):
        super().__init__()
        self.options = PotentialOptions()
        self.elements = nn.Embedding(10, self.channels)
        self.radial = nn.Linear(1, self.channels)

    def forward(self, given):
        graph = given.graph
        vectors = edge_vectors(given.positions, graph)
        fading = torch.exp(-safe_length(vectors)).unsqueeze(1)
        weights, x = self.radial(fading) * fading, self.elements(given.atomic_numbers)

        # degree 1 of the neighbours, its square, and a sum of rows
        slots = EdgeSlots(graph.src, graph.dst, graph.num_nodes, graph.num_nodes)
        harmonics = solid_harmonics(vectors, 1)[:, 1:]
        vector = memory_efficient_sum(slots, harmonics, weights, x.unsqueeze(1))
        scalars = vector.square().sum((1, 2)) + sum_edges(graph, weights)
        return {"atomic_energy": torch.tanh(scalars * x).sum(1)}


def small_potential(seed: int) -> Potential:
    torch.manual_seed(seed)
    made = Potential(SmallNetwork()).double().eval().requires_grad_(False)
    made.set_reference({1: -1.0, 6: -2.0 - seed, 8: -3.0})
    return made
