"""Spherical Bessel functions of the first kind ``j_0 .. j_lmax`` at every real x, and derivatives.

Two ways to a value, each used only where it is stable. Above the turning point (l > x) values are
products of ratios, and these come from a continued fraction run downward from a degree so high that
its start is forgotten (Gautschi, SIAM Review 9, 24, 1967). Up to the turning point upward
recurrence is stable (DLMF 10.51):

    q_l = 2 l + 1 - x^2 / q_(l+1),     j_l = j_(l-1) x / q_l                      l > x
                                       j_l = (2 l - 1) / x j_(l-1) - j_(l-2)      l <= x.

They meet where ``j_l`` is largest and far from its zeros: nothing cancels or overflows, no sum
normalises, and values underflow smoothly to zero for x << l.

The same holds for ``G_l = (2 l + 1)!! j_l(x) / x^l``, a smooth function of x^2, with ``G_l =
G_(l-1) (2 l + 1) / q_l``. For few degrees, as between pairs of atoms, the power series of the
highest two and downward recurrence, ``G_(l-2) = G_(l-1) - x^2 G_l / (4 l^2 - 1)``, replace the
fraction. Derivatives are these functions again, hence right at x = 0 as well:

    j_l' = (l j_(l-1) - (l + 1) j_(l+1)) / (2 l + 1),
    d G_l / d(x^2) = -G_(l+1) / (2 (2 l + 3)).

Cost: one pass down and one up over l, vectorised over x, 5 to 10 ns per value; the gradient
computes the values once more with one more degree and keeps nothing but x. Results are transposed
views (the degree has the largest stride). ``bessel_mixture``, a sum over many wave numbers, keeps
values instead, and those of its derivatives as far as it is told to look ahead.

Error (``benchmarks/speed/bench_special_functions.py``, l <= 60): below 25 units of the dtype's
rounding times ``|j_l|`` for l >= x and times 1 / x for l < x; of G_l below 32 + x / 2 such units,
the second part because x is the root of a rounded value.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function

from farfield.models.kernels.needed_gradients import needed_inputs
from farfield.models.so3.irreps import table

SERIES_LMAX = 6  # largest lmax with power series; continued fractions beyond it
VALUES_PER_SWEEP = 1 << 15  # values of x whose temporaries fit a processor's cache


def spherical_bessel(x: Tensor, lmax: int) -> Tensor:
    """``j_l(x)`` of x (...) for l = 0 .. lmax: (..., lmax + 1).

    Negative x continue by ``j_l(-x) = (-1)^l j_l(x)``. Differentiable to any order everywhere.
    Raises ValueError for a negative lmax and for x of an integer type.
    """
    return _apply(_SphericalBessel, x, lmax)


def scaled_bessel(squared: Tensor, lmax: int) -> Tensor:
    """``G_l = (2 l + 1)!! j_l(x) / x^l`` of ``squared`` = x^2 (...) for l = 0 .. lmax.

    Returns (..., lmax + 1), smooth in x^2 and 1 at zero. Without the factor (2 l + 1)!! values at
    zero would underflow float32 beyond l = 29; with it they stay within -1 .. 1, and for x >> l
    they underflow to zero like ``(2 l + 1)!! / x^(l + 1)``. With :func:`leading_term`, ``j_l(x) =
    leading_term(x)_l G_l(x^2)``. Waves that are smooth at r = 0 are

        j_l(kappa r) Y_lm = leading_term(kappa a)_l G_l(kappa^2 r^2) S_lm(r / a)

    with S from :func:`farfield.models.so3.harmonics.solid_harmonics` and any length a; take the
    size of the system, so that no power of r / a is large.

    For ``squared`` in -1 .. 0 the functions go on analytically; values below -1 are out of range.
    Differentiable to any order everywhere. Raises ValueError like :func:`spherical_bessel`.
    """
    return _apply(_ScaledBessel, squared, lmax)


def bessel_mixture(
    squared: Tensor, wave_numbers: Tensor, weights: Tensor, ahead: int = 0
) -> Tensor:
    """``sum_q w_lhq G_l(kappa_q^2 r^2)`` over many wave numbers: (lmax + 1, H, n).

    squared: r^2 (n,). wave_numbers: kappa (Q,). weights: w (lmax + 1, H, Q). ahead: orders of
    derivatives by r^2 that will be asked for; the degrees they need are computed in the same pass
    and kept, and no gradient computes them again.

    G_l as in :func:`scaled_bessel`. A derivative by r^2 is such a sum again, of G_(l+1), so each is
    one matrix product with the values and, within ``ahead``, makes nothing of size (n, Q).
    Differentiable to any order in ``squared`` and ``weights``, not in the wave numbers. Raises
    ValueError like :func:`scaled_bessel`, and for a negative ``ahead``.
    """
    if ahead < 0:
        raise ValueError(f"ahead must be >= 0 orders of derivatives, got {ahead}")
    lmax = weights.shape[0] - 1
    _check(squared, lmax)
    kappa = wave_numbers.detach().square()
    values = _values_of_waves(squared.detach(), kappa, lmax + ahead)
    return _Mixture.apply(squared, weights, kappa, values, 0)


def leading_term(x: Tensor, lmax: int) -> Tensor:
    """``x^l / (2 l + 1)!!`` of x (...) for l = 0 .. lmax: (..., lmax + 1).

    The limit of ``j_l(x)`` for small x. It is at most about ``exp(x / 2)``: no overflow in float32
    for x < 170.
    """
    _check(x, lmax)
    odd = 2 * torch.arange(1, lmax + 1, dtype=x.dtype, device=x.device) + 1
    return torch.cat([torch.ones_like(x)[..., None], torch.cumprod(x[..., None] / odd, -1)], -1)


def _check(x: Tensor, lmax: int) -> None:
    """ValueError for a negative lmax and for x of an integer type."""
    if lmax < 0:
        raise ValueError(f"lmax of Bessel functions must be >= 0, got {lmax}")
    if not x.is_floating_point():
        raise ValueError(
            f"arguments of Bessel functions must be floating-point numbers, got {x.dtype}"
        )


def _apply(function: type[Function], x: Tensor, lmax: int) -> Tensor:
    """Rows (lmax + 1, n) of ``function`` for x of any shape: (..., lmax + 1)."""
    _check(x, lmax)
    return function.apply(x.reshape(-1), lmax).T.reshape(*x.shape, lmax + 1)


def _start(lmax: int) -> int:
    """Degree from which the ratios are run down.

    What is put there is forgotten at lmax, to float64 rounding, for every x <= lmax.
    """
    return lmax + 5 + int(6 * (lmax + 1) ** (1 / 3))


def _ratios(top: Callable, rest: Callable, like: Tensor, lmax: int) -> Tensor:
    """``top(l) / q_l`` for l = 1 .. lmax, as rows of (lmax + 1, n); row 0 is not set.

    ``q_l = 2 l + 1 - rest(l + 1) top(l + 1) / q_(l + 1)``. like (n,): type and device.
    """
    rows = like.new_empty(lmax + 1, like.shape[0])
    product = torch.zeros_like(like)
    for l in range(_start(lmax), 0, -1):
        ratio = top(l) / (2 * l + 1 - product)
        product = rest(l) * ratio
        if l <= lmax:
            rows[l] = ratio
    return rows


class _SphericalBessel(Function):
    """j_l of x (n,): (lmax + 1, n)."""

    @staticmethod
    def forward(ctx, x: Tensor, lmax: int) -> Tensor:
        """Ratios downward, then values upward."""
        ctx.save_for_backward(x)
        ctx.lmax = lmax

        # |x| is cut off where the branch that divides by it is not used
        size = x.abs()
        capped, floored = size.clamp(max=lmax), size.clamp(min=1)
        rows = _ratios(lambda l: capped, lambda l: capped, x, lmax)

        rows[0] = torch.where(x == 0, 1, x.sin() / x)
        before = x.cos() / floored  # j_(-1)
        for l in range(1, lmax + 1):
            upward = (rows[l - 1] * (2 * l - 1)).div_(floored).sub_(before)
            downward = rows[l] * rows[l - 1]
            before = rows[l - 1]
            rows[l] = torch.where(size >= l, upward, downward)
        rows[1::2] *= x.sign()
        return rows

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        """Contraction with ``j_l'``, which the values of one more degree give."""
        (x,) = ctx.saved_tensors
        rows = _SphericalBessel.apply(x, ctx.lmax + 1)
        degree = torch.arange(ctx.lmax + 1, dtype=x.dtype, device=x.device)[:, None]
        below = torch.cat([torch.zeros_like(rows[:1]), rows[:-2]])
        slope = (degree * below - (degree + 1) * rows[1:]) / (2 * degree + 1)
        return (cotangent * slope).sum(0), None


