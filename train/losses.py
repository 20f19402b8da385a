"""Losses between predictions and targets, by name.

Each entry maps residuals r = prediction - target (..., components) and a scale s to a non-negative
cost per component:

| name | cost | for |
|---|---|---|
| mse | r^2 | the published protocols |
| mae | abs(r) | medians |
| huber | r^2 inside s, s (2 abs(r) - s) outside | a few wild samples; equals mse as s grows |
| pseudo_huber | 2 s^2 (sqrt(1 + (r/s)^2) - 1) | the same, smooth (Charbonnier) |
| cauchy | s^2 log(1 + (r/s)^2) | heavy tails: the gradient of an outlier falls as 1/r |
| vector_norm | length of r over the last axis | forces: an atom counts by its error's length |

All but mae and vector_norm start as r^2, so that the scale of the loss does not change with the
choice. Cost: one pass over r.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from farfield.models.choices import Registry, check_choice

LOSSES: Registry[Callable[[Tensor, float], Tensor]] = Registry("loss")


@LOSSES.register("mse")
def mse(residual: Tensor, scale: float) -> Tensor:
    """r^2."""
    return residual.square()


@LOSSES.register("mae")
def mae(residual: Tensor, scale: float) -> Tensor:
    """abs(r)."""
    return residual.abs()


@LOSSES.register("huber")
def huber(residual: Tensor, scale: float) -> Tensor:
    """r^2 inside ``scale``, then the tangent."""
    size = residual.abs()
    return torch.where(size < scale, residual.square(), scale * (2 * size - scale))


@LOSSES.register("pseudo_huber")
def pseudo_huber(residual: Tensor, scale: float) -> Tensor:
    """Smooth form of `huber`."""
    return 2 * scale**2 * ((1 + (residual / scale).square()).sqrt() - 1)


@LOSSES.register("cauchy")
def cauchy(residual: Tensor, scale: float) -> Tensor:
    """Log-likelihood of a Cauchy (Lorentz) distribution, scaled to r^2 at the origin."""
    return scale**2 * (residual / scale).square().log1p()


@LOSSES.register("vector_norm")
def vector_norm(residual: Tensor, scale: float) -> Tensor:
    """Euclidean length over the last axis, with a zero gradient at zero length."""
    squared = residual.square().sum(-1)
    safe = torch.where(squared > 0, squared, torch.ones_like(squared))
    return torch.where(squared > 0, safe.sqrt(), squared)


class WeightedLoss:
    """Weighted mean over named parts: sum_k w_k mean(cost(prediction_k - target_k)) / sum_k w_k.

    With equal weights and parts of one shape this is the mean over the stacked parts (the public
    N-body loss for ``mse``).

    Arguments
        name     key of `LOSSES`
        weights  part -> weight >= 0, at least one of them positive
        scale    s of the robust losses, in the units of the targets
    """

    def __init__(self, name: str, weights: Mapping[str, float], scale: float = 1.0):
        _check_weights(weights)
        if not scale > 0:
            raise ValueError(f"loss scale must be > 0, got {scale}")
        self.name, self.cost = name, LOSSES.find(name)
        self.weights, self.scale = dict(weights), scale

    def __call__(
        self, prediction: Mapping[str, Tensor], target: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (scalar) and its parts (detached scalars, unweighted)."""
        parts = {
            name: self.cost(prediction[name] - target[name], self.scale).mean()
            for name in self.weights
        }
        weighted = sum(weight * parts[name] for name, weight in self.weights.items())
        total = weighted / sum(self.weights.values())
        return total, {name: value.detach() for name, value in parts.items()}


PARTS_OF_ATOMS = ("forces", "charges")  # of a `StructureLoss`; the others belong to structures


class StructureLoss:
    """Weighted loss of the labels of structures, from errors in eV, Angstrom and e:

        L = w_F mean_atoms cost(dF) + w_E a sum_s cost(dE_s / d_s) / N
          + w_S a sum_s cost(v_s dS_s) / N
          + w_q mean_atoms cost(dq) + w_mu a sum_s cost(dmu_s) / N

    of forces, energies, stresses, partial charges and dipoles, with N the atoms of the batch and
    d_s = 1 (energy error of a structure) or its number of atoms (error per atom). An error of the
    stress is taken times v_s, which is 1 or the volume per atom (an error in eV, like energies per
    atom, whatever the density). ``a`` is the mean number of atoms of the training structures, so
    that the sums are means over structures. Every part is a sum over the batch divided by N:
    batches weighted by their atoms give the loss of one large batch, whatever their composition.

    Arguments
        weights        part ("energy", "forces", "stress", "charges", "dipole") -> weight >= 0, at
                       least one positive; parts of weight 0 are not asked for
        average_atoms  a
        costs          part -> key of `LOSSES` (stress as one vector of nine numbers)
        scales         part -> s of its cost, in the units of the part
        per_atom       d_s is the number of atoms
        stress_per_atom  v_s is the volume per atom, Angstrom^3
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        average_atoms: float,
        costs: Mapping[str, str],
        scales: Mapping[str, float],
        per_atom: bool = False,
        stress_per_atom: bool = False,
    ):
        _check_weights(weights)
        for part, name in costs.items():
            check_choice(f"loss of the {part}", name, LOSSES)
        if min(scales.values()) <= 0:
            raise ValueError(f"loss scales must be > 0, got {dict(scales)}")
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.average_atoms, self.per_atom = average_atoms, per_atom
        self.stress_per_atom = stress_per_atom
        self.costs, self.scales = dict(costs), dict(scales)

    def __call__(
        self,
        errors: Mapping[str, Tensor],
        atoms: Tensor,
        factors: Mapping[str, float] | None = None,
        volumes: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (scalar) and its unweighted parts (detached).

        errors   energy (structures,), forces (atoms, 3), stress (structures, 3, 3), charges
                 (atoms,), dipole (structures, 3)
        atoms    number of atoms of each structure (structures,)
        factors  part -> factor of its weight in this step
        volumes  of the cell of each structure (structures,), Angstrom^3, 0 of open ones; needed
                 for a stress per atom
        """
        parts = {}
        for name in self.weights:
            rows = self._rows(name, errors[name], atoms)
            if name == "stress" and self.stress_per_atom:
                rows = rows * (volumes / atoms).unsqueeze(1)
            cost = self.costs_of_rows(name, rows)
            part = cost.sum() / atoms.sum()
            parts[name] = part if name in PARTS_OF_ATOMS else part * self.average_atoms

        total = sum(
            (factors or {}).get(name, 1.0) * weight * parts[name]
            for name, weight in self.weights.items()
        )
        return total, {name: value.detach() for name, value in parts.items()}

    def _rows(self, name: str, error: Tensor, atoms: Tensor) -> Tensor:
        """Errors of a part as (rows, components): an atom or a structure a row."""
        rows = error.flatten(1) if error.dim() > 1 else error.unsqueeze(1)
        return rows / atoms.unsqueeze(1) if self.per_atom and name == "energy" else rows

    def costs_of_rows(self, name: str, error: Tensor) -> Tensor:
        """Cost of every row of ``error`` (rows, components), averaged over components (rows,)."""
        cost = LOSSES[self.costs[name]](error, self.scales[name])
        return cost if cost.dim() == 1 else cost.mean(1)


def _check_weights(weights: Mapping[str, float]) -> None:
    if min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise ValueError(f"loss weights must be >= 0 and not all zero, got {dict(weights)}")
