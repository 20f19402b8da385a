"""Laws of all expansions: one sum, exact turns at any truncation, graphs of a batch kept apart."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.special import spherical_jn

from farfield.models.far_field.attention import FarFieldAttention, FarFieldOptions
from farfield.models.far_field.expansion import Expansion, ExpansionOptions
from farfield.models.far_field.expansions import EXPANSIONS
from farfield.models.far_field.expansions.multipole import MultipoleExpansion
from farfield.models.far_field.expansions.pairwise import PairwiseExpansion
from farfield.models.far_field.spectrum import RadialSpectrum, SpectrumOptions
from farfield.models.graph_ops import broadcast_nodes
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, degree_slice
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.far_field_clouds import CORNERS, OPEN, SHAPE, ball, batch, features
from tests.support.turns import orthogonal, turn_matrix

BOTH = pytest.mark.parametrize("name", OPEN)
RADII = [2.5, 5.0, 10.0, 20.0, 40.0]


def build(name: str, wave_numbers: tuple[float, ...], lmax: int, **options):
    return EXPANSIONS[name](wave_numbers, lmax, ExpansionOptions(**options))


def test_pairwise_is_the_sum_it_says():
    """Against scipy's Bessel functions, unit vectors and a loop over pairs with the atom itself."""
    graph = batch(CORNERS)
    positions, (queries, keys, values) = ball(graph, 6.0), features(graph)
    wave_numbers, coefficients = (0.3, 0.9), draw(4, 2, 2, seed=8)
    inputs = graph, positions, queries, keys, values, coefficients
    found = PairwiseExpansion(wave_numbers, 3)(*inputs)

    expected = torch.zeros_like(found)
    for number in range(graph.num_graphs):
        own = slice(int(graph.node_offsets[number]), int(graph.node_offsets[number + 1]))
        separation = positions[own, None] - positions[None, own]

        # f_lh(r) = sum_q a_lhq j_l(kappa_q r): (l, h, i, j).
        radial = 0
        for q, kappa in enumerate(wave_numbers):
            distance = (kappa * separation.norm(dim=-1)).numpy()
            waves = torch.as_tensor(np.stack([spherical_jn(l, distance) for l in range(4)]))
            radial = radial + coefficients[:, :, None, None, q] * waves[:, None]

        harmonics = spherical_harmonics(separation, 3).permute(2, 0, 1)[:, None]
        kernel = radial[degree_of_row(3)] * harmonics  # (rows, h, i, j)
        expected[own] = torch.einsum(
            "rhij,ihd,jhd,jhv->ihrv", kernel, queries[own], keys[own], values[own]
        )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [0.1, 1.0, 3.0, 12.0, 32.0])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_multipole_is_pairwise_within_its_tolerance(size, tolerance):
    """kappa x radius up to ``size``, every degree l <= 3 and head by itself, ragged batch."""
    radius, graph = 7.0, batch(CORNERS)
    inputs = graph, ball(graph, radius), *features(graph)
    wave_numbers = (size / radius,) if size > 12 else (0.4 * size / radius, size / radius)
    coefficients = draw(4, 2, len(wave_numbers), seed=8)
    multipole = build("multipole", wave_numbers, 3, tolerance=tolerance, design_radius=radius)
    found = multipole(*inputs, coefficients)
    exact = PairwiseExpansion(wave_numbers, 3)(*inputs, coefficients)
    for l in range(4):
        for head in range(2):
            rows = degree_slice(l)
            error = (found - exact)[:, head, rows].norm() / exact[:, head, rows].norm()
            assert error <= tolerance, f"degree {l}, head {head}: {error:.1e}"


def test_expansion_of_the_public_setting_is_exact_too():
    """kappa 1.0 .. 1.4 at a radius of 10: the band of the original program."""
    graph = batch([40])
    inputs = graph, ball(graph, 10.0), *features(graph), draw(3, 2, 2, seed=8)
    found = build("multipole", (1.0, 1.4), 2, tolerance=1e-4, design_radius=10.0)(*inputs)
    exact = PairwiseExpansion((1.0, 1.4), 2)(*inputs)
    assert (found - exact).norm() < 1e-4 * exact.norm()


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("truncations", [None, (0, 0), (1, 4), (6, 9)], ids=str)
def test_turns_with_the_atoms_at_any_truncation(dtype, bar, radius, truncations):
    """Rotations, a reflection and a translation; ``None`` is the pairwise sum."""
    graph, wave_numbers = batch(CORNERS), (0.2, 0.8)
    positions = ball(graph, radius)
    queries, keys, values = (part.to(dtype) for part in features(graph))
    coefficients = draw(3, 2, 2, seed=8).to(dtype)
    if truncations is None:
        expansion = PairwiseExpansion(wave_numbers, 2)
    else:
        expansion = MultipoleExpansion(
            wave_numbers, 2, ExpansionOptions(design_radius=radius * 1.01), truncations
        )
    here = expansion(graph, positions.to(dtype), queries, keys, values, coefficients).double()
    for proper in (True, False):
        turn = orthogonal(3, proper)
        moved = positions @ turn.T + radius * draw(1, 3, seed=4)
        there = expansion(graph, moved.to(dtype), queries, keys, values, coefficients).double()
        expected = torch.einsum("rs,nhsv->nhrv", turn_matrix(turn, 2), here)
        for l in range(3):
            rows = degree_slice(l)
            assert (there - expected)[:, :, rows].norm() <= bar * expected[:, :, rows].norm()


