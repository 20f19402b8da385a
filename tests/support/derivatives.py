"""Derivatives against central differences: of functions, and of energies by places and strain."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from tests.support.law_cases import Case, joined

# torch compares whole matrices of derivatives to rtol 1e-3; one wrong element must be seen here too
DIRECTIONAL = {"fast_mode": True, "rtol": 1e-6, "atol": 1e-7}


def assert_all_derivatives(function: Callable[..., Tensor], inputs: Sequence[Tensor]):
    """Gradient and second derivatives of ``function(*inputs)`` in float64, along random directions.

    One product with a random vector stands for a matrix of derivatives: the cost is that of a few
    calls, whatever the number of elements.
    """
    assert torch.autograd.gradcheck(function, inputs, **DIRECTIONAL)
    assert torch.autograd.gradgradcheck(function, inputs, **DIRECTIONAL)


def energy_slopes(case: Case, model: nn.Module, batch: AtomBatch, step: float) -> Tensor:
    """Slopes (3 nodes,) of the energy by each coordinate, from central differences of ``step``."""
    # two copies of the batch for each coordinate, all graphs of one batch
    moves = step * torch.eye(batch.positions.numel()).view(-1, *batch.positions.shape)
    ends = [
        dataclasses.replace(batch, positions=batch.positions + sign * move)
        for sign in (1, -1)
        for move in moves
    ]
    energies = model(joined(case, ends))["energy"].view(2, len(moves), -1).sum(-1)
    return (energies[0] - energies[1]) / (2 * step)


def strain_slope(
    model: nn.Module, batch: AtomBatch, row: int, column: int, step: float = 1e-4
) -> float:
    """Slope of the energy of one crystal under a symmetric strain, per volume: its stress.

    The strain is ``step`` in all, half of it in (row, column) and half in (column, row).
    """
    strain = torch.zeros(3, 3)
    strain[row, column] += step / 2
    strain[column, row] += step / 2

    # cell and places go together
    energies = []
    for sign in (1, -1):
        turn = torch.eye(3) + sign * strain
        moved = dataclasses.replace(batch, positions=batch.positions @ turn, cell=batch.cell @ turn)
        energies.append(float(model(moved)["energy"]))
    volume = float(torch.linalg.det(batch.cell[0]).abs())
    return (energies[0] - energies[1]) / (2 * step) / volume
