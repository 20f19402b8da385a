"""Laws of the spherical Bessel functions.

60 digits, scipy, differential equation, Wronskian, sum rules, addition theorem, plane waves.
"""

from __future__ import annotations

import functools

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, spherical_jn, spherical_yn
from torch import Tensor

from benchmarks.speed.bench_special_functions import ARGUMENTS, bessel_error, exact_bessel
from farfield.models.so3.bessel import leading_term, scaled_bessel, spherical_bessel
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_of_row
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw

TOP = 60
GRID = [
    *ARGUMENTS,
    *(l + shift for l in (1, 2, 5, 13, 34, 47, 58, 60) for shift in (-1e-6, 0.0, 1e-6, 0.49)),
    3.14159265358979,
    300.0,
]
DEGREES = torch.arange(TOP + 1, dtype=torch.float64)
PRECISIONS = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64], ids=["float32", "float64"]
)


@functools.cache
def exact(x: float) -> list[mpmath.mpf]:
    return exact_bessel(x, TOP + 1)


@pytest.mark.parametrize("x", [1e-3, 1.0, 34.49, 60.0, 300.0])
def test_reference_is_the_cylindrical_function(x):
    with mpmath.workdps(60):
        for l in (0, 1, 2, 13, 34, 59):
            half = mpmath.sqrt(mpmath.pi / (2 * mpmath.mpf(x)))
            expected = half * mpmath.besselj(l + mpmath.mpf(1) / 2, x)
            assert abs(exact(x)[l] - expected) <= mpmath.mpf(10) ** -55 * abs(expected)


# values


@PRECISIONS
def test_values_to_60_digits(dtype):
    """Values hold for all l <= 60, at zero, tiny, turning and large arguments.

    Within 25 roundings of ``|j_l|`` for l >= x and of 1 / x for l < x.
    """
    points = torch.tensor(GRID, dtype=dtype)
    values = spherical_bessel(points, TOP)
    assert values.dtype == dtype and torch.isfinite(values).all()
    worst = {
        x: bessel_error(row, x, exact(x)[: TOP + 1])
        for x, row in zip(points.tolist(), values, strict=True)
    }
    assert max(worst.values()) <= 25, worst


@PRECISIONS
def test_scaled_values_to_60_digits(dtype):
    """``G_l`` holds within 32 + x / 2 roundings.

    Of its value for l >= x, of its envelope ``(2 l + 1)!! / x^(l + 1)`` for l < x.
    """
    limits = torch.finfo(dtype)
    squares = torch.tensor(GRID, dtype=dtype).square()
    values = scaled_bessel(squares, TOP)
    assert values.dtype == dtype and torch.isfinite(values).all() and float(values.abs().max()) <= 1
    for square, row in zip(squares.tolist(), values.tolist(), strict=True):
        x = mpmath.sqrt(mpmath.mpf(square))
        j = exact_bessel(x, TOP)
        for l, value in enumerate(row):
            envelope = mpmath.fac2(2 * l + 1) / x**l if x else mpmath.mpf(1)
            right = envelope * j[l] if x else mpmath.mpf(1)
            scale = abs(right) if l >= x else envelope / x
            assert abs(value - right) <= (32 + x / 2) * limits.eps * scale + limits.tiny, (
                float(x),
                l,
            )


