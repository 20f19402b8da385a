"""Couplings of SO(3) in the real basis of e3nn.

Clebsch-Gordan isometries, Wigner's 6j symbols, and the layer that multiplies two features. All
tables come from ``e3nn.o3.wigner_3j`` (real basis, polar axis y, l = 1 in the order x, y, z), are
built in float64 and cached. e3nn is imported when the first table is built (2 s).

Cost of the layer: nodes x heads x channels x (path rows x pairs of rows) multiply-adds.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import torch
from torch import Tensor, nn

from farfield.models.so3.irreps import degree_slice, num_rows, table


@table
def clebsch_gordan(l1: int, l2: int, l3: int) -> Tensor:
    """Real Clebsch-Gordan tensor C (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), float64.

    An isometry: ``sum_ab C_abm C_abn = delta_mn``. Raises ValueError outside the triangle ``|l1 -
    l2| <= l3 <= l1 + l2``.
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(
            f"degrees ({l1}, {l2}, {l3}) violate the triangle |l1 - l2| <= l3 <= l1 + l2"
        )
    from e3nn import o3  # here, because the import takes longer than most uses of this module

    return o3.wigner_3j(l1, l2, l3, dtype=torch.float64) * (2 * l3 + 1) ** 0.5


@functools.cache
def wigner_6j(a: int, b: int, c: int, d: int, e: int, f: int) -> float:
    """Wigner's 6j symbol ``{a b c; d e f}`` of integer degrees, 0 where a triangle is violated.

    By Racah's sum in exact integers (Edmonds, Angular Momentum in Quantum Mechanics, eq. 6.3.7),

        Delta(abc) Delta(aef) Delta(dbf) Delta(dec)
            sum_t (-1)^t (t + 1)! / (prod_triads (t - s)! prod_upper (s - t)!).

    Raises ValueError for negative degrees.
    """
    if min(a, b, c, d, e, f) < 0:
        raise ValueError(f"degrees of a 6j symbol must be >= 0, got {(a, b, c, d, e, f)}")
    triads = [(a, b, c), (a, e, f), (d, b, f), (d, e, c)]
    if any(not abs(i - j) <= k <= i + j for i, j, k in triads):
        return 0.0

    # the sum over t
    lower = [sum(triad) for triad in triads]
    upper = [a + b + d + e, b + c + e + f, c + a + f + d]
    series = sum(
        (-1) ** t
        * Fraction(
            math.factorial(t + 1),
            math.prod(math.factorial(t - s) for s in lower)
            * math.prod(math.factorial(s - t) for s in upper),
        )
        for t in range(max(lower), min(upper) + 1)
    )

    # the squares of the four triangle coefficients Delta
    weight = math.prod(
        Fraction(
            math.factorial(i + j - k) * math.factorial(i - j + k) * math.factorial(j + k - i),
            math.factorial(i + j + k + 1),
        )
        for i, j, k in triads
    )
    return math.copysign(math.sqrt(series * series * weight), series)


def _paths(kernel_lmax: int, value_lmax: int, lmax: int) -> list[tuple[int, int, int]]:
    """Paths (kernel degree, value degree, output degree) that keep parity."""
    degrees = [
        (l, lam, out)
        for l in range(kernel_lmax + 1)
        for lam in range(value_lmax + 1)
        for out in range(lmax + 1)
    ]
    return [
        (l, lam, out)
        for l, lam, out in degrees
        if abs(l - lam) <= out <= l + lam and (l + lam + out) % 2 == 0
    ]


@table
def _coupling_tables(
    kernel_lmax: int, value_lmax: int, lmax: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pairs of rows to the rows of all paths, and their sum into output rows.

    Returns couple (path rows, kernel rows x value rows) and collect (rows, path rows). A degree
    that n paths reach is divided by the root of n.
    """
    paths = _paths(kernel_lmax, value_lmax, lmax)
    couple, collect = [], []
    for l, lam, out in paths:
        block = torch.zeros(
            2 * out + 1, num_rows(kernel_lmax), num_rows(value_lmax), dtype=torch.float64
        )
        block[:, degree_slice(l), degree_slice(lam)] = clebsch_gordan(l, lam, out).permute(2, 0, 1)
        couple.append(block.flatten(1))

        count = sum(path[2] == out for path in paths)
        gather = torch.zeros(num_rows(lmax), 2 * out + 1, dtype=torch.float64)
        gather[degree_slice(out)] = torch.eye(2 * out + 1, dtype=torch.float64) / count**0.5
        collect.append(gather)
    return torch.cat(couple).to(device, dtype), torch.cat(collect, 1).to(device, dtype)


class KernelCoupling(nn.Module):
    """Tensor product of kernel rows and value rows into every output degree up to lmax.

    One weight for every path, head and channel. Paths (l, lam, L) have ``|l - lam| <= L <= l +
    lam`` and l + lam + L even; a degree that no path reaches is zero. Weights start at variance 1,
    and each degree is divided by the root of its number of paths.
    """

    def __init__(self, kernel_lmax: int, value_lmax: int, lmax: int, heads: int, channels: int):
        super().__init__()
        self.lmaxes, self.channels = (kernel_lmax, value_lmax, lmax), channels
        self.paths = _paths(*self.lmaxes)
        path_of_row = [
            number for number, (_, _, out) in enumerate(self.paths) for _ in range(2 * out + 1)
        ]
        self.register_buffer("path_of_row", torch.tensor(path_of_row), persistent=False)
        self.weight = nn.Parameter(torch.randn(heads, len(self.paths), channels))

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, heads, kernel rows, value rows channels) -> (nodes, rows, heads channels)."""
        # (path rows, heads, channels)
        weights = self.weight.transpose(0, 1).index_select(0, self.path_of_row)

        # a scalar kernel couples nothing: the paths are the value rows themselves
        if x.shape[2] == 1:
            # (nodes, value rows, heads, channels)
            values = x.squeeze(2).unflatten(2, (-1, self.channels)).transpose(1, 2)
            messages = (values[:, : len(weights)] * weights).flatten(2)
            return nn.functional.pad(messages, (0, 0, 0, num_rows(self.lmaxes[2]) - len(weights)))

        # all nodes, heads and channels are columns of one product with each table
        couple, collect = _coupling_tables(*self.lmaxes, x.dtype, x.device)
        columns = (x.shape[0], x.shape[1], self.channels)
        pairs = x.unflatten(3, (-1, self.channels)).permute(2, 3, 0, 1, 4)
        coupled = couple @ pairs.reshape(couple.shape[1], math.prod(columns))
        messages = coupled.unflatten(1, columns) * weights.unsqueeze(1)
        return (collect @ messages.flatten(1)).unflatten(1, columns).transpose(0, 1).flatten(2)
