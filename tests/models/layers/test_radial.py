"""Laws of the radial functions and envelopes.

Closed forms, orthogonality, derivatives at contact, and envelopes that end smoothly.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.legendre import leggauss
from scipy.special import spherical_jn
from torch import Tensor

from farfield.models.layers.radial import ENVELOPES, RADIAL_BASES, RadialTrunk, polynomial_envelope

pytestmark = pytest.mark.usefixtures("double")

LAWS = settings(max_examples=25, deadline=None, derandomize=True, database=None)
CUTOFF = 3.7
EVERY_BASIS = pytest.mark.parametrize("name", RADIAL_BASES)
SMOOTHNESS = {"cosine": 1, "polynomial": 2}  # continuous derivatives at the cutoff


def closed_form(name: str, r: Tensor, size: int) -> Tensor:
    """Each basis from its textbook formula, (lengths, size)."""
    n = torch.arange(1, size + 1)
    centre = torch.linspace(0, 1, size)
    column = r.unsqueeze(-1)
    log = torch.log(1 + 100 * column / CUTOFF) / math.log(101)
    return {
        "raw": lambda: column / CUTOFF,
        "bessel": lambda: (2 / CUTOFF) ** 0.5 * torch.sin(n * math.pi * column / CUTOFF) / column,
        "gaussian": lambda: torch.exp(-(((column / CUTOFF - centre) * (size - 1)) ** 2) / 2),
        "log_gaussian": lambda: torch.exp(-(((log - centre) * (size - 1)) ** 2) / 2),
    }[name]()


def derivatives(function, x: Tensor, order: int) -> list[Tensor]:
    """Value and derivatives up to ``order`` of a function of one variable.

    At every entry of x (n,): each (n, ...).
    """
    columns = []
    for index in range(function(x).reshape(len(x), -1).shape[1]):
        x_ = x.clone().requires_grad_(True)
        value = function(x_).reshape(len(x_), -1)[:, index]
        column = [value]
        for _ in range(order):
            last = column[-1]
            column.append(
                torch.autograd.grad(last.sum(), x_, create_graph=True)[0]
                if last.requires_grad
                else torch.zeros_like(x)
            )
        columns.append(column)
    return [torch.stack(parts, -1).detach() for parts in zip(*columns, strict=True)]


@EVERY_BASIS
@LAWS
@given(r=st.lists(st.floats(1e-3, 1.5 * CUTOFF), min_size=1, max_size=8), size=st.integers(2, 12))
def test_closed_form(name, r, size):
    basis = RADIAL_BASES[name](CUTOFF, size)
    found, length = basis(torch.tensor(r)), torch.tensor(r)
    assert found.shape == (len(r), basis.size)
    torch.testing.assert_close(found, closed_form(name, length, size), rtol=1e-12, atol=1e-12)


@EVERY_BASIS
def test_derivatives_match_differences(name):
    """At contact (r = 0), at the switch of the Bessel series, and at ordinary distances.

    Differences are taken to both sides of each.
    """
    switch = 0.1 * CUTOFF / math.pi
    r = torch.tensor(
        [1e-4, switch / 4, switch / 3 * (1 - 1e-9), switch * (1 + 1e-9), 1.0, CUTOFF]
    ).requires_grad_(True)
    basis = RADIAL_BASES[name](CUTOFF, 6)
    assert torch.autograd.gradcheck(basis, r) and torch.autograd.gradgradcheck(basis, r, atol=1e-4)


@EVERY_BASIS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_finite_at_contact_with_three_derivatives(name, dtype):
    at_zero = derivatives(RADIAL_BASES[name](CUTOFF, 5), torch.zeros(1, dtype=dtype), 3)
    assert all(torch.isfinite(part).all() and part.dtype == dtype for part in at_zero)


def test_bessel_at_contact():
    """Value sqrt(2 / c) k, slope 0, curvature -sqrt(2 / c) k^3 / 3 with k = n pi / c.

    The series of sin(k r) / r.
    """
    k = torch.arange(1, 9) * math.pi / CUTOFF
    value, slope, curvature, third = derivatives(
        RADIAL_BASES["bessel"](CUTOFF, 8), torch.zeros(1), 3
    )
    torch.testing.assert_close(value[0], (2 / CUTOFF) ** 0.5 * k, rtol=1e-14, atol=0)
    torch.testing.assert_close(curvature[0], -((2 / CUTOFF) ** 0.5) * k**3 / 3, rtol=1e-13, atol=0)
    assert not slope.any() and not third.any()


def test_bessel_is_the_spherical_bessel_function():
    """b_n(r) = sqrt(2 / c) k j_0(k r), and b_n(c) = 0."""
    r = torch.linspace(0, CUTOFF, 200)
    k = torch.arange(1, 9) * math.pi / CUTOFF
    expected = (
        (2 / CUTOFF) ** 0.5 * k * torch.as_tensor(spherical_jn(0, (k * r.unsqueeze(-1)).numpy()))
    )
    found = RADIAL_BASES["bessel"](CUTOFF, 8)(r)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert float(found[-1].abs().max()) <= 1e-14


def test_bessel_is_orthonormal_in_the_ball():
    """int_0^c b_n b_m r^2 dr = delta_nm, by Gauss-Legendre quadrature."""
    nodes, weights = (torch.as_tensor(part) for part in leggauss(60))
    r, w = (nodes + 1) * CUTOFF / 2, weights * CUTOFF / 2
    values = RADIAL_BASES["bessel"](CUTOFF, 10)(r)
    torch.testing.assert_close(
        values.T @ (values * (w * r**2).unsqueeze(-1)), torch.eye(10), rtol=0, atol=1e-13
    )


@EVERY_BASIS
@LAWS
@given(factor=st.floats(0.01, 100))
def test_scales_with_the_cutoff(name, factor):
    """A change of the unit of length changes no feature.

    Bessel functions keep their dimension of length^(-3/2).
    """
    r = torch.linspace(0, CUTOFF, 7)
    before = RADIAL_BASES[name](CUTOFF, 6)(r)
    after = RADIAL_BASES[name](factor * CUTOFF, 6)(factor * r)
    torch.testing.assert_close(
        after * (factor**1.5 if name == "bessel" else 1.0), before, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("name", ["gaussian", "log_gaussian"])
def test_gaussians_cover_the_range(name):
    """There is no gap between the centres.

    They stand at 0 .. cutoff; each function is 1 at its own centre and exp(-1/2) at the next.
    """
    values = RADIAL_BASES[name](CUTOFF, 9)(torch.linspace(0, CUTOFF, 1001))
    assert values[0, 0] == 1 and float(values[-1, -1]) == pytest.approx(1, abs=1e-14)
    assert (
        float(values[0, 1]) == pytest.approx(math.exp(-0.5))
        and float(values.max(1).values.min()) >= math.exp(-0.125) - 1e-3
    )


# envelopes


@pytest.mark.parametrize("name", SMOOTHNESS)
def test_envelope_falls_from_one_to_zero(name):
    x = torch.linspace(0, 1, 2001)
    values = ENVELOPES[name](x)
    assert values[0] == 1 and values[-1] == 0
    assert (values[1:] <= values[:-1]).all() and (values >= 0).all()
    assert (values[10:-10].diff() < 0).all()


@pytest.mark.parametrize("name", SMOOTHNESS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_envelope_never_becomes_negative_by_rounding(name, dtype):
    x = (1 - torch.logspace(-17, 0, 3000)).to(dtype)
    values = ENVELOPES[name](x)
    assert (values >= 0).all() and (values <= 1).all() and values.dtype == dtype


@pytest.mark.parametrize("name", SMOOTHNESS)
def test_envelope_ends_smoothly(name):
    """At the cutoff the value and the promised derivatives go to zero from inside.

    All are zero beyond.
    """
    order = SMOOTHNESS[name]
    distance = 1e-6
    inside = derivatives(ENVELOPES[name], torch.tensor([1 - distance]), order + 1)
    bound = 1e3  # of the derivatives that follow
    for k in range(order + 1):
        assert float(inside[k].abs()) <= bound * distance ** (order + 1 - k)
    assert float(inside[order + 1].abs()) > 1  # and no smoother than promised
    for part in derivatives(ENVELOPES[name], torch.tensor([1.0, 1 + 1e-9, 2.0, 40.0]), 3):
        assert not part.any()


@pytest.mark.parametrize("name", SMOOTHNESS)
def test_envelope_starts_flat(name):
    value, slope, _ = derivatives(ENVELOPES[name], torch.zeros(1), 2)
    assert value == 1 and slope == 0


@LAWS
@given(power=st.integers(2, 9), x=st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_polynomial_envelope_is_that_of_the_publication(power, x):
    """1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2)."""
    at, p = torch.tensor(x), power
    expected = (
        1
        - (p + 1) * (p + 2) / 2 * at**p
        + p * (p + 2) * at ** (p + 1)
        - p * (p + 1) / 2 * at ** (p + 2)
    )
    torch.testing.assert_close(polynomial_envelope(at, power), expected, rtol=0, atol=1e-13)


@LAWS
@given(x=st.lists(st.floats(0, 2), min_size=1, max_size=10))
def test_cosine_envelope_is_that_of_the_publication(x):
    expected = [(1 + math.cos(math.pi * value)) / 2 if value < 1 else 0.0 for value in x]
    torch.testing.assert_close(
        ENVELOPES["cosine"](torch.tensor(x)), torch.tensor(expected), rtol=0, atol=1e-15
    )


def test_no_envelope_is_one_everywhere():
    assert torch.equal(ENVELOPES["none"](torch.tensor([0.0, 0.5, 1.0, 7.0])), torch.ones(4))


@pytest.mark.parametrize("name", SMOOTHNESS)
def test_envelope_derivatives_match_differences(name):
    x = torch.tensor([0.0, 0.2, 0.77, 0.99, 1.3]).requires_grad_(True)
    assert torch.autograd.gradcheck(ENVELOPES[name], x) and torch.autograd.gradgradcheck(
        ENVELOPES[name], x
    )


# trunk


@EVERY_BASIS
@pytest.mark.parametrize("scalars", [0, 2])
def test_trunk_reads_length_and_scalars_smoothly(name, scalars):
    """Each edge has its own hidden invariants, with second derivatives in the length.

    Also at contact.
    """
    torch.manual_seed(0)
    trunk = RadialTrunk(RADIAL_BASES[name](CUTOFF, 4), scalars, 6).requires_grad_(False)
    length = torch.tensor([0.0, 0.4, 2.0])
    features = torch.randn(3, scalars) if scalars else None
    together = trunk(length, features)
    assert together.shape == (3, trunk.hidden) == (3, 6)
    for edge in range(3):
        alone = trunk(
            length[edge : edge + 1], None if features is None else features[edge : edge + 1]
        )
        torch.testing.assert_close(alone[0], together[edge], rtol=0, atol=1e-14)
    if scalars:
        assert not torch.allclose(trunk(length, features + 1), together)
    assert all(
        torch.isfinite(part).all() for part in derivatives(lambda r: trunk(r, features), length, 2)
    )