def test_values_of_scipy():
    x = torch.linspace(0, 80, 401, dtype=torch.float64)
    expected = torch.as_tensor(spherical_jn(DEGREES[:, None].long().numpy(), x.numpy())).T
    torch.testing.assert_close(spherical_bessel(x, TOP), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("lmax", [0, 1, 2, 3, 5, 9, 17, 30, 45])
def test_number_of_degrees_changes_no_value(lmax):
    """The downward pass starts high enough for every lmax."""
    x = torch.linspace(0, lmax + 2, 301, dtype=torch.float64)
    for function, argument in ((spherical_bessel, x), (scaled_bessel, x.square())):
        torch.testing.assert_close(
            function(argument, lmax),
            function(argument, TOP)[:, : lmax + 1],
            rtol=2e-14,
            atol=1e-300,
        )


@PRECISIONS
def test_smooth_underflow(dtype):
    """For x << l values fall to zero without a break, and the scaled functions go to 1."""
    x = torch.logspace(-12, 0, 50, dtype=dtype)
    values, scaled = spherical_bessel(x, TOP), scaled_bessel(x.square(), TOP)
    assert (
        (values >= 0).all()
        and (values[:, 1:].diff(dim=0) >= 0).all()
        and (values.diff(dim=1) <= 0).all()
    )
    assert not values[:, TOP][x < 1e-4].any() or dtype == torch.float64
    scaled = scaled[x.square() < torch.finfo(dtype).eps]
    torch.testing.assert_close(
        scaled, torch.ones_like(scaled), rtol=0, atol=2 * torch.finfo(dtype).eps
    )


def test_negative_arguments():
    """``j_l(-x) = (-1)^l j_l(x)``.

    For x^2 < 0 the scaled functions go on without a break, ``G_0 = sinh(x) / x``.
    """
    x = torch.tensor([1e-3, 0.4, 3.0, 20.0, 65.0], dtype=torch.float64)
    torch.testing.assert_close(
        spherical_bessel(-x, TOP), spherical_bessel(x, TOP) * (-1) ** DEGREES, rtol=0, atol=0
    )
    x = torch.tensor([1e-6, 1e-3, 0.4, 1.0], dtype=torch.float64)
    zero = x.sinh() / x
    one = torch.where(x < 0.01, 1 + x.square() / 10, 3 * (x.cosh() - zero) / x.square())
    torch.testing.assert_close(
        scaled_bessel(-x.square(), 1), torch.stack([zero, one], -1), rtol=1e-13, atol=0
    )


def test_scaled_functions_times_leading_term():
    """``j_l = x^l / (2 l + 1)!!  G_l``."""
    x = torch.tensor([0.0, 1e-3, 0.7, 5.0, 31.0, 64.0, 90.0], dtype=torch.float64)
    envelope = torch.where(x[:, None] > DEGREES, 1 / x[:, None], spherical_bessel(x, TOP))
    difference = leading_term(x, TOP) * scaled_bessel(x.square(), TOP) - spherical_bessel(x, TOP)
    assert (difference.abs() <= 2e-14 * envelope + 1e-300).all()


# derivatives


def derivatives(function, x: Tensor, order: int, lmax: int = TOP) -> list[Tensor]:
    """Values and derivatives (n, lmax + 1) up to ``order`` by automatic differentiation."""
    points = x[:, None].repeat(1, lmax + 1).requires_grad_(True)  # a copy of x for each degree
    results = [function(points, lmax).diagonal(dim1=1, dim2=2)]
    for _ in range(order):
        results.append(torch.autograd.grad(results[-1].sum(), points, create_graph=True)[0])
    return [result.detach() for result in results]


@PRECISIONS
def test_first_derivatives_to_60_digits(dtype):
    """``j_l' = l / x j_l - j_(l+1)``, without a loss at small x.

    Relative to the larger term for l >= x and to 1 / x for l < x.
    """
    points = torch.tensor([x for x in GRID if x], dtype=dtype)
    _, first = derivatives(spherical_bessel, points, 1)
    limits = torch.finfo(dtype)
    for x, row in zip(points.tolist(), first.tolist(), strict=True):
        for l, value in enumerate(row):
            terms = l / mpmath.mpf(x) * exact(x)[l], exact(x)[l + 1]
            scale = max(map(abs, terms)) if l >= x else min(1, 1 / mpmath.mpf(x))
            assert abs(value - (terms[0] - terms[1])) <= 40 * limits.eps * scale + limits.tiny, (
                x,
                l,
            )


def test_derivatives_of_scipy_and_the_differential_equation():
    """x^2 j'' + 2 x j' + (x^2 - l (l + 1)) j = 0."""
    x = torch.cat([torch.tensor([0.0, 1e-9, 1e-4]), torch.linspace(0.05, 75, 60)]).double()
    value, first, second = derivatives(spherical_bessel, x, 2)
    expected = torch.as_tensor(
        spherical_jn(DEGREES[:, None].long().numpy(), x.numpy(), derivative=True)
    ).T
    torch.testing.assert_close(first[1:], expected[1:], rtol=0, atol=1e-13)
    x = x[:, None]
    terms = torch.stack(
        [x.square() * second, 2 * x * first, (x.square() - DEGREES * (DEGREES + 1)) * value]
    )
    assert (terms.sum(0).abs() <= 1e-13 * (terms.abs().sum(0) + x)).all()


@PRECISIONS
def test_derivatives_at_zero(dtype):
    """At zero only j_1' = 1/3, j_0'' = -1/3 and j_2'' = 2/15 are left.

    ``j_l = x^l / (2 l + 1)!! (1 - x^2 / (2 (2 l + 3)) + ...)``.
    """
    value, first, second, third = (
        part[0].double() for part in derivatives(spherical_bessel, torch.zeros(1, dtype=dtype), 3)
    )
    expected = torch.zeros(4, TOP + 1, dtype=torch.float64)
    expected[0, 0], expected[1, 1] = 1, 1 / 3
    expected[2, 0], expected[2, 2] = -1 / 3, 2 / 15
    expected[3, 1], expected[3, 3] = -1 / 5, 6 / 105
    torch.testing.assert_close(
        torch.stack([value, first, second, third]),
        expected,
        rtol=0,
        atol=4 * torch.finfo(dtype).eps,
    )


@PRECISIONS
def test_scaled_derivatives_at_zero(dtype):
    """G_l = 1 - s / (2 (2 l + 3)) + s^2 / (8 (2 l + 3)(2 l + 5)) - ..."""
    value, first, second = (
        part[0].double() for part in derivatives(scaled_bessel, torch.zeros(1, dtype=dtype), 2)
    )
    expected = [
        torch.ones_like(DEGREES),
        -1 / (2 * (2 * DEGREES + 3)),
        1 / (4 * (2 * DEGREES + 3) * (2 * DEGREES + 5)),
    ]
    torch.testing.assert_close(
        torch.stack([value, first, second]),
        torch.stack(expected),
        rtol=4 * torch.finfo(dtype).eps,
        atol=0,
    )


@pytest.mark.parametrize("function", [spherical_bessel, scaled_bessel, leading_term])
def test_derivatives_match_differences(function):
    x = torch.tensor([0.0, 1e-3, 0.8, 1.0, 4.3, 7.0], dtype=torch.float64, requires_grad=True)
    call = functools.partial(function, lmax=6)
    assert_all_derivatives(call, [x])


# identities


def test_wronskian():
    """j_(l+1) y_l - j_l y_(l+1) = 1 / x^2, with scipy's y_l."""
    x = torch.linspace(0.5, 70, 100, dtype=torch.float64)
    j = spherical_bessel(x, TOP)
    y = torch.as_tensor(spherical_yn(DEGREES[:, None].long().numpy(), x.numpy())).T
    cross = (j[:, 1:] * y[:, :-1] - j[:, :-1] * y[:, 1:]) * x[:, None].square()
    torch.testing.assert_close(cross, torch.ones_like(cross), rtol=0, atol=2e-12)


def test_squares_add_up():
    """sum_l (2 l + 1) j_l^2 = 1, hence its derivatives vanish."""
    x = torch.linspace(0, 32, 65, dtype=torch.float64, requires_grad=True)
    total = (spherical_bessel(x, TOP).square() * (2 * DEGREES + 1)).sum(-1)
    (first,) = torch.autograd.grad(total.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    for found, expected in ((total.detach(), 1.0), (first.detach(), 0.0), (second, 0.0)):
        torch.testing.assert_close(found, torch.full_like(found, expected), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kappa", [0.01, 0.3, 1.0, 3.0])
def test_addition_theorem(kappa):
    """Waves about two points add up to the wave of their distance.

    ``sum_lm (2 l + 1) j_l(kappa a) Y_lm(a) j_l(kappa b) Y_lm(b) = sin(kappa |a - b|) / (kappa |a -
    b|)``.
    """
    one, other = 2.5 * draw(2, 30, 3, seed=1)
    other[0], one[1] = one[0], 0  # a distance and a radius of zero
    degree = degree_of_row(TOP)
    waves = [
        spherical_bessel(kappa * v.norm(dim=-1), TOP)[:, degree] * spherical_harmonics(v, TOP)
        for v in (one, other)
    ]
    distance = kappa * (one - other).norm(dim=-1)
    assert float(kappa * torch.cat([one, other]).norm(dim=-1).max()) < 36
    torch.testing.assert_close(
        (waves[0] * waves[1]) @ (2 * degree + 1.0).double(),
        torch.sinc(distance / torch.pi),
        rtol=0,
        atol=1e-13,
    )


def test_plane_wave():
    """exp(i k . r) = sum_l i^l (2 l + 1) j_l(k r) P_l(cos)."""
    x = torch.linspace(0, 28, 40, dtype=torch.float64)
    cosine = torch.linspace(-1, 1, 40, dtype=torch.float64)
    legendre = torch.as_tensor(
        np.stack([eval_legendre(l, cosine.numpy()) for l in range(TOP + 1)], -1)
    )
    total = (
        spherical_bessel(x, TOP)
        * legendre
        * (2 * DEGREES + 1)
        * torch.tensor([1, 1j, -1, -1j])[DEGREES.long() % 4]
    ).sum(-1)
    torch.testing.assert_close(total, torch.exp(1j * x * cosine), rtol=0, atol=1e-13)


# input


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (2, 3)], ids=str)
@pytest.mark.parametrize("function", [spherical_bessel, scaled_bessel, leading_term])
def test_any_batch_shape(function, shape):
    x = torch.ones(shape, requires_grad=True)
    for lmax in (0, 4):
        values = function(x, lmax)
        assert values.shape == (*shape, lmax + 1)
        (gradient,) = torch.autograd.grad(values.sum(), x)
        assert gradient.shape == shape


@pytest.mark.parametrize("function", [spherical_bessel, scaled_bessel, leading_term])
def test_bad_input_is_refused(function):
    with pytest.raises(ValueError, match=">= 0, got -1"):
        function(torch.ones(2), -1)
    with pytest.raises(ValueError, match="got torch.int64"):
        function(torch.ones(2, dtype=torch.int64), 3)
