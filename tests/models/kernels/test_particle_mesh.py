"""Laws of the particle mesh.

The plain sum over reciprocal vectors, all derivatives, strain, wrapping, steps over grid lines,
open structures.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from farfield.models.kernels.mesh_window import expected_error, order_for
from farfield.models.kernels.particle_mesh import ParticleMesh, mesh_sum, padded_box
from farfield.models.so3.harmonics import solid_harmonics
from farfield.models.so3.irreps import degree_of_row
from tests.support.crystals import TRICLINIC
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.turns import relative_error

KAPPA_MAX = 3.0
CELLS = {
    "triclinic": 2 * TRICLINIC,
    "left-handed": 2 * TRICLINIC[[1, 0, 2]],
    "orthorhombic": torch.diag(torch.tensor([19.0, 11.0, 7.0], dtype=torch.float64)),
}
cells = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())


def band(k: Tensor) -> Tensor:
    """``1 - (|k| / kappa_max)^2`` inside of the band, twice differentiable at its edge: (1, 1, K).

    The edge counts only where a strain moves a vector over it.
    """
    return (1 - k.square().sum(-1) / KAPPA_MAX**2).clamp_min(0).pow(3)[None, None]


def degrees(k: Tensor) -> Tensor:
    """(-i)^l S_lm(k) times the band, l = 0, 1, 2: (9, 1, K)."""
    turns = torch.tensor([1, -1j, -1], dtype=torch.complex128)[degree_of_row(2)]
    return turns[:, None, None] * solid_harmonics(k, 2).T[:, None] * band(k)


def plain_sum(positions: Tensor, cell: Tensor, sources: Tensor, multiplier) -> Tensor:
    """The sum over all reciprocal vectors in the band, one by one: (atoms, R, channels)."""
    bounds = (cell.detach().norm(dim=1) * KAPPA_MAX / (2 * math.pi)).int().tolist()
    box = itertools.product(*(range(-bound, bound + 1) for bound in bounds))
    k = 2 * math.pi * torch.tensor(list(box), dtype=torch.float64) @ torch.linalg.inv(cell).T
    k = k[k.detach().norm(dim=1) < KAPPA_MAX]
    waves = torch.exp(1j * (positions @ k.T))  # (atoms, K)
    factors = torch.einsum("jk,jc->ck", waves.conj(), sources + 0j)
    summed = torch.einsum("rck,ck,ik->irc", multiplier(k) * (1 + 0j), factors, waves)
    assert summed.imag.abs().max() < 1e-10 * summed.real.abs().max()
    return summed.real / torch.linalg.det(cell).abs()


def atoms(count: int, cell: Tensor, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Positions somewhere in and around the cell, and sources."""
    return 2 * draw(count, 3, seed=0) @ cell, draw(count, channels, seed=1)


