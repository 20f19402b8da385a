"""Forces and stress of an E2Former against their definitions."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.laws import DGL_KERNELS
from tests.support.added_weights import silent_weights
from tests.support.derivatives import energy_slopes, strain_slope
from tests.support.small_e2former import (
    LATTICE,
    case,
    crystal,
    draw,
    made,
)

FORCED = pytest.mark.parametrize(
    "schedule", ["first-order", "hybrid-second-order", "all-order+fmm-node"]
)


@FORCED
def test_forces_are_the_slope_of_the_energy(schedule, double):
    here, batch, step = case(schedule, schedule=schedule), draw(), 1e-4
    model = made(schedule=schedule)
    forces = model(batch)["forces"]
    slopes = energy_slopes(here, model, batch, step)
    assert float((forces.flatten() + slopes).abs().max()) <= 1e-6


@FORCED
@DGL_KERNELS
def test_parameter_gradient_of_a_force_loss(schedule, double):
    """All parameters at once along a random direction, in training mode: the derivative of a loss
    on forces is that of the numbers.
    """
    model, batch = made(schedule=schedule).train(), draw()
    target = torch.randn(batch.positions.shape, generator=torch.Generator().manual_seed(1))

    def loss() -> Tensor:
        out = model(batch)
        return (out["forces"] - target).square().sum() + 0.1 * out["energy"].square().sum()

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(2)
    for part in (slice(0, len(parameters) // 2), slice(len(parameters) // 2, None)):
        chosen, slope = parameters[part], 0.0
        directions = [torch.randn(parameter.shape, generator=generator) for parameter in chosen]
        for gradient, direction in zip(gradients[part], directions, strict=True):
            slope += 0.0 if gradient is None else float((gradient * direction).sum())
        values, step = [], 1e-5
        for sign in (1, -2):
            with torch.no_grad():
                for parameter, direction in zip(chosen, directions, strict=True):
                    parameter += sign * step * direction
            values.append(float(loss().detach()))
        with torch.no_grad():
            for parameter, direction in zip(chosen, directions, strict=True):
                parameter += step * direction
        found = (values[0] - values[1]) / (2 * step)
        assert abs(slope) > 1e-3 and abs(found - slope) <= 1e-6 * max(1.0, abs(slope))


def test_every_parameter_learns(double):
    """Every parameter but the last norm's and head's rows of unused degrees gets a gradient from
    energy and forces.
    """
    model, batch = made(schedule="hybrid-all-order+first-order", layers=1), draw()
    assert not silent_weights(model, batch)


@pytest.mark.parametrize("options", [{}, LATTICE], ids=["near", "lattice"])
def test_stress_is_the_slope_under_strain(options, double):
    model, batch = made(stress=True, **options), crystal()
    out = model(batch)
    assert out["stress"].shape == (1, 3, 3)
    torch.testing.assert_close(out["stress"], out["stress"].transpose(1, 2), rtol=0, atol=1e-14)
    torch.testing.assert_close(out["forces"], made(**options)(batch)["forces"])
    for row in range(3):
        for column in range(row, 3):
            slope = strain_slope(model, batch, row, column)
            assert abs(slope - float(out["stress"][0, row, column])) <= 1e-7


def test_stress_turns_with_the_crystal(double):
    model, batch = made(stress=True), crystal()
    matrix, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    turned = dataclasses.replace(
        batch, positions=batch.positions @ matrix.T, cell=batch.cell @ matrix.T
    )
    before, after = model(batch), model(turned)
    torch.testing.assert_close(after["energy"], before["energy"], rtol=1e-12, atol=0)
    torch.testing.assert_close(
        after["stress"], matrix @ before["stress"] @ matrix.T, rtol=0, atol=1e-12
    )
