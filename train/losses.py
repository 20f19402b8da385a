"""Losses between predictions and targets, by name.

Each entry maps residuals r = prediction - target (..., components) and a scale s to a non-negative cost per component:

| name | cost | for |
|---|---|---|
| mse | r^2 | the published protocols |
| mae | abs(r) | medians |
| huber | r^2 inside s, s (2 abs(r) - s) outside | a few wild samples; equals mse as s grows |
| pseudo_huber | 2 s^2 (sqrt(1 + (r/s)^2) - 1) | the same, smooth (Charbonnier) |
| cauchy | s^2 log(1 + (r/s)^2) | heavy tails: the gradient of an outlier falls as 1/r |
| vector_norm | length of r over the last axis | forces: every atom counts by the length of its error |

All but mae and vector_norm start as r^2, so that the scale of the loss does not change with the choice. Cost: one pass over r.
"""
from collections.abc import Mapping

import torch
from torch import Tensor


def mse(residual: Tensor, scale: float) -> Tensor:
    """r^2."""
    return residual.square()


def mae(residual: Tensor, scale: float) -> Tensor:
    """abs(r)."""
    return residual.abs()


def huber(residual: Tensor, scale: float) -> Tensor:
    """r^2 inside ``scale``, then the tangent."""
    size = residual.abs()
    return torch.where(size < scale, residual.square(), scale * (2 * size - scale))


def pseudo_huber(residual: Tensor, scale: float) -> Tensor:
    """Smooth form of `huber`."""
    return 2 * scale**2 * ((1 + (residual / scale).square()).sqrt() - 1)


def cauchy(residual: Tensor, scale: float) -> Tensor:
    """Log-likelihood of a Cauchy (Lorentz) distribution, scaled to r^2 at the origin."""
    return scale**2 * (residual / scale).square().log1p()


def vector_norm(residual: Tensor, scale: float) -> Tensor:
    """Euclidean length over the last axis, with a zero gradient at zero length."""
    squared = residual.square().sum(-1)
    safe = torch.where(squared > 0, squared, torch.ones_like(squared))
    return torch.where(squared > 0, safe.sqrt(), squared)


LOSSES = {"mse": mse, "mae": mae, "huber": huber, "pseudo_huber": pseudo_huber, "cauchy": cauchy, "vector_norm": vector_norm}


class WeightedLoss:
    """Weighted mean over named parts: sum_k w_k mean(cost(prediction_k - target_k)) / sum_k w_k.

    With equal weights and parts of one shape this is the mean over the stacked parts (the public N-body loss for ``mse``).

    Arguments
        name     key of `LOSSES`
        weights  part -> weight >= 0, at least one of them positive
        scale    s of the robust losses, in the units of the targets
    """

    def __init__(self, name: str, weights: Mapping[str, float], scale: float = 1.0):
        if name not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}")
        if not scale > 0:
            raise ValueError(f"loss scale must be > 0, got {scale}")
        if min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise ValueError(f"loss weights must be >= 0 and not all zero, got {dict(weights)}")
        self.cost, self.weights, self.scale = LOSSES[name], dict(weights), scale

    def __call__(self, prediction: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (scalar) and its parts (detached scalars, unweighted)."""
        parts = {name: self.cost(prediction[name] - target[name], self.scale).mean() for name in self.weights}
        total = sum(weight * parts[name] for name, weight in self.weights.items()) / sum(self.weights.values())
        return total, {name: value.detach() for name, value in parts.items()}
