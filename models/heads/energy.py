"""Energies and vectors of atoms, read from their features, and the constants of an energy.

The constants of an energy (reference energy of each element, shift, scale) are float64 buffers that
keep their digits whatever type the network is cast to; ``models.potential`` adds them.
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
        """Set energies by atomic number (eV), and scale and shift of the learned energy of an atom.

        Scale and shift are in eV. Elements that are left out become unknown. Raises ValueError for
        atomic numbers outside 1 .. 118, values that are not finite, and a scale that is not
        positive.
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
        """Constant part of the energy of every graph (graphs,) float64.

        Raises ValueError for an element that is not known.
        """
        refuse_unknown(atomic_numbers, self.known)
        return sum_nodes(graph, self.energy.index_select(0, atomic_numbers) + self.shift)


class EnergyHead(nn.Module):
    """Energy of an atom from its scalars: ``forward(x (nodes, rows, channels)) -> (nodes,)``."""

    def __init__(self, channels: int):
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x[:, 0]).squeeze(-1)


class VectorHead(nn.Module):
    """A vector of an atom from degree 1: ``forward(x (nodes, rows, channels)) -> (nodes, 3)``.

    As a force it is no derivative of an energy, so it does not conserve one.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.linear = nn.Linear(channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x[:, 1:4]).squeeze(-1)