def relative_rms(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, relative to the expected values."""
    return float((found - expected).norm() / expected.norm())


@cells
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-9])
def test_is_the_plain_sum(cell, tolerance):
    """Kernels of degree 0, 1 and 2; the first to a tolerance, the others weigh the edge more."""
    positions, sources = atoms(40, cell)
    found = mesh_sum(positions, cell, sources, degrees, KAPPA_MAX, tolerance)
    expected = plain_sum(positions, cell, sources, degrees)
    assert found.shape == (40, 9, 3)
    for rows, factor in [(slice(0, 1), 1), (slice(1, 4), 1.5), (slice(4, 9), 1.5)]:
        assert relative_error(found[:, rows], expected[:, rows]) < factor * tolerance


@pytest.mark.parametrize("order", [4, 6, 9])
def test_error_law(order):
    """The spectrum that the law is stated for, read by atoms that are no sources themselves."""
    cell = 24 * torch.eye(3, dtype=torch.float64)
    positions, sources = atoms(300, cell)
    sources[150:] = 0

    def parabola(k):
        return (1 - k.square().sum(-1) / KAPPA_MAX**2)[None, None]

    found = mesh_sum(positions, cell, sources, parabola, KAPPA_MAX, 10.0 ** (1 - order))
    expected = plain_sum(positions, cell, sources, parabola)
    # 46 grid points would do, there are 48: a little better than at oversampling 2.
    ratio = relative_rms(found[150:], expected[150:]) / expected_error(order)
    assert 0.6 < ratio < 1.1


def test_several_sources_with_a_kernel_each():
    """A kernel for each channel is the same as channels one by one."""
    cell = CELLS["triclinic"]
    positions, sources = atoms(9, cell, channels=2)
    widths = torch.tensor([[0.2, 0.5], [0.4, 0.1]], dtype=torch.float64)

    def both(k):
        return torch.exp(-widths[:, :, None] * k.square().sum(-1)) * band(k)

    found = mesh_sum(positions, cell, sources, both, KAPPA_MAX)
    for r, c in itertools.product(range(2), range(2)):

        def single(k, r=r, c=c):
            return both(k)[r : r + 1, c : c + 1]

        alone = mesh_sum(positions, cell, sources[:, c : c + 1], single, KAPPA_MAX)
        torch.testing.assert_close(found[:, r, c], alone[:, 0, 0], rtol=1e-12, atol=1e-14)


def test_all_derivatives():
    """In positions, sources, the cell and a parameter of a kernel with an odd degree."""
    cell = TRICLINIC * 0.7
    positions, sources = atoms(3, cell, channels=2)
    width = torch.tensor([0.3, 0.4], dtype=torch.float64)

    def function(positions, sources, cell, width):
        def multiplier(k):
            gaussian = torch.exp(-width[:, None] * k.square().sum(-1)) * band(k)[0]
            return torch.stack([gaussian + 0j, -1j * k[:, 0] * gaussian])

        return mesh_sum(positions, cell, sources, multiplier, KAPPA_MAX)

    inputs = [tensor.requires_grad_() for tensor in (positions, sources, cell.clone(), width)]
    assert_all_derivatives(function, inputs)


@cells
def test_forces_and_stress_are_those_of_the_plain_sum(cell):
    positions, sources = atoms(20, cell)
    positions.requires_grad_()
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    deformation = torch.eye(3, dtype=torch.float64) + strain
    gradients = []
    for summed in (lambda *parts: mesh_sum(*parts, KAPPA_MAX, 1e-9), plain_sum):
        energy = summed(positions @ deformation, cell @ deformation, sources, degrees)
        energy = (energy.square().mean((0, 2)) / (1 + degree_of_row(2))).sum()
        gradients.append(torch.autograd.grad(energy, [positions, strain]))
    for found, expected in zip(*gradients, strict=True):
        assert relative_error(found, expected) < 1e-7


def test_stress_by_finite_strain():
    """The grid and its waves stay those of the cell that is strained."""
    cell = CELLS["triclinic"]
    positions, sources = atoms(12, cell)
    direction = draw(3, 3, seed=7)

    def energy(size):
        deformation = torch.eye(3, dtype=torch.float64) + size * direction
        parts = positions @ deformation, cell @ deformation, sources
        return mesh_sum(*parts, band, KAPPA_MAX).square().sum()

    size = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(energy(size), size)
    step = 1e-5
    difference = (energy(step) - energy(-step)) / (2 * step)
    torch.testing.assert_close(slope.detach(), difference.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.77])
def test_a_common_move_changes_little(fraction):
    """By a fraction of a grid step, by which the grid is not symmetric."""
    cell = CELLS["triclinic"]
    positions, sources = atoms(30, cell)
    steps = torch.tensor(ParticleMesh(cell, KAPPA_MAX).shape, dtype=torch.float64)
    here = mesh_sum(positions, cell, sources, band, KAPPA_MAX)
    there = mesh_sum(
        positions + fraction * (cell / steps[:, None]).sum(0), cell, sources, band, 3.0
    )
    change = relative_error(there, here)
    assert 1e-8 < change < 1e-5


def test_nothing_jumps_at_a_grid_line():
    """An atom on a grid line and 1e-9 steps before it, with a coarse window."""
    cell = CELLS["orthorhombic"]
    positions, sources = atoms(5, cell)
    mesh = ParticleMesh(cell, KAPPA_MAX, 1e-2)
    step = cell[0, 0] / mesh.shape[0]
    for half in (0.0, 0.5):
        positions[0, 0] = (3 + half) * step
        before = positions.clone()
        before[0, 0] -= 1e-9 * step
        on, near = (mesh_sum(x, cell, sources, band, 3.0, 1e-2) for x in (positions, before))
        assert relative_error(near, on) < 1e-8


def test_wrapping_changes_nothing():
    cell = CELLS["triclinic"]
    positions, sources = atoms(30, cell)
    shifts = torch.randint(-3, 4, (30, 3), generator=torch.Generator().manual_seed(1)).double()
    here = mesh_sum(positions, cell, sources, degrees, KAPPA_MAX)
    there = mesh_sum(positions + shifts @ cell, cell, sources, degrees, KAPPA_MAX)
    assert relative_error(there, here) < 1e-12


def test_float32():
    """As good as float64; numbers that it holds exactly give the same bits 300 cells away."""
    cell = torch.diag(torch.tensor([8.0, 16.0, 4.0]))
    numbers = torch.Generator().manual_seed(0)
    positions = torch.randint(0, 256, (40, 3), generator=numbers) / 64
    sources = draw(40, 2, seed=1).float()
    here = mesh_sum(positions, cell, sources, band, KAPPA_MAX)
    away = positions + torch.tensor([300.0, -70, 111]) * cell.diagonal()
    assert here.dtype == torch.float32
    assert torch.equal(mesh_sum(away, cell, sources, band, KAPPA_MAX), here)
    expected = plain_sum(positions.double(), cell.double(), sources.double(), band)
    assert relative_error(here.double(), expected) < 1e-5


def test_a_cell_without_waves_has_the_mean_alone():
    """Its planes are closer than 2 pi / kappa_max, and the window is wider than its grid."""
    cell = 1.5 * torch.eye(3, dtype=torch.float64)
    positions, sources = atoms(4, cell)
    found = mesh_sum(positions, cell, sources, band, KAPPA_MAX)
    mean = (sources.sum(0) / 1.5**3).expand(4, 1, 3)
    assert relative_error(found, mean) < 1e-5


def test_no_atoms():
    cell = CELLS["orthorhombic"]
    nothing = torch.zeros(0, 3, dtype=torch.float64)
    assert mesh_sum(nothing, cell, nothing, degrees, KAPPA_MAX).shape == (0, 9, 3)


def gaussian(k: Tensor) -> Tensor:
    """The transform of ``exp(-r^2 / 2)``: (1, 1, K)."""
    return ((2 * math.pi) ** 1.5 * torch.exp(-k.square().sum(-1) / 2))[None, None]


@pytest.mark.parametrize("far", [0.0, 1e4])
def test_padded_box_is_the_sum_over_pairs(far):
    """Clusters, also a single atom and a line of atoms; anywhere in space."""
    for count, spread in ((25, 4.0), (1, 1.0), (6, torch.tensor([9.0, 0, 0]))):
        positions, sources = spread * draw(count, 3, seed=2) + far, draw(count, 2, seed=3)
        cell, inside = padded_box(positions, reach=7.0, step=0.3)
        found = mesh_sum(inside, cell, sources, gaussian, kappa_max=6.0, tolerance=1e-8)
        kernel = torch.exp(-torch.cdist(positions, positions).square() / 2)
        assert relative_error(found[:, 0], kernel @ sources) < 1e-7


def test_padded_box_changes_little_when_it_grows():
    """Forces before and after an atom makes the box longer by a step."""
    positions, sources = 1.5 * draw(10, 3, seed=2), draw(10, 1, seed=3)
    outermost = int(positions[:, 0].argmax())
    lengths, forces = [], []
    for move in (0.0, 0.3):
        moved = positions.clone()
        moved[outermost] += torch.tensor([30.0 + move, 0, 0])
        moved.requires_grad_()
        cell, inside = padded_box(moved, reach=7.0, step=0.3)
        energy = mesh_sum(inside, cell, sources, gaussian, 6.0, 1e-8)[:, 0].mul(sources).sum()
        lengths.append(float(cell[0, 0].detach()))
        forces.append(torch.autograd.grad(energy, moved)[0])
    assert lengths[1] == pytest.approx(lengths[0] + 0.3)
    assert relative_error(forces[1], forces[0]) < 1e-6


@pytest.mark.parametrize("least", [1.0, 11.0, 22.0, 50.5])
def test_grids_suit_the_fast_transform(least):
    """Even products of 2, 3, 5, 7; two points for each that the band needs, seldom many more."""
    cell = torch.diag(torch.tensor([least, 2 * least, 3 * least], dtype=torch.float64))
    mesh = ParticleMesh(cell, KAPPA_MAX)
    for size, length in zip(mesh.shape, cell.diagonal().tolist(), strict=True):
        needed = 2 * length * KAPPA_MAX / math.pi
        assert max(4, needed) <= size <= 1.2 * needed + 4
        assert size % 2 == 0 and 2**9 * 3**5 * 5**3 * 7**3 % size == 0


def test_orders_for_tolerances():
    assert [order_for(tolerance) for tolerance in (1e-2, 2e-3, 1e-5, 1e-12)] == [3, 4, 6, 13]


WHOLE = torch.eye(3, dtype=torch.float64)
POINTS = torch.zeros(2, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((POINTS, WHOLE[:2], POINTS, band, 3.0), r"cell .* must be \(3, 3\), got \(2, 3\)"),
        ((POINTS, WHOLE * 0, POINTS, band, 3.0), "singular: .* must exceed 1e-06"),
        ((POINTS, WHOLE, POINTS, band, 0.0), "kappa_max must be positive and finite, got 0.0"),
        ((POINTS, WHOLE, POINTS, band, 3.0, 0.5), "between 1e-12 and 1e-02, got 0.5"),
        ((POINTS[:, :2], WHOLE, POINTS, band, 3.0), r"positions must be \(atoms, 3\), got"),
        ((POINTS, WHOLE, POINTS[:1], band, 3.0), r"sources must be \(2, channels\), got \(1, 3\)"),
        ((POINTS, WHOLE, POINTS, lambda k: band(k)[0], 3.0), r"multiplier must give \(R, 3 or 1"),
    ],
)
def test_bad_input_gets_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        mesh_sum(*arguments)
    assert "\n" not in str(caught.value)


def test_padded_box_refuses_what_is_not_positive():
    with pytest.raises(ValueError, match="must be positive, got 0, 0.1"):
        padded_box(POINTS, 0, 0.1)
