"""What a network says about a structure: its energy, the forces on its atoms, its stress.

    E = sum_i ( reference[Z_i] + shift + scale e(x_i) ),
    F_i = -dE/dr_i,        sigma = (1 / V) dE/dstrain

with e a small network of the scalars of an atom. Total energies of quantum chemistry are large
(ethanol -4e3 eV, a carbon atom -1e3 eV) beside what is learned (0.01 eV): in float32 they lose
their last digits. So the constants live in float64, whatever type the network is cast to, the sum
over atoms is taken in float64, and energies leave as float64. Forces and stress leave in the type
of the positions.

Strain acts as r -> r (1 + strain) on positions and cell vectors alike (rows); its derivative is
taken for the symmetric part, so the stress is symmetric. Positive stress is tension: eV /
Angstrom^3, the sign of ASE.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from farfield.models.elements import MAX_ATOMIC_NUMBER, refuse_unknown
from farfield.models.graph_ops import GraphIndex, sum_nodes
from farfield.models.heads.scaling import ExactBuffers


class AtomicReference(ExactBuffers):
    """Energy of each element, which of them are known, and scale and shift of the learned part, as
    exact buffers of the checkpoint.

    Until :meth:`set` is called every element is known and has the energy 0.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer("energy", torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.float64))
        self.register_buffer("known", torch.arange(MAX_ATOMIC_NUMBER + 1) > 0)
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("shift", torch.zeros((), dtype=torch.float64))

    def set(self, energies: Mapping[int, float], scale: float = 1.0, shift: float = 0.0) -> None:
        """Energies by atomic number (eV), scale and shift of the learned energy of an atom (eV);
        elements left out are unknown.

        Raises ValueError for atomic numbers outside 1 .. 118, numbers that are not finite, and a
        scale that is not positive.
        """
        values, known = torch.zeros_like(self.energy), torch.zeros_like(self.known)
        for number, energy in energies.items():
            if not 1 <= number <= MAX_ATOMIC_NUMBER:
                raise ValueError(
                    f"atomic numbers are 1 .. {MAX_ATOMIC_NUMBER}, got a reference energy for "
                    f"{number}"
                )
            values[number], known[number] = float(energy), True
        numbers = torch.cat([values.cpu(), torch.tensor([scale, shift], dtype=torch.float64)])
        if not torch.isfinite(numbers).all() or scale <= 0:
            raise ValueError(
                "reference energies, scale and shift must be finite and scale > 0, got scale "
                f"{scale}, shift {shift}"
            )
        self.energy.copy_(values)
        self.known.copy_(known)
        self.scale.fill_(scale)
        self.shift.fill_(shift)

    def values(self) -> dict[int, float]:
        """Energies (eV) of all known elements."""
        return {
            number: float(self.energy[number]) for number in self.known.nonzero().flatten().tolist()
        }

    def forward(self, graph: GraphIndex, atomic_numbers: Tensor) -> Tensor:
        """Constant part of the energy of every graph (graphs,) float64. Raises ValueError for an
        element that is not known.
        """
        refuse_unknown(atomic_numbers, self.known)
        return sum_nodes(graph, self.energy.index_select(0, atomic_numbers) + self.shift)


class EnergyHead(nn.Module):
    """``forward(graph, x (nodes, rows, channels), atomic_numbers) -> (graphs,)`` float64, eV."""

    def __init__(self, channels: int):
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 1)
        )
        self.reference = AtomicReference()

    def forward(self, graph: GraphIndex, x: Tensor, atomic_numbers: Tensor) -> Tensor:
        learned = self.reference.scale * self.network(x[:, 0]).squeeze(-1).double()
        return sum_nodes(graph, learned) + self.reference(graph, atomic_numbers)


class VectorHead(nn.Module):
    """Forces straight from degree 1, no derivative: ``forward(x (nodes, rows, channels)) -> (nodes,
    3)``; not conservative.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.linear = nn.Linear(channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x[:, 1:4]).squeeze(-1)
