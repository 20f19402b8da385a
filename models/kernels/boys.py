"""Boys functions: the Coulomb energy of Gaussian charges, smooth in the squared length.

    F_m(x) = int_0^1 u^(2 m) exp(-x u^2) du,        dF_m / dx = -F_(m+1)
    erf(s r) / r = (2 s / sqrt(pi)) F_0(s^2 r^2)

Written with F_0 the kernel has all derivatives at r = 0, where ``erf(r) / r`` and its automatic
derivatives are 0 / 0. All orders come from one transcendental function,

    x >= 1     F_0 = sqrt(pi) erf(sqrt x) / (2 sqrt x),  F_(m+1) = ((2 m + 1) F_m - exp(-x)) / 2 x
    x < 1      F_M = sum_k (-x)^k / (k! (2 M + 2 k + 1)),  F_m = (2 x F_(m+1) + exp(-x)) / (2 m + 1)

each recursion in the direction in which it is stable. Source: Helgaker, Jorgensen & Olsen,
Molecular Electronic-Structure Theory, 9.8.

Cost: one erf and one exp a value; the series only for those x < 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import Function

from farfield.models.so3.irreps import table

SERIES_BELOW = 1.0
LARGEST_EXPONENT = 80.0  # beyond, exp(-x) is nothing beside F_m, and denormal numbers are slow
SERIES_TERMS = {torch.float32: 10, torch.float64: 18}  # the next term is below one rounding


def boys_values(x: Tensor, highest: int) -> list[Tensor]:
    """``F_0 .. F_highest`` of x (...) >= 0, each (...), without gradients."""
    with torch.no_grad():
        falling = torch.exp(-x.clamp_max(LARGEST_EXPONENT))

        # from erf, upwards; small x are replaced below
        away = x.clamp_min(SERIES_BELOW)
        root = away.sqrt()
        values = [torch.erf(root).mul_(math.sqrt(math.pi) / 2).div_(root)]
        for m in range(highest):
            values.append(((2 * m + 1) * values[m]).sub_(falling).div_(away).mul_(0.5))

        # from the series of the highest order, downwards
        small = (x < SERIES_BELOW).nonzero(as_tuple=True)
        if small[0].numel():
            near, low = x[small], falling[small]
            coefficients = _series(highest, x.dtype, x.device)
            powers = near.unsqueeze(-1).expand(-1, len(coefficients) - 1).cumprod(-1)
            value = torch.addmv(coefficients[:1], powers, coefficients[1:])
            values[highest][small] = value
            for m in reversed(range(highest)):
                value = (2 * near * value + low) / (2 * m + 1)
                values[m][small] = value
        return values


@table
def _series(order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Coefficients of the powers of x in F_order."""
    terms = [
        (-1) ** k / (math.factorial(k) * (2 * order + 2 * k + 1))
        for k in range(SERIES_TERMS[dtype])
    ]
    return torch.tensor(terms, dtype=dtype, device=device)


class _Boys(Function):
    """F_m with derivatives of any order; ``higher`` holds F_(m+1), ... as far as they are known."""

    @staticmethod
    def forward(ctx, x: Tensor, order: int, higher: tuple[Tensor, ...]) -> Tensor:
        """(...) -> (...)."""
        ctx.order = order
        ctx.save_for_backward(x)
        if not higher:
            # two derivatives follow where forces are trained
            ahead = 2 if x.requires_grad else 0
            higher = tuple(boys_values(x, order + ahead)[order:])
        ctx.higher = higher[1:]
        return higher[0].detach()

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return -cotangent * _Boys.apply(x, ctx.order + 1, ctx.higher), None, None


def boys(x: Tensor) -> Tensor:
    """``F_0`` of x (...) >= 0, float32 or float64: (...), differentiable to any order."""
    return _Boys.apply(x, 0, ())
