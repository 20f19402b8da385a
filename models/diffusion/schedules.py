"""Noise schedules of a variance-preserving diffusion in T steps, t = 0 .. T - 1, in float64.

A schedule gives abar_t, the share of the variance that is still the molecule's after step t:

    polynomial   a(u) = (1 - u^2)^2,  u = k / T for k = 0 .. T;  abar_t = prod_(k <= t + 1) of
                 a(k / T) / a((k - 1) / T), each ratio clipped to [0.001, 1];
                 then abar <- (1 - 2s) abar + s with s = 1e-5
    cosine       the same product with a(u) = cos^2(pi / 2 (u + 0.008) / 1.008), without s
    linear       abar_t = prod_(k <= t) (1 - b_k), b from 1e-4 to 0.02 in equal steps, both times
                 1000 / T

The rest follows (Ho et al. 2020, arXiv:2006.11239):

    alpha_t = abar_t / abar_(t - 1), alpha_0 = abar_0;  beta_t = 1 - alpha_t;  bbar_t = 1 - abar_t
    sigma_t^2 = beta_t bbar_(t - 1) / bbar_t    "lower": the variance if molecules were all alike
    sigma_t^2 = beta_t                          "upper": the variance if they were normal

Entry 0 of both is entry 1 of "lower"; the last step to t = 0 adds no noise. Sources: Hoogeboom et
al. 2022 (arXiv:2203.17003) for "polynomial", Nichol & Dhariwal 2021 for "cosine", Ho et al. for
"linear". Cost: T numbers, made once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from farfield.models.choices import Registry

LEAST_RATIO = 1e-3  # of abar from one step to the next
PRECISION = 1e-5  # s of the polynomial schedule
COSINE_OFFSET = 0.008
LINEAR_BETAS = (1e-4, 0.02)  # first and last, at 1000 steps
LINEAR_STEPS = 1000

# name -> T -> abar (T,) float64, falling, inside (0, 1)
SCHEDULES: Registry[Callable[[int], Tensor]] = Registry("noise schedule")

# name -> (beta, bbar), both (T,) -> sigma^2 (T,)
VARIANCES: Registry[Callable[[Tensor, Tensor], Tensor]] = Registry("variance")


@SCHEDULES.register("polynomial")
def polynomial_schedule(time_steps: int) -> Tensor:
    """abar (T,) of (1 - u^2)^2, kept away from 0 and 1 by 1e-5."""
    kept = _clipped_product(lambda u: (1 - u.square()).square(), time_steps)
    return (1 - 2 * PRECISION) * kept + PRECISION


@SCHEDULES.register("cosine")
def cosine_schedule(time_steps: int) -> Tensor:
    """abar (T,) of a squared cosine."""

    def squared_cosine(u: Tensor) -> Tensor:
        return torch.cos((u + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2).square()

    return _clipped_product(squared_cosine, time_steps)


@SCHEDULES.register("linear")
def linear_schedule(time_steps: int) -> Tensor:
    """abar (T,) of betas in equal steps; ValueError for so few steps that a beta reaches 1."""
    first, last = (beta * LINEAR_STEPS / time_steps for beta in LINEAR_BETAS)
    if not last < 1:
        least = math.floor(LINEAR_BETAS[1] * LINEAR_STEPS) + 1
        raise ValueError(
            f"time_steps of the linear schedule must be >= {least}, where its noise stays below "
            f"the whole variance, got {time_steps}"
        )
    return (1 - torch.linspace(first, last, time_steps, dtype=torch.float64)).cumprod(0)


def _clipped_product(curve: Callable[[Tensor], Tensor], time_steps: int) -> Tensor:
    """``curve`` at k / T, k = 1 .. T, as a product of ratios of which none is too small."""
    kept = curve(torch.arange(time_steps + 1, dtype=torch.float64) / time_steps)
    return (kept[1:] / kept[:-1]).clamp(LEAST_RATIO, 1).cumprod(0)


@VARIANCES.register("lower")
def lower_variance(beta: Tensor, beta_bar: Tensor) -> Tensor:
    """``beta_t bbar_(t - 1) / bbar_t`` (T,)."""
    variance = beta[1:] * beta_bar[:-1] / beta_bar[1:]
    return torch.cat([variance[:1], variance])


@VARIANCES.register("upper")
def upper_variance(beta: Tensor, beta_bar: Tensor) -> Tensor:
    """``beta_t`` (T,)."""
    return torch.cat([lower_variance(beta, beta_bar)[:1], beta[1:]])


@VARIANCES.register("zero")
def zero_variance(beta: Tensor, beta_bar: Tensor) -> Tensor:
    """No fresh noise: steps end near the mean of the molecules that fit, not at a draw of them."""
    return torch.zeros_like(beta)
