"""Laws of the rules: exactness, symmetric halves, counts, agreement with e3nn's grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from e3nn.o3 import FromS2Grid

from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, num_rows
from farfield.models.so3.quadrature import FIBONACCI_ERROR, RULES, Quadrature, half

EVERY = pytest.mark.parametrize("name", RULES)
EXACT = ["lebedev", "gauss_legendre", "e3nn_grid"]


def averages(rule: Quadrature, low: int, high: int) -> torch.Tensor:
    """``sum_s w_s Y_lm Y_LM`` of degrees <= low and <= high: (rows, rows)."""
    harmonics = spherical_harmonics(torch.from_numpy(rule.directions), high)
    return (harmonics[:, : num_rows(low)] * torch.from_numpy(rule.weights)[:, None]).T @ harmonics


def orthogonality(low: int, high: int) -> torch.Tensor:
    return torch.eye(num_rows(low), num_rows(high), dtype=torch.float64) / (
        2 * degree_of_row(low)[:, None] + 1
    )


DEGREES = (1, 2, 3, 4, 7, 10, 16, 17, 25, 40)


@pytest.mark.parametrize(("name", "degree"), [*itertools.product(EXACT, DEGREES), ("lebedev", 71)])
def test_exact_to_its_degree(name, degree):
    """The rule is exact to its degree, and not to two degrees more.

    Shown on products of two harmonics whose degrees add up to it.
    """
    rule = RULES[name](degree)
    for low in {0, degree // 2}:
        found = averages(rule, low, degree - low)
        assert (found - orthogonality(low, degree - low)).abs().max() < 1e-13
    reached = (
        next((d for d in RULES[name].degrees if d >= degree), degree)
        if name == "lebedev"
        else degree
    )
    assert (
        averages(rule, 0, reached + 1)[0, 1:].abs().max() > 1e-3
        or averages(rule, 0, reached + 2)[0, 1:].abs().max() > 1e-3
    )


@EVERY
@pytest.mark.parametrize("degree", [3, 9, 20, 31])
def test_directions_are_unit_vectors_with_positive_weights_of_sum_one(name, degree):
    rule = RULES[name](degree)
    count = RULES[name].count(degree)
    assert (
        rule.directions.shape == (count, 3)
        and rule.weights.shape == (count,)
        and rule.directions.dtype == np.float64
    )
    np.testing.assert_allclose(np.linalg.norm(rule.directions, axis=1), 1, rtol=1e-14)
    assert rule.weights.min() > 0 and abs(rule.weights.sum() - 1) < 1e-14


def test_lebedev_leaves_out_negative_weights():
    for order in (13, 25, 27):
        assert RULES["lebedev"](order).weights.min() > 0
        assert order not in RULES["lebedev"].degrees


@pytest.mark.parametrize("degree", [4, 10, 25, 50, 80])
def test_fibonacci_law(degree):
    """Harmonics up to the degree average to zero within the error that the law promises.

    With half as many directions they do not.
    """
    rule = RULES["fibonacci"]
    assert averages(rule(degree), 0, degree)[0, 1:].abs().max() < FIBONACCI_ERROR
    assert (
        averages(rule.sized(rule.count(degree) // 2), 0, degree)[0, 1:].abs().max()
        > FIBONACCI_ERROR
    )


@EVERY
@pytest.mark.parametrize("degree", [3, 5, 11, 20, 31])
def test_half_of_an_antipodal_rule_gives_the_same_averages_of_even_functions(name, degree):
    whole = RULES[name](degree)
    kept = half(whole)
    antipodal = name != "fibonacci" and (name == "lebedev" or degree % 2 == 1)
    assert len(kept.weights) == len(whole.weights) // (2 if antipodal else 1)
    top = degree + 8
    even = (degree_of_row(3)[:, None] + degree_of_row(top)) % 2 == 0
    assert ((averages(kept, 3, top) - averages(whole, 3, top))[even]).abs().max() < 1e-13


def test_nearly_opposite_directions_and_unequal_weights_are_no_symmetry():
    rule = RULES["lebedev"](3)
    heavier = Quadrature(rule.directions, rule.weights * (1 + 0.1 * rule.directions[:, 0]))
    tilted = Quadrature(rule.directions + np.eye(6, 3) * 1e-6, rule.weights)
    assert half(heavier) is heavier and half(tilted) is tilted


@EVERY
def test_a_number_of_directions_gives_the_rule_of_that_number(name):
    rule = RULES[name]
    for degree in rule.degrees[:12]:
        sized, asked = rule.sized(rule.count(degree)), rule(degree)
        np.testing.assert_array_equal(sized.directions, asked.directions)
        np.testing.assert_array_equal(sized.weights, asked.weights)


def test_twenty_five_product_directions_are_five_times_five():
    """The public setting: five circles of five azimuths, exact to degree 4."""
    rule = RULES["gauss_legendre"].sized(25)
    assert len(np.unique(rule.directions[:, 1].round(9))) == 5
    assert (averages(rule, 2, 2) - orthogonality(2, 2)).abs().max() < 1e-14


@pytest.mark.parametrize(("polar", "azimuths"), [(4, 4), (10, 10), (8, 5)])
def test_e3nn_grid_is_that_of_e3nn(polar, azimuths):
    """The points of e3nn in the order of e3nn, with its weights.

    The weights are the transform of every point to degree 0, which e3nn rounds to float32.
    """
    rule = RULES["e3nn_grid"].sized(polar * azimuths)
    transform = FromS2Grid((polar, azimuths), 0, dtype=torch.float64)
    np.testing.assert_allclose(rule.directions, transform.grid.flatten(0, 1).numpy(), atol=1e-7)
    weights = transform(
        torch.eye(polar * azimuths, dtype=torch.float64).unflatten(1, (polar, azimuths))
    ).squeeze(1)
    np.testing.assert_allclose(rule.weights, (weights / weights.sum()).numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "count", "nearest"),
    [
        ("lebedev", 25, 26),
        ("lebedev", 74, 86),
        ("gauss_legendre", 26, 25),
        ("gauss_legendre", -1000, 1),
        ("e3nn_grid", 25, 24),
    ]
    + [("fibonacci", 0, 1)],
)
def test_numbers_without_a_rule_name_the_nearest(name, count, nearest):
    with pytest.raises(
        ValueError, match=f"no {name} rule of {count} directions; the nearest has {nearest}$"
    ):
        RULES[name].sized(count)


@EVERY
@pytest.mark.parametrize("degree", [-1, 10_000])
def test_refuses_degrees_out_of_range(name, degree):
    with pytest.raises(
        ValueError, match=rf"degree of a {name} rule must be in 0 \.\. \d+, got {degree}"
    ):
        RULES[name](degree)