@BOTH
def test_graphs_never_see_each_other(name):
    """A batch is its graphs alone; NaN in one graph stays there."""
    graph = batch(CORNERS)
    positions, parts, coefficients = ball(graph, 5.0), features(graph), draw(3, 2, 2, seed=8)
    expansion = build(name, (0.2, 0.8), 2, design_radius=5.0)
    together = expansion(graph, positions, *parts, coefficients)
    for g, size in enumerate(CORNERS):
        own = graph.graph_of_node == g
        alone = expansion(
            batch([size]), positions[own], *(part[own] for part in parts), coefficients
        )
        torch.testing.assert_close(together[own], alone, rtol=1e-12, atol=1e-12)
    spoilt = positions.masked_fill((graph.graph_of_node == 2)[:, None], torch.nan)
    after = expansion(graph, spoilt, *parts, coefficients)
    assert torch.equal(after.isfinite().flatten(1).all(1), graph.graph_of_node != 2)


@BOTH
def test_lone_atom_hears_itself(name):
    graph = batch([1])
    queries, keys, values = features(graph)
    coefficients = draw(3, 2, 2, seed=8)
    found = build(name, (0.2, 0.8), 2)(
        graph, draw(1, 3, seed=0), queries, keys, values, coefficients
    )
    own = torch.einsum("nhd,nhd,nhv,h->nhv", queries, keys, values, coefficients[0].sum(-1))
    torch.testing.assert_close(found[:, :, 0], own)
    assert (found[:, :, 1:].abs() < 1e-15).all()


@BOTH
@pytest.mark.parametrize("sizes", [[], [0, 2, 0]])
def test_empty_graphs(name, sizes):
    graph = batch(sizes)
    found = build(name, (0.2, 0.8), 2)(
        graph, draw(graph.num_nodes, 3, seed=0), *features(graph), draw(3, 2, 2, seed=8)
    )
    assert found.shape == (sum(sizes), 2, 9, SHAPE[2]) and found.isfinite().all()


@BOTH
def test_pieces_do_not_matter(name):
    """Values and first and second derivatives with temporaries of a few numbers and of millions."""
    results = []
    for budget in (1, 2**22):
        graph = batch([20, 2, 2, 2])
        inputs = [ball(graph, 5.0), *features(graph), draw(3, 2, 1, seed=8)]
        inputs = [tensor.requires_grad_() for tensor in inputs]
        found = build(name, (0.8,), 2, design_radius=5.0, budget=budget)(graph, *inputs)
        first = torch.autograd.grad(found.square().sum(), inputs, create_graph=True)
        results.append(
            [
                found,
                *first,
                *torch.autograd.grad(sum(part.square().sum() for part in first), inputs),
            ]
        )
    for pieces, whole in zip(*results, strict=True):
        torch.testing.assert_close(
            pieces, whole, rtol=1e-9, atol=1e-11 * float(whole.detach().abs().max())
        )


@BOTH
def test_all_derivatives(name):
    """Also with an atom at the centroid, where r^ is undefined, and two atoms in one place."""
    graph = batch([3, 1, 2])
    positions = torch.tensor(
        [[1.0, 0, 0], [-1, 0, 0], [0, 0, 0], [3, 3, 3], [1, 2, 0], [1, 2, 0]], dtype=torch.float64
    )
    inputs = [positions, *features(graph, (1, 1, 1)), draw(3, 1, 1, seed=8)]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    expansion = build(name, (0.8,), 2, tolerance=0.1, design_radius=2.0)
    assert_all_derivatives(lambda *x: expansion(graph, *x), inputs)


def test_beyond_the_design_radius_one_warning_quotes_the_error():
    graph = batch([20])
    inputs = graph, ball(graph, 12.0), *features(graph), draw(2, 2, 1, seed=8)
    expansion = build("multipole", (0.8,), 1, tolerance=1e-5, design_radius=6.0)
    with pytest.warns(
        UserWarning, match=r"12 Angstrom .* design radius 6: .* instead of 1.0e-05"
    ) as caught:
        expansion(*inputs)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expansion(*inputs)
        build("multipole", (0.8,), 1, design_radius=12.1)(*inputs)


