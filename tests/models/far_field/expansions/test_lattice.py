"""Laws of the lattice sum.

Images added one by one, wrapping, turns, supercells, the limit of a large cell, strain, and all
derivatives.
"""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from farfield.models.far_field.expansions.lattice import (
    LatticeExpansion,
    reciprocal_vectors,
)
from farfield.models.far_field.expansions.pairwise import PairwiseExpansion
from farfield.models.far_field.spectrum import RadialSpectrum, SpectrumOptions
from farfield.models.graph_ops import broadcast_nodes
from farfield.models.so3.harmonics import solid_harmonics
from farfield.models.so3.irreps import degree_of_row
from tests.support.crystals import CELLS, SIZES, TRICLINIC, crystals, default_spectrum, nodes
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.far_field_clouds import batch, features
from tests.support.turns import orthogonal, relative_error, turn_matrix


def gaussian_kernel(
    lmax: int, width: float, count: int = 40, kappa_max: float = 8.0
) -> tuple[tuple[float, ...], Tensor]:
    """Wave numbers, and coefficients (lmax + 1, 2, Q) of ``r^l exp(-r^2 / 2 s^2) Y_l``.

    The second head is minus half of the first.
    """
    kappa, weights = nodes(count, kappa_max)
    spectrum = [
        (2 * math.pi) ** 1.5 * width ** (2 * l + 3) * kappa**l * np.exp(-((kappa * width) ** 2) / 2)
        for l in range(lmax + 1)
    ]
    table = torch.from_numpy(np.stack(spectrum) * weights * kappa**2 / (2 * math.pi**2))
    return tuple(kappa), torch.stack([table, -table / 2], 1)


def background(width: float, cell: Tensor) -> Tensor:
    """Mean of ``exp(-r^2 / 2 s^2)`` and all its images over the cell."""
    return (2 * math.pi) ** 1.5 * width**3 / torch.linalg.det(cell).abs()


@pytest.mark.parametrize(
    "cell",
    [TRICLINIC, TRICLINIC[[1, 0, 2]], CELLS[2]],
    ids=["triclinic", "left-handed", "orthorhombic"],
)
def test_is_the_sum_over_images(cell):
    """r^l exp(-r^2 / 2 s^2) Y_l, l = 0 .. 3, image by image.

    The term k = 0 of l = 0 is the mean of the sum over the cell.
    """
    width = 1.2
    graph, positions, cells = crystals([5], cell[None])
    queries, keys, values = features(graph)
    wave_numbers, coefficients = gaussian_kernel(3, width)
    found = LatticeExpansion(wave_numbers, 3)(
        graph, positions, queries, keys, values, coefficients, cells
    )
    inside = (positions @ torch.linalg.inv(cell)) % 1 @ cell
    images = (
        torch.tensor(list(itertools.product(range(-4, 5), repeat=3)), dtype=torch.float64) @ cell
    )
    separation = inside[:, None, None] - inside[None, :, None] + images
    gaussian = torch.exp(-separation.square().sum(-1, keepdim=True) / (2 * width**2))
    kernel = (solid_harmonics(separation, 3) * gaussian).sum(2)
    kernel[..., 0] -= background(width, cell)
    expected = torch.einsum(
        "ijr,ihd,jhd,jhv,h->ihrv",
        kernel,
        queries,
        keys,
        values,
        torch.tensor([1.0, -0.5], dtype=torch.float64),
    )
    for rows in torch.unique(degree_of_row(3)):
        own = degree_of_row(3) == rows
        assert relative_error(found[:, :, own], expected[:, :, own]) < 1e-9


