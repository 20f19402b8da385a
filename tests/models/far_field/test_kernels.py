"""Laws of kernels that are functions of the wave number: closed forms, ends, tails, waves."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.special import spherical_jn
from torch import Tensor

from farfield.models.far_field.attention import FarFieldAttention, FarFieldOptions
from farfield.models.far_field.expansions import auto
from farfield.models.far_field.expansions.image_pairs import ImagePairs
from farfield.models.far_field.expansions.lattice import LatticeExpansion
from farfield.models.far_field.expansions.mesh import MeshExpansion
from farfield.models.far_field.expansions.pairwise import ClosedPairs, PairwiseExpansion
from farfield.models.far_field.extent_sum import STEP, ExtentSum
from farfield.models.far_field.kernels import KERNELS, KernelOptions
from farfield.models.far_field.spectral_shapes import (
    BAND_EDGE,
    EDGE,
    CoulombShape,
    ScreenedShape,
    SpectralShape,
    wave_nodes,
)
from tests.support.crystals import CELLS, crystals
from tests.support.draws import draw
from tests.support.far_field_clouds import ball, batch, features
from tests.support.turns import relative_error

SHAPES = [ScreenedShape(2, 3, 12.0), CoulombShape(2, 3, 12.0), ScreenedShape(0, 1, 9.0)]
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=str)


def quadrature(shape: SpectralShape, coefficients, distances: np.ndarray) -> np.ndarray:
    """f_lh by the integral itself: (l, heads, distances)."""
    nodes, weights = np.polynomial.legendre.leggauss(600)
    kappa = shape.kappa_max * (nodes + 1) / 2
    density = shape.density(torch.from_numpy(kappa), coefficients).numpy()
    waves = np.stack([spherical_jn(l, np.outer(kappa, distances)) for l in range(shape.lmax + 1)])
    return (density * weights * shape.kappa_max / 2) @ waves


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2]], ids=str)
def test_closed_form_is_the_integral_over_the_density(shape):
    coefficients = draw(shape.lmax + 1, 2, shape.terms, seed=1)
    distances = np.linspace(0, 30, 61)
    found = shape.radial(torch.from_numpy(distances**2), coefficients).numpy()
    found *= distances ** np.arange(shape.lmax + 1)[:, None, None]
    expected = quadrature(shape, coefficients, distances)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("terms", [1, 3, 6])
def test_screened_functions_end_at_their_range(terms):
    """The last of them has fallen to EDGE there, and faster than a power of r beyond."""
    shape = ScreenedShape(1, terms, 10.0)
    every = torch.eye(terms, dtype=torch.float64).expand(2, terms, terms)
    r = torch.linspace(0, 40, 4001, dtype=torch.float64)
    values = shape.radial(r.square(), every).abs() * r ** torch.arange(2.0).view(2, 1, 1)
    values = values / values.amax(-1, keepdim=True)
    assert float(values[..., r > 10.01].max()) <= EDGE
    assert float(values[..., r > shape.reach].max()) <= BAND_EDGE
    assert float(values[..., r >= 20].max()) < 1e-9 and float(values[..., -1].max()) < 1e-40


def test_screened_kernel_starts_as_a_broad_gaussian():
    """Positive out to its range, with the value ``radial_scale`` at r = 0 within a tenth."""
    kernel = KERNELS["screened"](0, 2, KernelOptions(radial_scale=0.3))
    r = torch.linspace(0, 10, 50)
    values = kernel.shape.radial(r.square(), kernel())[0]
    assert (values > 0).all() and torch.equal(values[0], values[1])
    assert float(values[0, 0].detach()) == pytest.approx(0.3, rel=0.1)


def test_coulomb_kernel_starts_with_the_tail_of_a_charge():
    """r f_0 is constant and f_l falls as 1 / r^(l + 1) from twice the range to any distance."""
    shape = CoulombShape(2, 2, 8.0)
    start = torch.from_numpy(shape.start()).unsqueeze(1)
    near, far = quadrature(shape, start, np.array([16.0, 64.0]))[:, 0].T
    assert near[0] * 16 == pytest.approx(shape.scale, rel=1e-4)
    for l in range(3):
        assert math.log2(near[l] / far[l]) / 2 == pytest.approx(l + 1, abs=0.01)


@EVERY_SHAPE
@pytest.mark.parametrize("radius", [5.0, 20.0, 60.0])
def test_waves_of_an_extent_do_not_revive(shape, radius):
    """As many nodes as a ball needs, and not many more."""
    kappa, weights = wave_nodes(shape, radius, 1e-5)
    every = torch.eye(shape.terms, dtype=torch.float64).expand(shape.lmax + 1, -1, -1)
    distances = np.linspace(0, 2 * radius, 301)
    waves = [spherical_jn(l, np.outer(kappa, distances)) for l in range(shape.lmax + 1)]
    density = shape.density(torch.tensor(kappa, dtype=torch.float64), every).numpy()
    found = density * np.array(weights) @ np.stack(waves)
    expected = quadrature(shape, every, distances)
    error = np.abs(found - expected).max(-1) / np.abs(expected).max(-1)
    assert error.max() < 2e-5
    assert len(kappa) < shape.kappa_max * radius / 2 + 25


@pytest.mark.parametrize("kernel", ["screened", "coulomb"])
def test_every_structure_gets_the_waves_of_its_own_extent(kernel):
    """Alone or beside a larger one: the same answer, from expansions of as many sizes as needed."""
    torch.manual_seed(0)
    options = FarFieldOptions(kernel=kernel, expansion="multipole", tolerance=1e-5)
    model = FarFieldAttention(6, 2, options).double()
    small, large = ball(batch([5]), 3.0), ball(batch([6]), 9.0)
    x = draw(11, 9, 6, seed=2)
    alone = model(batch([5]), small, x[:5])
    together = model(batch([5, 6]), torch.cat([small, large]), x)
    assert isinstance(model.expansion, ExtentSum) and len(model.expansion._made) == 2
    assert relative_error(together[:5], alone) < 1e-12

    exact = FarFieldAttention(
        6, 2, FarFieldOptions(kernel=kernel, expansion="pairwise", tolerance=1e-5)
    ).double()
    exact.load_state_dict(model.state_dict())
    assert relative_error(together, exact(batch([5, 6]), torch.cat([small, large]), x)) < 1e-5


def test_radii_of_a_step_share_an_expansion():
    shape = ScreenedShape(0, 1, 8.0)
    sums = ExtentSum(PairwiseExpansion, shape, FarFieldOptions())
    steps = sums._steps(torch.tensor([0.0, 4.0, 4.0 * STEP, 4.1 * STEP, 8.0, 8.1]))
    assert steps.tolist() == [0, 0, 1, 2, 2, 3]
    with pytest.raises(ValueError, match="reaches 2000 Angstrom .* takes") as caught:
        sums._steps(torch.tensor([2000.0]))
    assert "\n" not in str(caught.value)


def images(count: int, cell: torch.Tensor) -> torch.Tensor:
    """Lattice vectors, the zero vector first: (images, 3)."""
    steps = torch.cartesian_prod(*[torch.arange(-count, count + 1)] * 3)
    order = steps.abs().sum(1).argsort(stable=True)
    return steps[order].to(cell.dtype) @ cell


@pytest.mark.parametrize(("expansion", "bar"), [("lattice", 1e-6), ("auto", 1e-6), ("mesh", 1e-5)])
def test_periodic_sum_is_the_sum_over_all_images(expansion, bar):
    """The term k = 0 included: a kernel that ends has an integral."""
    torch.manual_seed(1)
    options = FarFieldOptions(heads=2, kernel_lmax=2, range=8.0, expansion=expansion)
    model = FarFieldAttention(4, 2, options).double()
    cell, atoms = 1.3 * CELLS[0], 3
    inside = torch.rand(atoms, 3, dtype=torch.float64) @ cell
    parts = [draw(atoms, 2, size, seed=size) for size in (8, 8, 5)]
    coefficients = model.radial()
    found = model.expansion(batch([atoms]), inside, *parts, coefficients, cell[None])

    shifts = images(4, cell)
    everywhere = (inside + shifts[:, None]).flatten(0, 1)
    repeated = [part.repeat(len(shifts), 1, 1) for part in parts]
    by_pairs = PairwiseExpansion.of_shape(model.radial.shape, options)
    expected = by_pairs(batch([len(everywhere)]), everywhere, *repeated, coefficients)[:atoms]
    assert relative_error(found, expected) < bar


def test_large_structures_go_to_the_grid_and_get_the_same_answer(monkeypatch):
    """Open and periodic, beside small ones in one batch; forces as well."""
    monkeypatch.setattr(auto, "PAIRS_ATOMS", 6)
    monkeypatch.setattr(auto, "LATTICE_ATOMS", 6)
    monkeypatch.setattr(MeshExpansion, "open_points", lambda self, positions: 0.0)
    graph = batch([5, 12, 3])
    positions, x = ball(graph, 6.0).requires_grad_(), draw(20, 9, 6, seed=2)
    cells = torch.stack([12.0 * torch.eye(3, dtype=torch.float64)] * 3)
    options = {"kernel_lmax": 2, "value_lmax": 1, "tolerance": 1e-4, "range": 8.0}
    options |= {"heads": 1, "value_channels": 2}
    for cell, exact in ((None, "pairwise"), (cells, "lattice")):
        answers = []
        for expansion in ("auto", exact):
            torch.manual_seed(0)
            model = FarFieldAttention(6, 2, FarFieldOptions(expansion=expansion, **options))
            found = model.double()(graph, positions, x, cell)
            (forces,) = torch.autograd.grad(found.square().sum(), positions)
            answers.append((found, forces))
        (found, forces), (expected, expected_forces) = answers
        assert relative_error(found, expected) < 1e-5
        assert relative_error(forces, expected_forces) < 5e-5


def test_pairs_with_images_are_the_sum_over_wave_vectors():
    """In triclinic cells, with atoms outside them; derivatives by positions and cells as well."""
    options = FarFieldOptions(heads=2, kernel_lmax=2, range=8.0)
    shape = ScreenedShape(2, 3, 8.0)
    graph, positions, cells = crystals()
    parts, coefficients = features(graph), draw(3, 2, 3, seed=5)
    strain = torch.zeros(3, 3, dtype=torch.float64)
    inputs = [positions.requires_grad_(), strain.requires_grad_(), coefficients.requires_grad_()]
    answers = []
    for make in (ImagePairs, LatticeExpansion.of_shape):
        moved, cell = positions + positions @ strain, cells + cells @ strain
        found = make(shape, options)(graph, moved, *parts, coefficients, cell)
        answers.append([found, *torch.autograd.grad(found.square().sum(), inputs)])
    for found, expected in zip(*answers, strict=True):
        assert relative_error(found, expected) < 1e-5


def test_few_atoms_in_a_wide_cell_go_by_pairs_with_images():
    choice = auto.ShapeAuto(ScreenedShape(0, 3, 15.0), FarFieldOptions())
    wide, narrow = (size * torch.eye(3, dtype=torch.float64) for size in (30.0, 6.0))
    assert isinstance(choice._of_cell(20, wide), ImagePairs)
    assert choice._of_cell(20, narrow) is choice.lattice
    assert choice._of_cell(auto.LATTICE_ATOMS + 1, narrow) is choice.mesh


def test_a_grid_that_does_not_fit_is_refused_and_not_chosen():
    """Two atoms far apart, and too many for pairs: pairs all the same."""
    spread = torch.zeros(auto.PAIRS_ATOMS + 2, 3, dtype=torch.float64)
    spread[0] = 1e4
    choice = auto.ShapeAuto(ScreenedShape(0, 3, 15.0), FarFieldOptions())
    assert choice._open(batch([len(spread)]), spread) == [choice.pairs]
    model = FarFieldAttention(6, 2, FarFieldOptions(expansion="mesh")).double()
    with pytest.raises(ValueError, match="grid of a structure needs") as caught:
        model(batch([2]), spread[:2], draw(2, 9, 6, seed=1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("expansion", ["auto", "pairwise", "multipole", "mesh"])
def test_an_empty_batch_has_no_messages(expansion):
    model = FarFieldAttention(6, 2, FarFieldOptions(expansion=expansion))
    assert model(batch([0, 0]), torch.zeros(0, 3), torch.zeros(0, 9, 6)).shape == (0, 9, 6)


@pytest.mark.parametrize("expansion", ["auto", "lattice", "mesh"])
@pytest.mark.parametrize("counts", [[], [0, 0], [0, 3]], ids=str)
def test_structures_without_atoms_in_cells_have_no_messages(expansion, counts):
    atoms = sum(counts)
    model = FarFieldAttention(6, 2, FarFieldOptions(expansion=expansion)).double()
    cells = 20 * torch.eye(3, dtype=torch.float64).expand(len(counts), 3, 3)
    positions, x = draw(atoms, 3, seed=1), draw(atoms, 9, 6, seed=2)
    assert model(batch(counts), positions, x, cells).shape == (atoms, 9, 6)


def test_waves_by_extent_refuse_cells():
    model = FarFieldAttention(6, 2, FarFieldOptions(expansion="multipole")).double()
    inputs = batch([5]), ball(batch([5]), 3.0), draw(5, 9, 6, seed=1), 9 * CELLS[:1]
    with pytest.raises(ValueError, match="for open systems, got periodic cells"):
        model(*inputs)


def test_a_tail_in_open_space_is_not_for_the_grid():
    model = FarFieldAttention(6, 2, FarFieldOptions(kernel="coulomb", expansion="mesh")).double()
    with pytest.raises(ValueError, match="kernel with a tail in periodic cells alone") as caught:
        model(batch([5]), ball(batch([5]), 3.0), draw(5, 9, 6, seed=1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("kernel", "yukawa"),
        ("range", 0.0),
        ("range", math.nan),
        ("range", 1.5),
        ("radial_terms", 0),
    ],
)
def test_kernel_options_are_refused_in_one_line(option, value):
    with pytest.raises(ValueError, match=option) as caught:
        KernelOptions(**{option: value})
    assert str(value) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"radial_terms": 9}, {"kappa_max": 0.8}, {"num_kappa": 16, "kernel": "coulomb"}]
)
def test_options_of_another_kernel_are_refused(options):
    with pytest.raises(ValueError) as caught:
        KernelOptions(**options)
    assert next(iter(options)) in str(caught.value) and "\n" not in str(caught.value)


def test_scalars_in_chunks_are_the_general_sum_with_both_derivatives(monkeypatch):
    """Closed derivatives, whole or chunk by chunk with recomputation, against torch's own."""
    model = FarFieldAttention(6, 1, FarFieldOptions(expansion="pairwise")).double()
    graph = batch([9, 1, 5, 5, 14])
    positions, x = ball(graph, 4.0), draw(graph.num_nodes, 4, 6, seed=3)

    def derivatives(budget: int) -> list[Tensor]:
        options = dataclasses.replace(model.options, budget=budget)
        model.expansion = model.radial.sum_by(PairwiseExpansion, options)
        places = positions.clone().requires_grad_(True)
        features = x * places.sum(1).cos().view(-1, 1, 1)
        out = model(graph, places, features)
        (force,) = torch.autograd.grad(out.square().sum(), places, create_graph=True)
        loss = force.square().sum() + out.square().sum()
        by_weights = torch.autograd.grad(loss, [places, *model.parameters()], allow_unused=True)
        return [out, force, *(one for one in by_weights if one is not None)]

    whole, chunks = derivatives(2**22), derivatives(400)
    monkeypatch.setattr(ClosedPairs, "sum_at", PairwiseExpansion.sum_at)
    expected = derivatives(2**22)
    for found in (whole, chunks):
        for one, other in zip(found, expected, strict=True):
            size = float(other.detach().abs().max())
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * size)
