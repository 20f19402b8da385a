"""Laws of the coupling tables and of the layer made of them.

Clebsch-Gordan isometries, Wigner's 6j symbols and the recoupling they stand for.
"""

from __future__ import annotations

import math

import pytest
import torch

from farfield.models.so3.coupling import KernelCoupling, clebsch_gordan, wigner_6j
from farfield.models.so3.irreps import degree_slice, num_rows

TRIADS = [(a, b, c) for a in range(4) for b in range(4) for c in range(abs(a - b), a + b + 1)]


@pytest.mark.parametrize("degrees", TRIADS)
def test_clebsch_gordan_is_an_isometry(degrees):
    table = clebsch_gordan(*degrees).flatten(0, 1)
    assert torch.allclose(
        table.T @ table, torch.eye(2 * degrees[2] + 1, dtype=torch.float64), atol=1e-13
    )


@pytest.mark.parametrize(
    ("symbol", "value"),
    [
        ((1, 1, 1, 1, 1, 1), 1 / 6),
        ((1, 1, 2, 1, 1, 2), 1 / 30),
        ((1, 1, 1, 2, 1, 1), 1 / 6),
        ((2, 2, 2, 2, 2, 2), -3 / 70),
        ((1, 1, 0, 2, 2, 1), 1 / math.sqrt(15)),
    ],
)
def test_6j_has_the_tabulated_value(symbol, value):
    assert wigner_6j(*symbol) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize(("a", "b", "c"), TRIADS)
def test_6j_with_a_zero_is_closed(a, b, c):
    """{a b c; 0 c b} = (-1)^(a+b+c) / sqrt((2 b + 1)(2 c + 1)) (Edmonds, eq. 6.3.2)."""
    assert wigner_6j(a, b, c, 0, c, b) == pytest.approx(
        (-1) ** (a + b + c) / math.sqrt((2 * b + 1) * (2 * c + 1)), rel=1e-14
    )


def test_6j_does_not_change_with_the_order_of_columns_nor_of_two_rows():
    for a, b, c, d, e, f in [(1, 2, 3, 2, 1, 2), (2, 2, 1, 1, 2, 2), (3, 2, 2, 1, 1, 2)]:
        value = wigner_6j(a, b, c, d, e, f)
        assert value != 0
        for other in [(b, a, c, e, d, f), (c, b, a, f, e, d), (d, e, c, a, b, f)]:
            assert wigner_6j(*other) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize(
    ("a", "b", "d", "e"), [(1, 1, 1, 1), (2, 1, 2, 1), (2, 2, 2, 2), (3, 2, 2, 3)]
)
def test_6j_are_orthogonal(a, b, d, e):
    """sum_c (2 c + 1)(2 f + 1) {a b c; d e f} {a b c; d e g} = delta_fg."""
    common = range(max(abs(a - e), abs(b - d)), min(a + e, b + d) + 1)
    for f in common:
        for g in common:
            total = sum(
                (2 * c + 1)
                * (2 * f + 1)
                * wigner_6j(a, b, c, d, e, f)
                * wigner_6j(a, b, c, d, e, g)
                for c in range(a + b + 1)
            )
            assert total == pytest.approx(float(f == g), abs=1e-13)


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("order", range(4))
def test_6j_recouple_three_tensors(first, order):
    """``[x (x) [b^k (x) a^(l-k)]^l]^L = sum_d U [[x (x) b]^d (x) a]^L``.

    Written with tables of Clebsch-Gordan coefficients.
    """
    for k in range(order + 1):
        for out in range(abs(first - order), first + order + 1):
            left = torch.einsum(
                "abe,xeo->xabo",
                clebsch_gordan(k, order - k, order),
                clebsch_gordan(first, order, out),
            )
            right = torch.zeros_like(left)
            for d in range(abs(first - k), first + k + 1):
                if abs(d - (order - k)) <= out <= d + order - k:
                    weight = (-1) ** (first + order + out) * math.sqrt(
                        (2 * d + 1) * (2 * order + 1)
                    )
                    symbol = wigner_6j(first, k, d, order - k, out, order)
                    pair = torch.einsum(
                        "xad,dbo->xabo",
                        clebsch_gordan(first, k, d),
                        clebsch_gordan(d, order - k, out),
                    )
                    right += weight * symbol * pair
            assert torch.allclose(left, right, atol=1e-13, rtol=0)


def test_what_violates_a_triangle_is_zero_or_refused():
    assert wigner_6j(1, 1, 3, 1, 1, 1) == 0
    assert wigner_6j(1, 1, 1, 3, 1, 1) == 0
    with pytest.raises(ValueError, match=r"degrees \(1, 1, 3\) violate the triangle"):
        clebsch_gordan(1, 1, 3)
    with pytest.raises(ValueError, match=r"must be >= 0, got \(1, 1, -1"):
        wigner_6j(1, 1, -1, 1, 1, 1)


@pytest.mark.parametrize(
    "degrees", [(0, 2, 2), (0, 1, 2), (0, 2, 1), (0, 0, 1), (1, 1, 2), (2, 2, 2), (1, 2, 0)]
)
def test_coupling_is_the_weighted_sum_over_its_paths(degrees):
    kernel_lmax, value_lmax, lmax = degrees
    torch.manual_seed(0)
    layer = KernelCoupling(kernel_lmax, value_lmax, lmax, heads=2, channels=3).double()
    x = torch.randn(4, 2, num_rows(kernel_lmax), num_rows(value_lmax), 3, dtype=torch.float64)
    expected = torch.zeros(4, num_rows(lmax), 2, 3, dtype=torch.float64)
    for place, (l, lam, out) in enumerate(layer.paths):
        pair = x[:, :, degree_slice(l), degree_slice(lam)]
        message = torch.einsum(
            "abm,nhabc,hc->nmhc", clebsch_gordan(l, lam, out), pair, layer.weight[:, place]
        )
        expected[:, degree_slice(out)] += (
            message / sum(path[2] == out for path in layer.paths) ** 0.5
        )
    assert torch.allclose(layer(x.flatten(3)), expected.flatten(2), atol=1e-13)