def test_large_cell_is_the_open_system():
    """The same coefficients in a cell of twelve widths.

    What the images add is gone, except for the mean of l = 0.
    """
    width, graph = 1.2, batch([4])
    cell = 14.4 * torch.eye(3, dtype=torch.float64)[None] + 0.5 * draw(1, 3, 3, seed=6)
    positions, (queries, keys, values) = 1.2 * draw(4, 3, seed=0).clamp(-1.5, 1.5), features(graph)
    wave_numbers, coefficients = gaussian_kernel(3, width)
    found = LatticeExpansion(wave_numbers, 3)(
        graph, positions, queries, keys, values, coefficients, cell
    )
    expected = PairwiseExpansion(wave_numbers, 3)(
        graph, positions, queries, keys, values, coefficients
    )
    heads = torch.tensor([1.0, -0.5], dtype=torch.float64)
    expected[:, :, 0] -= torch.einsum(
        "ihd,jhd,jhv,h->ihv", queries, keys, values, heads
    ) * background(width, cell[0])
    assert relative_error(found, expected) < 1e-8


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_wrapping_and_translation_change_nothing(dtype, bar):
    graph, positions, cells = crystals()
    parts = [part.to(dtype) for part in features(graph)]
    wave_numbers, coefficients = default_spectrum()
    expansion = LatticeExpansion(wave_numbers, 3)
    here = expansion(graph, positions.to(dtype), *parts, coefficients.to(dtype), cells.to(dtype))
    shift = torch.randint(
        -2, 3, (graph.num_nodes, 3), generator=torch.Generator().manual_seed(1)
    ).double()
    for moved in (
        positions + (shift.unsqueeze(1) @ broadcast_nodes(graph, cells)).squeeze(1),
        positions + 2 * draw(1, 3, seed=4),
    ):
        there = expansion(graph, moved.to(dtype), *parts, coefficients.to(dtype), cells.to(dtype))
        assert relative_error(there, here) < bar


def test_float32_does_not_care_how_many_cells_away_an_atom_is():
    """Numbers that float32 holds exactly: bit for bit the same 300 cells away."""
    cell = torch.diag(torch.tensor([8.0, 16.0, 4.0]))[None]
    graph = batch([6])
    positions = torch.randint(0, 256, (6, 3), generator=torch.Generator().manual_seed(0)) / 64
    wave_numbers, coefficients = default_spectrum()
    expansion, parts = LatticeExpansion(wave_numbers, 3), [part.float() for part in features(graph)]
    away = positions + torch.tensor([300.0, -70, 111]) * cell[0].diagonal()
    here = expansion(graph, positions, *parts, coefficients.float(), cell)
    there = expansion(graph, away, *parts, coefficients.float(), cell)
    assert torch.equal(here, there)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("proper", [True, False])
def test_turns_with_atoms_and_cell(proper, count):
    graph, positions, cells = crystals(SIZES[:count], CELLS[:count])
    parts, turn = features(graph), orthogonal(3, proper)
    wave_numbers, coefficients = default_spectrum()
    expansion = LatticeExpansion(wave_numbers, 3)
    here = expansion(graph, positions, *parts, coefficients, cells)
    there = expansion(graph, positions @ turn.T, *parts, coefficients, cells @ turn.T)
    assert relative_error(there, torch.einsum("rs,nhsv->nhrv", turn_matrix(turn, 3), here)) < 1e-13


def test_another_choice_of_lattice_vectors_is_the_same_crystal():
    graph, positions, cells = crystals([5], CELLS[:1])
    other = torch.tensor([[1.0, 1, 0], [0, 1, 0], [2, -1, 1]], dtype=torch.float64) @ cells
    wave_numbers, coefficients = default_spectrum()
    expansion, parts = LatticeExpansion(wave_numbers, 3), features(graph)
    here = expansion(graph, positions, *parts, coefficients, cells)
    there = expansion(graph, positions, *parts, coefficients, other)
    assert relative_error(there, here) < 1e-13


@pytest.mark.parametrize("axis", [0, 2])
def test_supercell_hears_what_its_cell_hears(axis):
    """Also the background that is left out is the same: twice the charge in twice the volume."""
    graph, positions, cells = crystals([5], CELLS[:1])
    parts = features(graph)
    wave_numbers, coefficients = default_spectrum()
    expansion = LatticeExpansion(wave_numbers, 3)
    here = expansion(graph, positions, *parts, coefficients, cells)
    double = cells.clone()
    double[0, axis] *= 2
    both = torch.cat([positions, positions + cells[0, axis]])
    there = expansion(
        batch([10]), both, *(torch.cat([part, part]) for part in parts), coefficients, double
    )
    assert relative_error(there, torch.cat([here, here])) < 1e-13


