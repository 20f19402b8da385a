"""Experts: several networks read an atom, and a gate says which of them it listens to.

    s_e = gate_e(x_i)                                         scores of N experts, linear in scalars
    c_e = sum_(f != e) T((s_f - s_e) / delta)                 how many stand above e, smoothly
    w_e = softmax(s)_e S(k - c_e),   w_0 = 1 - sum_e w_e
    energy_i = w_0 energy_0(x_i) + sum_e w_e energy_e(x_i)

T(t) = S(1 + t) is 1 from t = 0 on and 0 up to t = -1; S is the quintic step from 0 at 0 to 1 at 1
with two continuous derivatives. At most k weights are not zero (top-k): the expert of rank k + 1
has k others at or above it, so c >= k. Well separated scores give the k best their softmax.

Nothing jumps. As two experts at the ranks k and k + 1 come closer than delta, the one still among
the best fades; where they change places both are exactly zero; then the other one grows. What the
chosen experts do not take goes to expert 0, which every atom shares: the head of a network without
experts. (Weights that are normalised among the best have no limit where all of the best are equal,
and for k = 1 they always jump from one expert to another.) The energy has two continuous
derivatives in the scores, so forces do not jump and are its slope.

Sources: Shazeer et al. 2017, "Outrageously large neural networks" (top-k gates, with noise and
jumps); Dai et al. 2024, DeepSeekMoE (a shared expert). There is no noise and no loss that balances
the load; a network gives the weights as ``experts``, and their means are among the errors of a
validation (``expert_0_load``, ...).

Cost: N scores and N^2 comparisons an atom; an expert computes the atoms that chose it, expert 0
all.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
from torch import Tensor, nn

from farfield.models.choices import check_at_least
from farfield.models.heads.energy import EnergyHead
from farfield.models.layers.smooth_step import smooth_step
from farfield.models.option_fields import LEADS
from farfield.models.own_draws import own_draws
from farfield.models.tracing import is_tracing

# delta: scores start with a spread of 1; the smaller delta is, the steeper is a change of experts,
# and the larger, the more atoms find too many experts equally good and hear the shared one alone
SWITCH = 0.5
MAX_EXPERTS = 64


@dataclasses.dataclass(frozen=True)
class ExpertOptions:
    """Number of experts, and how many an atom listens to at once.

    Raises ValueError in one line for a number of 1 or above 64, and unless fewer are chosen than
    there are.
    """

    number: Annotated[
        int,
        "number of experts for the energy of an atom (and its direct force), besides the one that "
        "all atoms share; 0: that one alone",
        LEADS,
    ] = 0
    top_k: Annotated[int, "number of experts that an atom listens to at most"] = 2

    def __post_init__(self):
        of = "of the experts"
        check_at_least(self, 0, ["number"], of)
        check_at_least(self, 1, ["top_k"], of)
        if self.number == 0:
            return

        # one expert alone would have nobody to choose from
        if not 2 <= self.number <= MAX_EXPERTS:
            raise ValueError(
                f"number {of} must be 2 .. {MAX_EXPERTS}, or 0 for none, got {self.number}"
            )
        if self.top_k >= self.number:
            raise ValueError(
                f"top_k {of} must be below their number {self.number}, got {self.top_k}; give "
                f"e.g. --experts {self.top_k + 2}"
            )


class Gate(nn.Module):
    """Weights of the experts: ``forward(scalars (nodes, channels)) -> (nodes, 1 + experts)``.

    Column 0 is the shared expert. Rows sum to 1; at most ``top_k`` further columns are not zero.
    """

    def __init__(self, channels: int, options: ExpertOptions):
        super().__init__()
        self.top_k = options.top_k
        self.score = nn.Linear(channels, options.number)
        nn.init.normal_(self.score.weight, std=channels**-0.5)
        nn.init.zeros_(self.score.bias)

    def forward(self, scalars: Tensor) -> Tensor:
        """(nodes, channels) -> (nodes, 1 + experts)."""
        scores = self.score(scalars)

        # (nodes, experts): how many others stand above each, itself taken off
        difference = scores.unsqueeze(1) - scores.unsqueeze(2)
        above = smooth_step(1 + difference / SWITCH).sum(2) - 1
        weights = scores.softmax(1) * smooth_step(self.top_k - above)
        return torch.cat([1 - weights.sum(1, keepdim=True), weights], 1)

    def extra_repr(self) -> str:
        """Number of experts that are chosen."""
        return f"top_k={self.top_k}"


class Experts(nn.Module):
    """A gate, and experts for energies and, if ``vectors``, for vectors of atoms.

    ``forward(x, energy, vectors)`` mixes them with what the shared expert says; all arguments and
    results are tensors of atoms.
    """

    def __init__(self, channels: int, options: ExpertOptions, vectors: bool):
        super().__init__()
        self.gate = Gate(channels, options)
        self.energies = nn.ModuleList(EnergyHead(channels) for _ in range(options.number))
        self.vectors = nn.Linear(channels, options.number, bias=False) if vectors else None

    def forward(self, x: Tensor, energy: Tensor, vectors: Tensor | None) -> dict[str, Tensor]:
        """Features (nodes, rows, channels), energy (nodes,) and vectors (nodes, 3) or None of the
        shared expert -> ``atomic_energy``, ``direct_forces`` where there are vectors, and
        ``experts`` (nodes, 1 + experts), the weights.
        """
        weights = self.gate(x[:, 0])
        shared, chosen = weights[:, 0], weights[:, 1:]
        out = {"atomic_energy": shared * energy + self._energy(x, chosen), "experts": weights}
        if vectors is not None:
            # degree 1 by every expert, (nodes, 3, experts)
            found = (self.vectors(x[:, 1:4]) * chosen.unsqueeze(1)).sum(2)
            out["direct_forces"] = shared.unsqueeze(1) * vectors + found
        return out

    def _energy(self, x: Tensor, weights: Tensor) -> Tensor:
        """Sum over the experts (nodes,), each asked for the atoms that chose it."""
        if is_tracing():  # who chose an expert depends on the atoms
            energies = torch.stack([expert(x) for expert in self.energies], 1)
            return (energies * weights).sum(1)

        energy = torch.zeros_like(weights[:, 0])
        for expert, weight in zip(self.energies, weights.unbind(1), strict=True):
            atoms = (weight.detach() != 0).nonzero().squeeze(1)
            if len(atoms):
                found = weight.index_select(0, atoms) * expert(x.index_select(0, atoms))
                energy = energy.index_add(0, atoms, found)
        return energy


def experts(channels: int, options: ExpertOptions, vectors: bool) -> Experts | None:
    """The experts of the options, None where there are none; they change the first weights of
    nothing else.

    vectors: whether forces are read directly.
    """
    if options.number == 0:
        return None
    with own_draws():
        return Experts(channels, options, vectors)
