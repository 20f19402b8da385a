"""Laws of the harmonics, against quadrature, Legendre polynomials, 60 digits and e3nn."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import lebedev_rule
from scipy.special import eval_legendre
from torch import Tensor

from benchmarks.speed.bench_special_functions import exact_harmonics
from farfield.models.so3 import harmonics
from farfield.models.so3.harmonics import solid_harmonics, spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, degree_slice, num_rows
from tests.support.draws import draw

LMAX = 11
LAWS = settings(max_examples=25, deadline=None, derandomize=True, database=None)
SEEDS = st.integers(0, 10_000)


@pytest.mark.parametrize("order", [29, 41])
def test_orthogonal_under_lebedev_quadrature(order):
    """The mean over the sphere of Y_lm Y_l'm' is delta / (2 l + 1).

    Exact where l + l' does not exceed the order of the rule.
    """
    lmax = min(LMAX, order // 2)
    points, weights = (torch.as_tensor(part) for part in lebedev_rule(order))
    values = spherical_harmonics(points.T, lmax)
    overlap = values.T @ (values * weights.view(-1, 1)) / (4 * torch.pi)
    expected = torch.diag(1 / (2 * degree_of_row(lmax) + 1).double())
    torch.testing.assert_close(overlap, expected, rtol=0, atol=1e-13)


@LAWS
@given(seed=SEEDS)
def test_addition_theorem(seed):
    """sum_m Y_lm(a) Y_lm(b) = P_l(cos of the angle between them), for vectors of any length."""
    one, other = draw(2, 20, 3, seed=seed)
    cosine = torch.nn.functional.cosine_similarity(one, other, -1)
    products = spherical_harmonics(3.7 * one, LMAX) * spherical_harmonics(0.01 * other, LMAX)
    for l in range(LMAX + 1):
        legendre = torch.as_tensor(eval_legendre(l, cosine.numpy()))
        torch.testing.assert_close(
            products[:, degree_slice(l)].sum(-1), legendre, rtol=0, atol=1e-12
        )


@LAWS
@given(seed=SEEDS)
def test_parity(seed):
    vectors = draw(10, 3, seed=seed)
    sign = (-1.0) ** degree_of_row(LMAX)
    torch.testing.assert_close(
        spherical_harmonics(-vectors, LMAX),
        spherical_harmonics(vectors, LMAX) * sign,
        rtol=0,
        atol=1e-14,
    )


@pytest.mark.parametrize(
    ("dtype", "bar"), [(torch.float32, 3e-6), (torch.float64, 1e-13)], ids=["float32", "float64"]
)
@pytest.mark.parametrize("lmax", range(LMAX + 1))
def test_equal_to_e3nn_in_order_sign_and_scale(lmax, dtype, bar):
    vectors = draw(4, 5, 3, seed=lmax).to(dtype)
    expected = o3.spherical_harmonics(
        list(range(lmax + 1)), vectors, normalize=True, normalization="norm"
    )
    found = spherical_harmonics(vectors, lmax)
    assert found.dtype == dtype and found.shape == (4, 5, num_rows(lmax))
    torch.testing.assert_close(found, expected, rtol=0, atol=bar)


def test_polar_axis_and_first_degree():
    """On +y only m = 0 is left, and it is 1; degree 1 is the unit vector itself."""
    axis = spherical_harmonics(torch.tensor([0.0, 2.5, 0.0], dtype=torch.float64), LMAX)
    rows = torch.arange(num_rows(LMAX))
    expected = (rows == degree_of_row(LMAX) * (degree_of_row(LMAX) + 1)).double()
    torch.testing.assert_close(axis, expected, rtol=0, atol=1e-14)
    vectors = draw(7, 3, seed=0)
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(spherical_harmonics(vectors, 1)[:, 1:], unit, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_zero_vector_has_no_direction_and_finite_derivatives(dtype):
    vectors = torch.zeros(3, 3, dtype=dtype)
    vectors[1, 2] = 1.0
    vectors.requires_grad_(True)
    values = spherical_harmonics(vectors, 5)
    assert (values[[0, 2], 0] == 1).all() and not values[[0, 2], 1:].any()
    (first,) = torch.autograd.grad(
        (values * torch.arange(1, values.numel() + 1).view_as(values)).sum(),
        vectors,
        create_graph=True,
    )
    (second,) = torch.autograd.grad((first + first.square()).sum(), vectors)
    assert not first[[0, 2]].any() and not second[[0, 2]].any()
    assert (
        first[1].any()
        and second[1].any()
        and torch.isfinite(first).all()
        and torch.isfinite(second).all()
    )


@LAWS
@given(seed=SEEDS, exponent=st.integers(-12, 12))
def test_only_the_direction_counts(seed, exponent):
    """Y(s v) = Y(v), hence no gradient along v."""
    vectors = draw(5, 3, seed=seed).requires_grad_(True)
    values = spherical_harmonics(vectors, LMAX)
    torch.testing.assert_close(
        spherical_harmonics(vectors * 10.0**exponent, LMAX), values, rtol=0, atol=1e-13
    )
    (gradient,) = torch.autograd.grad((values * draw(*values.shape, seed=seed + 1)).sum(), vectors)
    unit = (
        gradient
        / gradient.norm(dim=-1, keepdim=True)
        * vectors
        / vectors.norm(dim=-1, keepdim=True)
    )
    assert float(unit.detach().sum(-1).abs().max()) <= 1e-11


def test_derivatives_match_differences():
    vectors = draw(3, 3, seed=3).requires_grad_(True)
    call = functools.partial(spherical_harmonics, lmax=4)
    assert torch.autograd.gradcheck(call, vectors) and torch.autograd.gradgradcheck(call, vectors)


@pytest.mark.parametrize("function", [spherical_harmonics, solid_harmonics])
def test_bad_input_is_refused(function):
    with pytest.raises(ValueError, match=">= 0, got -1"):
        function(torch.ones(1, 3), -1)
    with pytest.raises(ValueError, match=r"shape \(..., 3\), got .* \(2, 4\)"):
        solid_harmonics(torch.ones(2, 4), 1)
    with pytest.raises(ValueError, match="got torch.int64"):
        solid_harmonics(torch.ones(2, 3, dtype=torch.int64), 1)


@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 0, 3), (4, 1, 3)], ids=str)
def test_any_batch_shape(shape):
    assert (
        solid_harmonics(torch.ones(shape), 3).shape
        == spherical_harmonics(torch.ones(shape), 3).shape
        == (*shape[:-1], 16)
    )


# any degree

HIGH = 40
CLOSE_TO_POLE = torch.tensor(
    [[0.6 * t, -1.0, 0.8 * t] for t in (0.0, 1e-6, 1e-3, 0.01, 0.03, 0.1, 0.3)], dtype=torch.float64
)


def many_directions() -> Tensor:
    equator = torch.tensor([[0.6, 1e-5, 0.8], [1.0, 0.0, 0.0]], dtype=torch.float64)
    return torch.cat([CLOSE_TO_POLE, equator, draw(5, 3, seed=1)])


@pytest.mark.parametrize(
    ("degree", "bars"), [(3, (5e-7, 1e-15)), (20, (5e-6, 1e-14)), (HIGH, (6e-6, 2e-14))]
)
def test_error_at_high_degree(degree, bars):
    """Against 60 digits, relative to the largest component of the degree.

    Poles and equator are included.
    """
    for dtype, bar in zip((torch.float32, torch.float64), bars, strict=True):
        vectors = many_directions().to(dtype)
        exact = torch.stack([exact_harmonics(vector, degree) for vector in vectors])
        found = spherical_harmonics(vectors, degree)[:, degree_slice(degree)].double()
        assert float(((found - exact).abs().amax(1) / exact.abs().amax(1)).max()) <= bar


def test_orthogonal_at_high_degree():
    """The mean over the sphere of Y_lm Y_l'm' is delta / (2 l + 1) for all degrees to 40.

    On a product rule that is exact for them.
    """
    nodes, weights = (torch.as_tensor(part) for part in np.polynomial.legendre.leggauss(HIGH + 1))
    angles = 2 * torch.pi * torch.arange(2 * HIGH + 1, dtype=torch.float64) / (2 * HIGH + 1)
    circle = (1 - nodes.square()).sqrt()[:, None]
    points = torch.stack(
        [circle * angles.sin(), nodes[:, None].expand(-1, len(angles)), circle * angles.cos()], -1
    ).flatten(0, 1)
    values = spherical_harmonics(points, HIGH)
    overlap = (
        values.T @ (values * weights.repeat_interleave(len(angles))[:, None]) / (2 * len(angles))
    )
    torch.testing.assert_close(
        overlap, torch.diag(1 / (2 * degree_of_row(HIGH) + 1).double()), rtol=0, atol=5e-14
    )


def test_addition_theorem_at_high_degree():
    one, other = many_directions(), draw(14, 3, seed=2)
    cosine = torch.nn.functional.cosine_similarity(one, other, -1)
    products = spherical_harmonics(one, HIGH) * spherical_harmonics(other, HIGH)
    for l in range(HIGH + 1):
        legendre = torch.as_tensor(eval_legendre(l, cosine.numpy()))
        torch.testing.assert_close(
            products[:, degree_slice(l)].sum(-1), legendre, rtol=0, atol=1e-13
        )


def test_solid_harmonics_are_homogeneous():
    """S(s v) = s^l S(v), and S is the spherical one on the unit sphere."""
    vectors, degree = many_directions(), degree_of_row(HIGH)
    values = solid_harmonics(vectors, HIGH)
    torch.testing.assert_close(
        solid_harmonics(-2 * vectors, HIGH), (-2.0) ** degree * values, rtol=1e-14, atol=0
    )
    length = vectors.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(
        values / length**degree, spherical_harmonics(vectors, HIGH), rtol=0, atol=1e-13
    )


def weights_of(degrees: tuple[int, ...], seed: int = 9) -> Tensor:
    """Random weights of the rows of a few degrees, zero for all others."""
    chosen = torch.isin(degree_of_row(HIGH), torch.tensor(degrees))
    return torch.where(chosen, draw(num_rows(HIGH), seed=seed), 0.0)


@pytest.mark.parametrize("degree", [1, 2, 7, 23, HIGH])
def test_solid_harmonics_are_harmonic(degree):
    """The Laplacian vanishes, by second derivatives; and v . grad S = l S."""
    vectors = many_directions()
    vectors = (vectors / vectors.norm(dim=-1, keepdim=True)).requires_grad_(True)
    value = solid_harmonics(vectors, HIGH) @ weights_of((degree,))
    (gradient,) = torch.autograd.grad(value.sum(), vectors, create_graph=True)
    torch.testing.assert_close(
        (gradient * vectors).sum(-1), degree * value, rtol=0, atol=1e-13 * degree**2
    )
    hessian = torch.stack(
        [
            torch.autograd.grad(gradient[:, a].sum(), vectors, retain_graph=True)[0]
            for a in range(3)
        ],
        1,
    )
    torch.testing.assert_close(hessian, hessian.mT, rtol=0, atol=1e-12 * max(1, degree**2))
    trace = hessian.diagonal(dim1=1, dim2=2).sum(-1)
    assert float(trace.abs().max()) <= 1e-13 * max(1.0, float(hessian.detach().abs().max()))
    assert degree == 1 or float(hessian.detach().abs().amax((1, 2)).min()) > 0.1


def test_second_derivatives_at_the_origin():
    """At r = 0 only degree 2 has second derivatives, and they are the same as elsewhere."""
    vectors = torch.zeros(2, 3, dtype=torch.float64)
    vectors[1] = torch.tensor([0.3, -0.2, 0.5])
    for degrees, same in [((2,), True), ((0, 1, *range(3, HIGH + 1)), False)]:
        point = vectors.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(
            (solid_harmonics(point, HIGH) @ weights_of(degrees)).sum(), point, create_graph=True
        )
        rows = [
            torch.autograd.grad(gradient[:, a].sum(), point, retain_graph=True)[0] for a in range(3)
        ]
        at_origin, elsewhere = torch.stack(rows, 1)
        assert bool(at_origin.any()) == same and elsewhere.any()
        if same:
            torch.testing.assert_close(at_origin, elsewhere, rtol=0, atol=1e-14)


def test_solid_derivatives_of_any_order():
    """Differences of values, gradients and gradients of gradients agree, also at a zero vector."""
    vectors = draw(3, 3, seed=3)
    vectors[1] = 0
    vectors.requires_grad_(True)
    call = functools.partial(solid_harmonics, lmax=5)
    assert torch.autograd.gradcheck(call, vectors) and torch.autograd.gradgradcheck(call, vectors)
    weights = draw(num_rows(5), seed=4)

    def gradient(point: Tensor) -> Tensor:
        return torch.autograd.grad(
            (solid_harmonics(point, 5) @ weights).square().sum(), point, create_graph=True
        )[0]

    assert torch.autograd.gradgradcheck(gradient, vectors)


def test_sweeps_change_nothing(monkeypatch):
    """Vectors are taken some at a time; how many does not change the result."""
    results = []
    for size in (10_000, 7):
        monkeypatch.setattr(harmonics, "VECTORS_PER_SWEEP", size)
        vectors = draw(20, 3, seed=7).requires_grad_(True)
        values = solid_harmonics(vectors, 6)
        results.append([values, *torch.autograd.grad(values.square().sum(), vectors)])
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-13, atol=1e-11)