def test_moments_are_cut_at_the_centroid_not_at_the_origin():
    """A graph far from the origin needs no more moments."""
    graph = batch([20])
    positions, parts, coefficients = ball(graph, 5.0), features(graph), draw(2, 2, 1, seed=8)
    expansion = build("multipole", (0.8,), 1, design_radius=5.0)
    far = positions + broadcast_nodes(graph, torch.full((1, 3), 1e3, dtype=torch.float64))
    torch.testing.assert_close(
        expansion(graph, far, *parts, coefficients),
        expansion(graph, positions, *parts, coefficients),
        rtol=1e-9,
        atol=1e-9,
    )


BAD = [
    ("tolerance", 0.0),
    ("tolerance", 0.2),
    ("design_radius", 0.0),
    ("design_radius", float("inf")),
    ("design_radius", 2000),
]


@pytest.mark.parametrize(("option", "value"), [*BAD, ("budget", 0)])
def test_refuses_in_one_line(option, value):
    with pytest.raises(ValueError, match=option) as caught:
        ExpansionOptions(**{option: value})
    assert str(value) in str(caught.value) and "\n" not in str(caught.value)


def test_refuses_truncations_that_do_not_fit():
    with pytest.raises(ValueError, match="2 degrees >= 0"):
        MultipoleExpansion((0.2, 0.8), 1, None, (3,))


@pytest.mark.parametrize("name", OPEN)
def test_error_is_what_an_expansion_says(name):
    """Against the exact sum, inside the design radius and far beyond it."""
    expansion = build(name, (0.4, 0.8), 2, tolerance=1e-3, design_radius=4.0)
    exact = PairwiseExpansion((0.4, 0.8), 2)
    for radius, warns in ((4.0, False), (9.0, name in ("multipole", "planewave"))):
        graph = batch([60])
        inputs = graph, ball(graph, radius), *features(graph), draw(3, 2, 2, seed=8)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = expansion(*inputs)
        error = float((found - exact(*inputs)).norm() / exact(*inputs).norm())
        assert error <= max(expansion.expected_error(radius), 1e-12)
        assert bool(caught) is warns
    assert expansion.expected_error(4.0) <= 1e-3


@pytest.mark.parametrize("name", EXPANSIONS)
def test_cells_are_refused_needed_or_accepted_as_declared(name):
    graph = batch([4])
    spectrum = RadialSpectrum(2, 2, SpectrumOptions(kappa_max=2.4)).double()
    inputs = graph, ball(graph, 2.0), *features(graph), spectrum().detach()
    expansion = build(name, spectrum.wave_numbers, 2)
    cell = 9.0 * torch.eye(3, dtype=torch.float64)[None]
    refused = [None] if expansion.cells == "needed" else []
    refused += [cell] if expansion.cells == "refused" else [cell[:, :2]]
    for wrong in refused:
        with pytest.raises(ValueError, match="cell"):
            expansion(*inputs, wrong)
    for fine in (None, cell):
        if not any(fine is wrong for wrong in refused):
            assert expansion(*inputs, fine).isfinite().all()


def test_an_expansion_is_added_by_one_registration(monkeypatch):
    """The attention finds it by name, and it gets the arguments of every expansion."""
    monkeypatch.setattr(EXPANSIONS, "_entries", dict(EXPANSIONS))

    @EXPANSIONS.register("twice")
    class Twice(Expansion):
        """Twice the exact sum."""

        def forward(self, graph, *tensors):
            self.check_cell(graph, tensors[5] if len(tensors) > 5 else None)
            exact = PairwiseExpansion(self.wave_numbers, self.lmax, self.options)
            return 2 * exact(graph, *tensors)

        def expected_error(self, radius):
            return 1.0

    def attention(expansion: str) -> FarFieldAttention:
        torch.manual_seed(0)
        return FarFieldAttention(4, 1, FarFieldOptions(expansion=expansion)).double()

    graph = batch([5, 3])
    positions, x = ball(graph, 4.0), draw(8, 4, 4, seed=1)
    once, twice = attention("pairwise"), attention("twice")
    assert once.state_dict().keys() == twice.state_dict().keys()
    torch.testing.assert_close(twice(graph, positions, x), 2 * once(graph, positions, x))


def test_what_an_expansion_must_give_is_asked_for():
    class Half(Expansion):
        def expected_error(self, radius):
            return 0.0

    with pytest.raises(TypeError, match="forward"):
        Half((0.5,), 1)
