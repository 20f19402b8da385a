"""Periodic sums of smeared charges: constants of crystals, the plain reciprocal sum, strain."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from farfield.models.far_field.ewald import (
    COULOMB,
    Crystals,
    coulomb_at_zero,
    ewald_energy,
    ewald_matrix,
    mesh_energy,
)
from tests.support.crystals import CELLS, TRICLINIC
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw

SMEARING = 0.5
ATOMS = 5


def triclinic(width: float | None = None, scale: float = 1.0) -> tuple[Crystals, Tensor]:
    """Three cells with charges of two channels, which do not add up to zero."""
    cell = scale * CELLS
    positions = 2 * draw(3, ATOMS, 3, seed=0) @ cell
    found = Crystals.of(positions, cell, SMEARING)
    if width is not None:
        found = found._replace(width=torch.full_like(found.width, width))
    return found, draw(3, ATOMS, 2, seed=1)


def plain_sum(positions: Tensor, cell: Tensor, charges: Tensor) -> Tensor:
    """Energy of one crystal by the definition: the sum over wave vectors, without the atom itself.

    positions (n, 3), cell (3, 3), charges (n, channels).
    """
    most = (8 / SMEARING * cell.norm(dim=1) / (2 * math.pi)).int().tolist()
    axes = [torch.arange(-count, count + 1, dtype=torch.float64) for count in most]
    box = torch.cartesian_prod(*axes)
    box = box[(box != 0).any(1)]
    waves = 2 * math.pi * box @ torch.linalg.inv(cell).T
    squared = waves.square().sum(1)
    weight = 4 * math.pi * COULOMB * torch.exp(-squared * SMEARING**2 / 2) / squared
    weight = weight / torch.linalg.det(cell).abs()
    phase = waves @ positions.T
    squares = (phase.cos() @ charges).square() + (phase.sin() @ charges).square()
    own = coulomb_at_zero(SMEARING) * charges.square().sum()
    return 0.5 * ((weight @ squares).sum() - own)


def rocksalt(constant: float) -> tuple[Tensor, Tensor, Tensor]:
    """Positions, cell and charges of the cubic cell of NaCl."""
    fcc = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.float64) / 2
    positions = torch.cat([fcc, fcc + torch.tensor([0.5, 0.0, 0.0])]) * constant
    charges = torch.tensor([1.0] * 4 + [-1.0] * 4, dtype=torch.float64).unsqueeze(1)
    cell = constant * torch.eye(3, dtype=torch.float64)
    return positions[None], cell[None], charges[None]


@pytest.mark.parametrize("scale", [1.0, 4.0], ids=["small", "wide"])
def test_madelung_constant_of_rock_salt(scale):
    """Narrow charges are points: -M k_e / r for each pair of ions, by both ways of summing."""
    positions, cell, charges = rocksalt(5.64 * scale)
    crystals = Crystals.of(positions, cell, 0.3)
    assert bool(crystals.width > 0.5) == (scale > 1)
    found = float(ewald_energy(crystals, charges)) / 4
    assert found == pytest.approx(-1.7475645946 * COULOMB / (2.82 * scale), rel=1e-9)


def test_madelung_constant_of_caesium_chloride():
    positions = torch.tensor([[[0.0, 0.0, 0.0], [2.05, 2.05, 2.05]]], dtype=torch.float64)
    cell = 4.1 * torch.eye(3, dtype=torch.float64)[None]
    charges = torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64)
    found = float(ewald_energy(Crystals.of(positions, cell, 0.3), charges))
    assert found == pytest.approx(-1.7626747731 * COULOMB / (4.1 * 0.75**0.5), rel=1e-9)


@pytest.mark.parametrize("width", [0.5, 0.51], ids=["reciprocal", "split"])
def test_energy_is_the_plain_reciprocal_sum(width):
    """Triclinic cells, charged, atoms anywhere; the width of the split changes nothing."""
    crystals, charges = triclinic(width, 1.7)
    found = ewald_energy(crystals, charges)
    for index in range(3):
        one = (crystals.positions[index], crystals.cell[index], charges[index])
        assert float(found[index]) == pytest.approx(float(plain_sum(*one)), rel=1e-11)


def test_the_split_that_is_chosen_is_exact():
    """A wide cell with few atoms is split, a dense one is not."""
    wide, charges = triclinic(scale=2.0)
    assert bool((wide.width > SMEARING).all())
    plain = wide._replace(width=torch.full_like(wide.width, SMEARING))
    expected = ewald_energy(plain, charges)
    torch.testing.assert_close(ewald_energy(wide, charges), expected, rtol=1e-11, atol=1e-11)
    positions = draw(1, 2000, 3, seed=0) @ TRICLINIC
    assert float(Crystals.of(positions, 4 * TRICLINIC[None], 1.0).width) == 1.0


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["reciprocal", "split"])
def test_matrix_holds_the_energy_and_is_positive(scale):
    crystals, charges = triclinic(scale=scale)
    crystals = Crystals.of(crystals.positions, crystals.cell, SMEARING, dense=True)
    matrix = ewald_matrix(crystals)
    own = coulomb_at_zero(SMEARING) * charges.square().sum((1, 2))
    found = 0.5 * (((matrix @ charges) * charges).sum((1, 2)) - own)
    torch.testing.assert_close(found, ewald_energy(crystals, charges), rtol=1e-11, atol=1e-11)
    assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-10


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["reciprocal", "split"])
def test_supercell_and_moved_images(scale):
    """A doubled cell has twice the energy; an atom may stand in any of its images."""
    crystals, charges = triclinic(scale=scale)
    once = ewald_energy(crystals, charges)
    cell, positions = crystals.cell.clone(), crystals.positions
    cell[:, 1] *= 2
    twice = torch.cat([positions, positions + crystals.cell[:, 1:2]], 1)
    found = ewald_energy(Crystals.of(twice, cell, SMEARING), charges.repeat(1, 2, 1))
    torch.testing.assert_close(found, 2 * once, rtol=1e-10, atol=1e-10)

    moved = positions.clone()
    moved[:, 2] += 3 * crystals.cell[:, 0] - crystals.cell[:, 2]
    again = ewald_energy(Crystals.of(moved, crystals.cell, SMEARING), charges)
    torch.testing.assert_close(again, once, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["reciprocal", "split"])
def test_derivatives_by_positions_cell_and_charges(scale):
    crystals, charges = triclinic(scale=scale)
    crystals, charges = crystals._replace(width=crystals.width[:1]), charges[:1]

    def energy(positions: Tensor, cell: Tensor, charges: Tensor) -> Tensor:
        return ewald_energy(crystals._replace(positions=positions, cell=cell), charges)

    inputs = [crystals.positions[:1], crystals.cell[:1], charges]
    assert_all_derivatives(energy, [one.clone().requires_grad_(True) for one in inputs])


def test_float32_is_close_to_float64():
    crystals, charges = triclinic(scale=3.0)
    single = [one.float().requires_grad_(True) for one in (crystals.positions, crystals.cell)]
    double = [one.detach().double().requires_grad_(True) for one in single]
    energies, forces = [], []
    for positions, cell in (single, double):
        found = ewald_energy(Crystals.of(positions, cell, SMEARING), charges.to(positions.dtype))
        energies.append(found.double())
        forces.append(torch.autograd.grad(found.sum(), positions)[0].double())
    torch.testing.assert_close(*energies, rtol=3e-6, atol=3e-6)
    torch.testing.assert_close(*forces, rtol=0, atol=1e-5 * float(forces[1].abs().max()))


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-8), (torch.float32, 2e-3)])
def test_the_grid_gives_the_energy_forces_and_stress_of_the_sum(dtype, bar):
    """For large structures; here a small triclinic one, charged.

    The grid's error is a part of the energy of an atom with itself, 32 eV for a charge of this
    width, and forces are that times 11 / Angstrom: narrow charges ask much of float32.
    """
    crystals, charges = triclinic(scale=2.0)
    positions, cell = crystals.positions[:1].to(dtype), crystals.cell[:1].to(dtype)
    charges, strain = charges[:1].to(dtype), torch.zeros(3, 3, dtype=dtype)
    inputs = [part.requires_grad_() for part in (positions, strain, charges)]
    results = []
    for by_mesh in (False, True):
        strained_cell = cell + cell @ strain
        moved = positions + positions @ strain
        if by_mesh:
            energy = mesh_energy(moved[0], strained_cell[0], charges[0], crystals.smearing)
        else:
            energy = ewald_energy(Crystals.of(moved, strained_cell, crystals.smearing), charges)[0]
        results.append([energy, *torch.autograd.grad(energy, inputs)])
    for expected, found in zip(*results, strict=True):
        error = float((found - expected).detach().abs().max())
        assert error <= bar * float(expected.detach().abs().max())


def test_large_structures_go_to_the_grid(monkeypatch):
    crystals, charges = triclinic()
    expected = ewald_energy(crystals, charges)
    monkeypatch.setattr("farfield.models.far_field.ewald.MESH_ATOMS", 1)
    found = ewald_energy(crystals, charges)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