def test_graphs_never_see_each_other():
    """A batch is its graphs alone, with any numbers of vectors; NaN in one graph stays there."""
    graph, positions, cells = crystals()
    parts = features(graph)
    wave_numbers, coefficients = default_spectrum()
    expansion = LatticeExpansion(wave_numbers, 3)
    together = expansion(graph, positions, *parts, coefficients, cells)
    for g, size in enumerate(SIZES):
        own = graph.graph_of_node == g
        alone = expansion(
            batch([size]),
            positions[own],
            *(part[own] for part in parts),
            coefficients,
            cells[g : g + 1],
        )
        assert relative_error(together[own], alone) < 1e-13
    spoilt = positions.masked_fill((graph.graph_of_node == 2)[:, None], torch.nan)
    after = expansion(graph, spoilt, *parts, coefficients, cells)
    assert torch.equal(after.isfinite().flatten(1).all(1), graph.graph_of_node != 2)


@pytest.mark.parametrize("sizes", [[], [0, 2, 0]])
def test_empty_graphs(sizes):
    wave_numbers, coefficients = default_spectrum()
    graph, positions, cells = crystals(sizes, CELLS[: len(sizes)])
    found = LatticeExpansion(wave_numbers, 3)(
        graph, positions, *features(graph), coefficients, cells
    )
    assert found.shape == (sum(sizes), 2, 16, 4) and found.isfinite().all()


