"""Laws of the plane waves: the error law, one answer with the sum over pairs, derivatives."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch

from farfield.models.far_field.expansion import ExpansionOptions, RadiusGuard
from farfield.models.far_field.expansions.pairwise import PairwiseExpansion
from farfield.models.far_field.expansions.planewave import (
    LARGEST_SIZE,
    PlaneWaveExpansion,
    direction_error,
    directions_for,
)
from farfield.models.graph_ops import GraphIndex
from farfield.models.so3.irreps import degree_slice
from farfield.models.so3.quadrature import RULES
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.far_field_clouds import CORNERS, ball, batch, features
from tests.support.turns import orthogonal, turn_matrix

BAND = (1.0, 1.2, 1.4)  # of the public program


def build(wave_numbers: tuple[float, ...], lmax: int, **options) -> PlaneWaveExpansion:
    return PlaneWaveExpansion(wave_numbers, lmax, ExpansionOptions(**options))


def coarse(wave_numbers: tuple[float, ...], lmax: int, **options) -> PlaneWaveExpansion:
    """With a fixed number of directions, its warning taken for granted."""
    with pytest.warns(UserWarning, match="directions of rule"):
        return build(wave_numbers, lmax, **options)


def kernel(expansion, positions: torch.Tensor, graph: GraphIndex, lmax: int) -> torch.Tensor:
    """Kernels of all degrees between the two atoms of each graph: (graphs, rows)."""
    ones = torch.ones(graph.num_nodes, 1, 1, dtype=torch.float64)
    listening = torch.zeros_like(ones)
    listening[1::2] = 1  # value 1 at the second atom alone
    coefficients = torch.ones(lmax + 1, 1, 1, dtype=torch.float64)
    return expansion(graph, positions, ones, ones, listening, coefficients)[::2, 0, :, 0]


TOLERANCES = (1e-3, 1e-5, 1e-7)
TWO_RULES = ("lebedev", "gauss_legendre")
# the largest graphs cost as much as all others: the fewest directions at both ends, the other rule
# between them
ACCURACIES = [
    *itertools.product(TWO_RULES, (0.1, 1.0, 6.0), TOLERANCES),
    ("lebedev", 32.0, 1e-3),
    ("gauss_legendre", 32.0, 1e-5),
    ("lebedev", 32.0, 1e-7),
]


@pytest.mark.parametrize(("rule", "size", "tolerance"), ACCURACIES)
def test_planewave_is_pairwise_within_its_tolerance(rule, size, tolerance):
    """kappa x radius up to ``size``, every degree l <= 3 and head by itself, ragged batch."""
    radius, graph = 7.0, batch(CORNERS)
    inputs = graph, ball(graph, radius), *features(graph)
    wave_numbers = (size / radius,) if size > 12 else (0.4 * size / radius, size / radius)
    coefficients = draw(4, 2, len(wave_numbers), seed=8)
    expansion = build(wave_numbers, 3, tolerance=tolerance, design_radius=radius, rule=rule)
    found = expansion(*inputs, coefficients)
    exact = PairwiseExpansion(wave_numbers, 3)(*inputs, coefficients)
    for l in range(4):
        for head in range(2):
            rows = degree_slice(l)
            error = (found - exact)[:, head, rows].norm() / exact[:, head, rows].norm()
            assert error <= tolerance, f"degree {l}, head {head}: {error:.1e}"


@pytest.mark.parametrize(
    ("rule", "size", "tolerance"),
    [("fibonacci", 2.0, 1e-3), ("fibonacci", 8.0, 1e-3), ("e3nn_grid", 8.0, 1e-6)],
)
def test_other_rules_keep_their_tolerance_too(rule, size, tolerance):
    radius, graph = 7.0, batch(CORNERS)
    inputs = graph, ball(graph, radius), *features(graph), draw(4, 2, 1, seed=8)
    found = build((size / radius,), 3, tolerance=tolerance, design_radius=radius, rule=rule)(
        *inputs
    )
    exact = PairwiseExpansion((size / radius,), 3)(*inputs)
    for l in range(4):
        rows = degree_slice(l)
        assert (found - exact)[:, :, rows].norm() <= tolerance * exact[:, :, rows].norm()


@pytest.mark.parametrize(
    ("rule", "count"),
    [("lebedev", 110), ("gauss_legendre", 72), ("gauss_legendre", 66), ("fibonacci", 400)],
)
def test_error_law_is_the_error_over_pairs_of_a_sphere(rule, count):
    """Root mean squares over random pairs; the worst degree; whole grids and halves."""
    lmax, kappa, radius, samples = 2, 0.5, 7.0, 2000
    first, second = (
        radius * torch.nn.functional.normalize(draw(samples, 3, seed=seed), dim=1)
        for seed in (2, 3)
    )
    ends, graph = torch.stack([first, second], 1).flatten(0, 1), batch([2] * samples)
    exact = kernel(PairwiseExpansion((kappa,), lmax), ends, graph, lmax)
    error = (
        kernel(
            coarse((kappa,), lmax, rule=rule, directions=count, design_radius=radius),
            ends,
            graph,
            lmax,
        )
        - exact
    )
    measured = max(
        float(error[:, degree_slice(l)].norm() / exact[:, degree_slice(l)].norm())
        for l in range(lmax + 1)
    )
    expected = direction_error(rule, count, kappa * radius, lmax)
    assert 1e-6 < expected < 0.1
    assert abs(measured / expected - 1) < 0.1


@pytest.mark.parametrize("rule", ["lebedev", "gauss_legendre", "e3nn_grid"])
def test_law_asks_for_the_smallest_rule(rule):
    """One step finer than a rule that is not enough.

    More waves, degrees and digits need more directions.
    """
    counts = [RULES[rule].count(degree) for degree in RULES[rule].degrees]
    for size in (0.3, 2.0, 8.0):
        count = directions_for(rule, size, 1e-5, 2)
        assert (
            direction_error(rule, count, size, 2)
            <= 1e-5
            < direction_error(rule, counts[counts.index(count) - 1], size, 2)
        )
        assert (
            directions_for(rule, size / 2, 1e-5, 2)
            <= count
            <= directions_for(rule, 2 * size, 1e-5, 2)
        )
        assert directions_for(rule, size, 1e-3, 2) <= count <= directions_for(rule, size, 1e-7, 2)
        assert count <= directions_for(rule, size, 1e-5, 3)


def test_degrees_grow_as_measured():
    """p = X + a X^(1/3) + b, X = 2 kappa R, was fitted to product rules and absolute errors.

    Our errors are relative and the worst; the degree is at most 8 off.
    """
    for tolerance, a, b in ((1e-3, 0.78, 3.2), (1e-5, 2.09, 4.2), (1e-7, 3.83, 3.5)):
        for size in (1.0, 4.0, 20.0):
            law = 2 * size + a * (2 * size) ** (1 / 3) + b
            degree = (2 * directions_for("gauss_legendre", size, tolerance, 2)) ** 0.5 - 1
            assert -2 <= degree - law <= 8


def turning_errors(expansion: PlaneWaveExpansion, radius: float) -> list[float]:
    """Of each degree, relative to its sum, the worst of two turns of 64 atoms evenly in a ball."""
    graph = batch([64])
    points = torch.nn.functional.normalize(draw(64, 3, seed=0), dim=1) * (torch.arange(1, 65) / 64)[
        :, None
    ] ** (1 / 3)
    positions, parts = ball_of(points, radius), features(graph)
    coefficients = draw(3, 2, len(expansion.wave_numbers), seed=8).abs()
    here, errors = expansion(graph, positions, *parts, coefficients), []
    for turn in (orthogonal(3), orthogonal(4)):
        there = expansion(graph, positions @ turn.T, *parts, coefficients)
        expected = torch.einsum("rs,nhsv->nhrv", turn_matrix(turn, 2), here)
        errors.append(
            [
                float(
                    (there - expected)[:, :, degree_slice(l)].norm()
                    / expected[:, :, degree_slice(l)].norm()
                )
                for l in range(3)
            ]
        )
    return [max(each) for each in zip(*errors, strict=True)]


def ball_of(points: torch.Tensor, radius: float) -> torch.Tensor:
    """Points (n, 3) about their centroid, the farthest at ``radius``."""
    points = points - points.mean(0)
    return points * (radius / points.norm(dim=1).max())


def test_twenty_five_directions_do_not_turn_with_the_atoms_and_ours_do():
    """The public setting at 5 Angstrom."""
    fixed = coarse(BAND, 2, rule="gauss_legendre", directions=25, design_radius=5.0)
    assert min(turning_errors(fixed, 5.0)) > 0.1
    for tolerance in (1e-3, 1e-6):
        ours = build(BAND, 2, tolerance=tolerance, design_radius=5.0)
        assert max(turning_errors(ours, 5.0)) < tolerance


def test_moving_all_atoms_changes_nothing():
    graph = batch(CORNERS)
    positions, parts, coefficients = ball(graph, 5.0), features(graph), draw(3, 2, 2, seed=8)
    expansion = build((0.2, 0.8), 2, design_radius=5.0)
    here = expansion(graph, positions, *parts, coefficients)
    there = expansion(graph, positions + 1e3, *parts, coefficients)
    torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-9)


def test_float32_phases():
    """float32 positions lose no more than float32 has to.

    The tables keep float64 until they are used, also after a detour of the module.
    """
    graph = batch(CORNERS)
    inputs = [ball(graph, 10.0), *features(graph), draw(3, 2, 2, seed=8)]
    expansion = build((0.4, 1.0), 2, tolerance=1e-6, design_radius=10.0)
    exact = expansion(graph, *inputs)
    single = expansion.float()(graph, *(part.float() for part in inputs))
    assert single.dtype == torch.float32
    assert (single.double() - exact).norm() < 1e-5 * exact.norm()
    torch.testing.assert_close(expansion.double()(graph, *inputs), exact, rtol=0, atol=0)


@pytest.mark.parametrize("rule", RULES)
def test_all_derivatives(rule):
    """Odd and even degrees; an atom at the centroid, two in one place."""
    graph = batch([3, 2])
    positions = torch.tensor(
        [[1.0, 0, 0], [-1, 0, 0], [0, 0, 0], [1, 2, 0], [1, 2, 0]], dtype=torch.float64
    )
    inputs = [
        tensor.requires_grad_()
        for tensor in (positions, *features(graph, (1, 1, 1)), draw(4, 1, 1, seed=8))
    ]
    expansion = coarse(
        (0.8,),
        3,
        design_radius=2.0,
        rule=rule,
        directions={"lebedev": 26, "gauss_legendre": 15}.get(rule, 12),
    )
    assert_all_derivatives(lambda *x: expansion(graph, *x), inputs)


def test_graphs_of_a_batch_never_meet():
    """Moving one graph and spoiling its features leaves the others as they are."""
    graph = batch(CORNERS)
    positions, (queries, keys, values), coefficients = (
        ball(graph, 5.0),
        features(graph),
        draw(3, 2, 2, seed=8),
    )
    expansion = build((0.2, 0.8), 2, design_radius=10.0)
    before = expansion(graph, positions, queries, keys, values, coefficients)
    own = graph.graph_of_node == 3
    moved = positions + own[:, None] * draw(graph.num_nodes, 3, seed=9)
    after = expansion(
        graph,
        moved,
        queries,
        keys * (1 + own[:, None, None]),
        values.masked_fill(own[:, None, None], torch.inf),
        coefficients,
    )
    torch.testing.assert_close(after[~own], before[~own], rtol=1e-13, atol=1e-13)
    assert not after[own].isfinite().any()


def test_fixed_directions_quote_their_error_once():
    with pytest.warns(
        UserWarning,
        match=r"^50 directions of rule 'lebedev' .* may reach \d\.\de[-+]\d\d at design_radius 5$",
    ) as caught:
        expansion = build((0.4, 0.8), 2, directions=50, design_radius=5.0)
    assert len(caught) == 1 and f"{direction_error('lebedev', 50, 4.0, 2):.1e}" in str(
        caught[0].message
    )
    assert expansion.directions == (50, 50) and expansion.moments == 100
    graph = batch([20])
    rest = *features(graph), draw(3, 2, 2, seed=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expansion(graph, ball(graph, 5.0), *rest)
    with pytest.warns(
        UserWarning,
        match=f"instead of {direction_error('lebedev', 50, 4.0, 2):.1e}; make the design radius "
        ".* 5.5 or more",
    ):
        expansion(graph, ball(graph, 5.5), *rest)


def test_beyond_the_design_radius_one_warning_quotes_the_error():
    graph = batch([20])
    inputs = graph, ball(graph, 12.0), *features(graph), draw(2, 2, 1, seed=8)
    expansion = build((0.8,), 1, tolerance=1e-5, design_radius=6.0)
    with pytest.warns(
        UserWarning, match=r"12 Angstrom .* design radius 6: .* instead of 1.0e-05"
    ) as caught:
        expansion(*inputs)
        expansion(*inputs)
    assert len(caught) == 1 and f"{expansion.expected_error(12.0):.1e}" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build((0.8,), 1, design_radius=12.1)(*inputs)


def test_rounding_is_not_beyond_the_design_radius():
    guard, squared = RadiusGuard(5.0, 0.1), torch.tensor([1.0, 25.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guard.check(squared * (1 + 1e-6), lambda radius: 0.2)
        guard.check(squared * 1.1, lambda radius: 0.09)
        guard.check(squared * torch.nan, lambda radius: 0.2)
    with pytest.warns(
        UserWarning,
        match=r"error may reach 2.0e-01 instead of 1.0e-01; make the design radius .* 5.5 or more",
    ):
        guard.check(squared * 1.21, lambda radius: 0.2)


def test_expected_error_of_a_graph_past_all_use_is_quick_and_large():
    assert (
        direction_error("lebedev", 50, 1e6, 2)
        == direction_error("lebedev", 50, LARGEST_SIZE, 2)
        > 1
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rule": "designs"},
            "rule of the far field must be one of lebedev, .* got 'designs'",
        ),
        ({"directions": 25}, "no lebedev rule of 25 directions; the nearest has 26"),
        (
            {"directions": 0, "rule": "fibonacci"},
            "no fibonacci rule of 0 directions; the nearest has 1",
        ),
        ({"design_radius": 101.0}, "kappa x design_radius <= 100, got 101; choose"),
        (
            {"design_radius": 3.0, "tolerance": 1e-15},
            r"no lebedev rule of up to \d+ directions keeps degrees <= 2 within tolerance 1e-15 "
            r"at .* = 3;",
        ),
        ({"rule": "fibonacci", "tolerance": 1e-7}, "no fibonacci rule .* choose another rule"),
    ],
)
def test_refuses_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        build((1.0,), 2, **options)
    assert "\n" not in str(caught.value)


def test_refuses_cells():
    graph = batch([2])
    inputs = graph, ball(graph, 1.0), *features(graph), draw(2, 2, 1, seed=8)
    with pytest.raises(ValueError, match="PlaneWaveExpansion is for open systems"):
        build((0.5,), 1)(*inputs, cell=torch.eye(3)[None])