@table
def _series(l: int, lmax: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Coefficients of the powers of x^2 in G_l, highest first, for ``|x| <= max(lmax, 1)``.

    Terms below the rounding of the type are left out.
    """
    terms = [1.0]
    size = float(max(lmax, 1) ** 2)
    least = torch.finfo(dtype).eps / 16
    while abs(terms[-1]) * size ** (len(terms) - 1) > least:
        k = len(terms)
        terms.append(-terms[-1] / (2 * k * (2 * l + 2 * k + 1)))
    return tuple(torch.tensor(term, dtype=dtype, device=device) for term in reversed(terms))


def _few_degrees(squared: Tensor, lmax: int) -> Tensor:
    """G_l of x^2 (n,): (lmax + 1, n), for small lmax.

    Upward recurrence for x >= lmax; below it the series of the two highest degrees, then downward
    recurrence. Both are computed for every x, cut off at ``edge`` where they are not used.
    """
    result = squared.new_empty(lmax + 1, squared.shape[0])
    size = VALUES_PER_SWEEP if squared.device.type == "cpu" else max(1, squared.shape[0])
    edge = max(lmax, 1) ** 2
    for rows, part in zip(result.split(size, 1), squared.split(size), strict=True):
        # series of the two highest degrees, then downward
        low, high = part.clamp(max=edge), part.clamp(min=edge)
        below = [torch.empty_like(part) for _ in range(lmax + 1)]
        for l in range(max(lmax - 1, 0), lmax + 1):
            first, second, *rest = _series(l, lmax, part.dtype, part.device)
            torch.addcmul(second, first, low, out=below[l])
            for term in rest:
                torch.addcmul(term, below[l], low, out=below[l])
        for l in range(lmax, 1, -1):
            torch.addcmul(below[l - 1], below[l], low, value=-1 / (4 * l * l - 1), out=below[l - 2])

        # upward from G_(-1) and G_0; the blend of the two is exact at both ends, and faster than a
        # choice
        x = high.sqrt()
        before, above = x.cos(), x.sin().div_(x)
        series = torch.lt(part, edge, out=torch.empty_like(part))
        for l, row in enumerate(rows):
            if l:
                before, above = above, (above - before).mul_(4 * l * l - 1).div_(high)
            torch.lerp(above, below[l], series, out=row)
    return result


def _many_degrees(squared: Tensor, lmax: int) -> Tensor:
    """G_l of x^2 (n,): (lmax + 1, n), for any lmax.

    Ratios downward, then upward by ``G_l = (4 l^2 - 1) / x^2 (G_(l-1) - G_(l-2))`` where l <= x.
    """
    size = squared.abs().sqrt()
    oscillates = squared > 0
    capped, floored = squared.clamp(max=lmax * lmax), squared.clamp(min=1)
    rows = _ratios(
        lambda l: torch.full_like(squared, 2 * l + 1), lambda l: capped / (2 * l + 1), squared, lmax
    )

    rows[0] = torch.where(squared == 0, 1, torch.where(oscillates, size.sin(), size.sinh()) / size)
    before = size.cos()  # G_(-1)
    for l in range(1, lmax + 1):
        upward = (rows[l - 1] - before).mul_(4 * l * l - 1).div_(floored)
        downward = rows[l] * rows[l - 1]
        before = rows[l - 1]
        rows[l] = torch.where(squared >= l * l, upward, downward)
    return rows


def _scaled_rows(squared: Tensor, lmax: int) -> Tensor:
    """G_l of x^2 (n,): (lmax + 1, n)."""
    return (_few_degrees if lmax <= SERIES_LMAX else _many_degrees)(squared, lmax)


class _ScaledBessel(Function):
    """G_l of x^2 (n,): (lmax + 1, n)."""

    @staticmethod
    def forward(ctx, squared: Tensor, lmax: int) -> Tensor:
        """Values."""
        ctx.save_for_backward(squared)
        ctx.lmax = lmax
        return _scaled_rows(squared, lmax)

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        """Contraction with the derivative, which the values of one more degree give."""
        (squared,) = ctx.saved_tensors
        rows = _ScaledBessel.apply(squared, ctx.lmax + 1)
        degree = torch.arange(ctx.lmax + 1, dtype=squared.dtype, device=squared.device)[:, None]
        return (cotangent * rows[1:] / (-4 * degree - 6)).sum(0), None


# Sums over wave numbers. squared: r^2 (n,). kappa: squares of the wave numbers (Q,). values:
# G_l(kappa^2 r^2) (degrees, Q, n).


def _values_of_waves(squared: Tensor, kappa: Tensor, lmax: int) -> Tensor:
    """G_l of every wave number at every r: (lmax + 1, Q, n)."""
    return _scaled_rows((kappa[:, None] * squared).flatten(), lmax).view(lmax + 1, len(kappa), -1)


def _derivative(
    squared: Tensor, kappa: Tensor, values: Tensor, lmax: int, order: int
) -> tuple[Tensor, Tensor]:
    """``D^order G_l(kappa^2 r^2)``, D the derivative by r^2, as a product of two.

    Returns factors (lmax + 1, 1, Q) and G_(l+order) (lmax + 1, Q, n).
    """
    degree = torch.arange(lmax + 1, dtype=kappa.dtype, device=kappa.device).view(-1, 1, 1)
    divisors = (-4 * (degree + k) - 6 for k in range(order))
    factor = kappa**order / math.prod(divisors, start=torch.ones_like(degree))

    # beyond the degrees that were made ahead all values are made again
    if values.shape[0] <= lmax + order:
        values = _values_of_waves(squared, kappa, lmax + order)
    return factor, values[order : lmax + order + 1]


class _Mixture(Function):
    """``T(C, w, r^2) = sum_(l h q n) C_lhn w_lhq D^order G_l(kappa_q^2 r_n^2)`` without C.

    D is the derivative by r^2. Without w, T is :class:`_MixtureWeights`; its derivative by r^2 is T
    of one order more: the derivatives close on themselves.
    """

    @staticmethod
    def forward(
        ctx, squared: Tensor, weights: Tensor, kappa: Tensor, values: Tensor, order: int
    ) -> Tensor:
        """(lmax + 1, H, n)."""
        ctx.save_for_backward(squared, weights, kappa, values)
        ctx.order = order
        factor, rows = _derivative(squared, kappa, values, weights.shape[0] - 1, order)
        return (weights * factor) @ rows

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        """By r^2 the form of one order more, by w the form without w."""
        squared, weights, *held = ctx.saved_tensors
        by_squared = by_weights = None
        needs_squared, needs_weights, *_ = needed_inputs(ctx)
        if needs_squared:
            slope = _Mixture.apply(squared, weights, *held, ctx.order + 1)
            by_squared = (cotangent * slope).sum((0, 1))
        if needs_weights:
            by_weights = _MixtureWeights.apply(cotangent, squared, *held, ctx.order)
        return by_squared, by_weights, None, None, None


class _MixtureWeights(Function):
    """T without w."""

    @staticmethod
    def forward(
        ctx, cotangent: Tensor, squared: Tensor, kappa: Tensor, values: Tensor, order: int
    ) -> Tensor:
        """(lmax + 1, H, Q)."""
        ctx.save_for_backward(cotangent, squared, kappa, values)
        ctx.order = order
        factor, rows = _derivative(squared, kappa, values, cotangent.shape[0] - 1, order)
        return (cotangent @ rows.transpose(1, 2)) * factor

    @staticmethod
    def backward(ctx, weights: Tensor) -> tuple:
        """By C the form without C, by r^2 the form of one order more."""
        cotangent, squared, *held = ctx.saved_tensors
        by_cotangent = by_squared = None
        needs_cotangent, needs_squared, *_ = needed_inputs(ctx)
        if needs_cotangent:
            by_cotangent = _Mixture.apply(squared, weights, *held, ctx.order)
        if needs_squared:
            slope = _Mixture.apply(squared, weights, *held, ctx.order + 1)
            by_squared = (cotangent * slope).sum((0, 1))
        return by_cotangent, by_squared, None, None, None