def test_float32_is_float64_within_1e_5():
    """A cell of 30 Angstrom and the default wave numbers."""
    graph = batch([100])
    cell = TRICLINIC[None] * 4.2
    positions = (
        torch.rand(100, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ cell
    ).squeeze(0)
    spectrum = RadialSpectrum(2, 2).double()
    exact = LatticeExpansion(spectrum.wave_numbers, 2)(
        graph, positions, *features(graph), spectrum(), cell
    )
    arguments = (tensor.float() for tensor in (positions, *features(graph), spectrum(), cell))
    found = LatticeExpansion(spectrum.wave_numbers, 2)(graph, *arguments)
    assert found.dtype == torch.float32
    assert relative_error(found.double(), exact) < 1e-5


@pytest.mark.parametrize("sizes", [[2], [2, 1]], ids=["one", "batch"])
def test_all_derivatives(sizes):
    """In positions, queries, keys, values, coefficients and cell.

    Two atoms are in one place, and a vector is inside the taper.
    """
    wave_numbers = tuple(nodes(3, 1.3)[0])
    graph, positions, cells = crystals(sizes, CELLS[: len(sizes)])
    positions[1] = positions[0]
    length = reciprocal_length(cells, 1.3)
    assert ((length > 0.8 * 1.3) & (length < 1.3)).any()
    inputs = [positions, *features(graph, (1, 1, 1)), draw(3, 1, 3, seed=8), cells.clone()]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    expansion = LatticeExpansion(wave_numbers, 2)
    assert_all_derivatives(lambda *x: expansion(graph, *x), inputs)


def reciprocal_length(cells: Tensor, kappa_max: float) -> Tensor:
    """Lengths of all vectors that count."""
    vectors, counted = reciprocal_vectors(cells, kappa_max)
    return 2 * math.pi * (vectors @ torch.linalg.inv(cells).transpose(1, 2)).norm(dim=2)[counted]


def test_reciprocal_vectors_are_one_of_each_pair_in_the_sphere():
    vectors, counted = reciprocal_vectors(CELLS, 3.0)
    everything = torch.tensor(list(itertools.product(range(-6, 7), repeat=3)), dtype=torch.float64)
    for own, which, cell in zip(vectors, counted, CELLS, strict=True):
        length = 2 * math.pi * (everything @ torch.linalg.inv(cell).T).norm(dim=1)
        expected = {tuple(n) for n in everything[(length < 3.0) & (length > 0)].int().tolist()}
        half = {tuple(n) for n in own[which].int().tolist()}
        opposite = {tuple(-n for n in vector) for vector in half}
        assert half | opposite == expected and not half & opposite and len(half) == int(which.sum())


def energy(
    strain: Tensor,
    expansion: LatticeExpansion,
    graph,
    positions: Tensor,
    parts,
    coefficients: Tensor,
    cells: Tensor,
) -> Tensor:
    """A number made of the output of a structure under a homogeneous strain."""
    deformation = torch.eye(3, dtype=torch.float64) + strain
    heard = expansion(graph, positions @ deformation.T, *parts, coefficients, cells @ deformation.T)
    return torch.sin(heard * draw(*heard.shape[1:], seed=11)).sum()


def test_strain_derivative_is_the_central_difference():
    """The virial, and one derivative of it, of a batch of three cells."""
    graph, positions, cells = crystals()
    wave_numbers, coefficients = default_spectrum()
    rest = (
        LatticeExpansion(wave_numbers, 3),
        graph,
        positions,
        features(graph),
        0.1 * coefficients,
        cells,
    )
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    (virial,) = torch.autograd.grad(energy(strain, *rest), strain)
    step = 1e-5
    for a, b in itertools.product(range(3), repeat=2):
        shift = torch.zeros(3, 3, dtype=torch.float64)
        shift[a, b] = step
        slope = (energy(shift, *rest) - energy(-shift, *rest)) / (2 * step)
        assert float(slope) == pytest.approx(
            float(virial[a, b]), rel=1e-6, abs=1e-7 * float(virial.abs().max())
        )
    assert (
        virial - virial.T
    ).abs().max() > 1e-3  # this energy depends on the orientation: all nine are independent


def test_nothing_jumps_when_a_vector_enters_the_sphere():
    """Stretching a cell moves k = (1, 0, 0) through kappa_max.

    Value and first two derivatives are continuous, and the vector does enter.
    """
    kappa_max, graph = 2.4, batch([3])
    wave_numbers, coefficients = default_spectrum()
    expansion, parts = LatticeExpansion(wave_numbers, 3), features(graph)
    fractional = draw(3, 3, seed=1)
    edge = 2 * math.pi / kappa_max * 2  # here k = (2, 0, 0) is exactly at the edge

    def heard(length: Tensor) -> Tensor:
        cell = torch.diag_embed(
            torch.stack([length, torch.full_like(length, 4.9), torch.full_like(length, 5.9)])
        )[None]
        return (
            expansion(graph, (fractional @ cell)[0], *parts, coefficients, cell)
            * draw(3, 2, 16, 4, seed=12)
        ).sum()

    def three(length: float) -> list[float]:
        x = torch.tensor(length, dtype=torch.float64, requires_grad=True)
        value = heard(x)
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        (bend,) = torch.autograd.grad(slope, x)
        return [float(number.detach()) for number in (value, slope, bend)]

    steps = [three(edge * (1 + part)) for part in (-1e-6, 1e-6)]
    assert steps[0] == pytest.approx(steps[1], rel=1e-3)
    counts = [
        int(
            reciprocal_vectors(torch.diag(torch.tensor([edge * f, 4.9, 5.9])).double()[None], 2.4)[
                1
            ].sum()
        )
        for f in (0.999, 1.001)
    ]
    assert counts[1] == counts[0] + 1


def test_a_cell_without_vectors_has_no_far_field_and_says_so_once():
    graph, positions, cells = crystals(cells=torch.stack([CELLS[0], CELLS[1] * 3, CELLS[2]]))
    spectrum = RadialSpectrum(2, 2, SpectrumOptions(kappa_max=0.8)).double()
    expansion = LatticeExpansion(spectrum.wave_numbers, 2)
    with pytest.warns(
        UserWarning,
        match="1 of 3 cells have no reciprocal vector below kappa_max 0.8 .* exactly zero",
    ):
        found = expansion(graph, positions, *features(graph), spectrum(), cells)
    assert torch.equal(found.flatten(1).abs().sum(1) > 0, graph.graph_of_node != 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expansion(graph, positions, *features(graph), spectrum(), cells)


def refused(message: str, call) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_refuses_cells_in_one_line():
    graph, positions, cells = crystals()
    wave_numbers, coefficients = default_spectrum()
    flat = cells.clone()
    flat[1, 2] = flat[1, 0] + flat[1, 1]
    for cell, message in [
        (None, "LatticeExpansion needs periodic cells"),
        (flat, r"cell of structure 1 is singular: \|det\| ="),
        (cells * torch.nan, r"cell of structure 0 is singular: \|det\| = nan"),
        (cells[:2], r"cell must be \(3, 3, 3\), .* got \(2, 3, 3\)"),
    ]:
        arguments = graph, positions, *features(graph), coefficients, cell
        refused(message, lambda arguments=arguments: LatticeExpansion(wave_numbers, 3)(*arguments))
