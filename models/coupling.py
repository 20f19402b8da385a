"""Coupling tables of SO(3) in the real basis of e3nn: Clebsch-Gordan isometries; and Wigner's 6j symbols, which need no basis.

All tables come from ``e3nn.o3.wigner_3j`` (real basis, polar axis y, l = 1 in the order x, y, z), are built in float64 and cached.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import torch
from e3nn import o3
from torch import Tensor

from models.irreps import table


@table
def clebsch_gordan(l1: int, l2: int, l3: int) -> Tensor:
    """Real Clebsch-Gordan tensor C (2 l1 + 1, 2 l2 + 1, 2 l3 + 1) float64 with ``sum_{ab} C_abm C_abn = delta_mn``.

    Raises ValueError outside the triangle ``|l1 - l2| <= l3 <= l1 + l2``.
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"degrees ({l1}, {l2}, {l3}) violate the triangle |l1 - l2| <= l3 <= l1 + l2")
    return o3.wigner_3j(l1, l2, l3, dtype=torch.float64) * (2 * l3 + 1) ** 0.5


@functools.cache
def wigner_6j(a: int, b: int, c: int, d: int, e: int, f: int) -> float:
    """Wigner's 6j symbol ``{a b c; d e f}`` of integer degrees, by Racah's sum in exact integers; 0 where a triangle is violated.

    The triads are (a b c), (a e f), (d b f), (d e c) (Edmonds, Angular Momentum in Quantum Mechanics, eq. 6.3.7). Raises ValueError for
    negative degrees.
    """
    if min(a, b, c, d, e, f) < 0:
        raise ValueError(f"degrees of a 6j symbol must be >= 0, got {(a, b, c, d, e, f)}")
    triads = [(a, b, c), (a, e, f), (d, b, f), (d, e, c)]
    if any(not abs(i - j) <= k <= i + j for i, j, k in triads):
        return 0.0
    lower = [sum(triad) for triad in triads]
    upper = [a + b + d + e, b + c + e + f, c + a + f + d]
    series = sum(
        (-1) ** t
        * Fraction(math.factorial(t + 1), math.prod(math.factorial(t - s) for s in lower) * math.prod(math.factorial(s - t) for s in upper))
        for t in range(max(lower), min(upper) + 1)
    )
    weight = math.prod(
        Fraction(math.factorial(i + j - k) * math.factorial(i - j + k) * math.factorial(j + k - i), math.factorial(i + j + k + 1))
        for i, j, k in triads
    )
    return math.copysign(math.sqrt(series * series * weight), series)
