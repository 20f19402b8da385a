"""What an atom and a pair of atoms are, for networks on all pairs of a structure.

    h_i   = table[Z_i] + A (electron configuration of Z_i) + inputs of the structure
    e_ij  = MLP(Gaussians of |r_ij|) + B (waves of the direction of r_ij),      r_ij = x_j - x_i
    x_ij  = e_ij + C h_i + D h_j

Positions enter by differences, so no translation changes a value. Length and direction are soft,

    |r| = sqrt(r^2 + s^2),      u = r / |r|,      s = 0.01 Angstrom,

with all derivatives finite everywhere: a pair (i, i), or two atoms at one place, has no direction.

Azimuth and polar angle, the published choice, have no derivative on the polar axis, and waves of
the azimuth jump where it passes 180 degrees: no force is the derivative of such an energy. The
waves here are (w / 4) sin(2 pi u_a / w) and (w / 4) (cos(2 pi u_a / w) - 1) of the three direction
cosines u_a, with lengths w on a geometric grid from 0.25 to 4. All have the same largest slope. The
cosine is counted from 1, so that a pair without direction has waves of zero.

Cost: linear in pairs.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.elements import MAX_ATOMIC_NUMBER
from farfield.models.layers.conditioning import Conditioning, parse_inputs
from farfield.models.layers.electron_configuration import configuration_table
from farfield.models.layers.unit_linear import unit_linear, unit_perceptron

SOFTNESS = 1e-2  # Angstrom
SHORTEST_WAVE, LONGEST_WAVE = 0.25, 4.0  # of a direction cosine, which runs from -1 to 1
LARGEST_CENTRE = 6.0  # Angstrom, of the Gaussians before training

ELECTRONIC_STATE = ("total_charge", "spin")  # of a structure, read where the data have them


def state_inputs(condition: str | None) -> list[str]:
    """Inputs of :data:`ELECTRONIC_STATE` that ``condition`` does not ask for anyway."""
    return [name for name in ELECTRONIC_STATE if name not in parse_inputs(condition)]


class AtomEmbedding(nn.Module):
    """What an atom is, without its surroundings: ``forward(batch) -> (nodes, width)``.

    condition: further inputs by name, joined by commas, or None; see ``layers/conditioning.py``.
    Total charge and spin count as 0 in a batch that does not have them.
    """

    def __init__(self, width: int, condition: str | None):
        super().__init__()
        self.elements = nn.Embedding(MAX_ATOMIC_NUMBER + 1, width)
        table = configuration_table()
        self.register_buffer("configurations", table, persistent=False)
        self.electrons = unit_linear(table.shape[1], width, bias=False)
        self.optional = state_inputs(condition)
        self.inputs = Conditioning([*self.optional, *parse_inputs(condition)], width)

    def forward(self, batch: AtomBatch) -> Tensor:
        """Features (nodes, width) of the atoms of a batch."""
        electrons = self.configurations.index_select(0, batch.atomic_numbers)
        atoms = self.elements(batch.atomic_numbers) + self.electrons(electrons)

        absent = dict.fromkeys(self.optional, batch.positions.new_zeros(batch.num_graphs))
        known = dataclasses.replace(batch, graph_features=absent | batch.graph_features)
        return atoms + self.inputs(known)


class LearnedGaussians(nn.Module):
    """``exp(-((r - c_n) / w_n)^2 / 2)`` with learned centres and widths: (...) -> (..., size).

    Centres start on an even grid of 0 .. 6 Angstrom, widths at its step.
    """

    def __init__(self, size: int):
        super().__init__()
        self.centre = nn.Parameter(torch.linspace(0, LARGEST_CENTRE, size))
        step = LARGEST_CENTRE / max(size - 1, 1)
        self.log_width = nn.Parameter(torch.full((size,), math.log(step)))

    def forward(self, length: Tensor) -> Tensor:
        scaled = (length.unsqueeze(-1) - self.centre) * torch.exp(-self.log_width)
        return torch.exp(-0.5 * scaled.square())


class DirectionWaves(nn.Module):
    """Waves of the direction cosines: soft unit vectors (..., 3) -> (..., 6 waves).

    waves: number of wave lengths, >= 1.
    """

    def __init__(self, waves: int):
        super().__init__()
        lengths = torch.logspace(math.log10(LONGEST_WAVE), math.log10(SHORTEST_WAVE), waves)
        self.register_buffer("wave_number", 2 * math.pi / lengths, persistent=False)
        self.register_buffer("height", (lengths / LONGEST_WAVE).repeat(6), persistent=False)
        self.size = 6 * waves

    def forward(self, directions: Tensor) -> Tensor:
        phase = (directions.unsqueeze(-1) * self.wave_number).flatten(-2)
        return self.height * torch.cat([phase.sin(), phase.cos() - 1], -1)


class PairEmbedding(nn.Module):
    """Features of all pairs of padded structures.

    ``forward(positions (graphs, n, 3), atoms (graphs, n, width)) -> (graphs, n, n, width)``; the
    pair [i, j] points from atom i to atom j. gaussians: of the distance. waves: lengths of the
    waves of the direction, 0 for none; the features then do not see how the structure is turned.
    """

    def __init__(self, width: int, gaussians: int, waves: int):
        super().__init__()
        self.distance = nn.Sequential(
            LearnedGaussians(gaussians),
            # the squares of all Gaussians at one point add up to sqrt(pi)
            *unit_perceptron(gaussians, width, width, gain=(gaussians / math.pi**0.5) ** 0.5),
        )
        self.direction = None
        if waves:
            found = DirectionWaves(waves)
            self.direction = nn.Sequential(found, unit_linear(found.size, width, bias=False))
        self.first = unit_linear(width, width, bias=False)
        self.second = unit_linear(width, width, bias=False)

    def forward(self, positions: Tensor, atoms: Tensor) -> Tensor:
        """positions (graphs, n, 3), Angstrom; atoms (graphs, n, width) -> (graphs, n, n, width)."""
        vectors = positions.unsqueeze(1) - positions.unsqueeze(2)
        # the steep slopes of a pair (i, i) would cancel to rounding only
        same = torch.eye(positions.shape[1], dtype=torch.bool, device=positions.device)
        vectors = vectors.masked_fill(same.unsqueeze(-1), 0.0)
        length = (vectors.square().sum(-1) + SOFTNESS**2).sqrt()
        pairs = self.distance(length)
        if self.direction is not None:
            pairs = pairs + self.direction(vectors / length.unsqueeze(-1))
        return pairs + self.first(atoms).unsqueeze(2) + self.second(atoms).unsqueeze(1)
