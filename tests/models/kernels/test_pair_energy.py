"""Energy of all pairs: the double loop, all derivatives, in blocks of any size."""

import math

import pytest
import torch
from torch import Tensor

from farfield.models.kernels import pair_energy as module
from farfield.models.kernels.pair_energy import SmearedKernel, pair_energy
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.far_field_clouds import batch

KERNEL = SmearedKernel(3.0, 0.4)
SIZES = [3, 3, 1, 0, 4, 3]


def double_loop(positions: Tensor, charges: Tensor) -> Tensor:
    """Energies of the graphs of ``SIZES``, pair by pair."""
    energies, start = [], 0
    for size in SIZES:
        energy = torch.zeros((), dtype=torch.float64)
        for i in range(start, start + size):
            for j in range(start, i):
                root = (0.4 * (positions[i] - positions[j]).square().sum()).sqrt()
                kernel = 3 * math.sqrt(math.pi) / 2 * torch.erf(root) / root if root > 0 else 3.0
                energy = energy + charges[i] @ charges[j] * kernel
        energies.append(energy)
        start += size
    return torch.stack(energies)


@pytest.fixture(params=[2**17, 20, 5, 1], ids="pairs-{}".format)
def pairs_per_block(request, monkeypatch):
    """Several graphs in a block, one graph, some rows of a graph, one row."""
    monkeypatch.setattr(module, "PAIRS_PER_BLOCK", request.param)


def inputs() -> tuple[Tensor, Tensor]:
    """Positions, two atoms of one graph in one place, and charges of two channels."""
    positions = 2 * draw(sum(SIZES), 3, seed=0)
    positions[1] = positions[0]
    return positions.requires_grad_(True), draw(sum(SIZES), 2, seed=1).requires_grad_(True)


def test_energy_is_the_double_loop(pairs_per_block):
    positions, charges = inputs()
    found = pair_energy(batch(SIZES), KERNEL, positions, charges)
    torch.testing.assert_close(found, double_loop(positions, charges), rtol=1e-13, atol=1e-13)


def test_derivatives_of_first_to_third_order(pairs_per_block):
    graph = batch(SIZES)

    def energy(positions: Tensor, charges: Tensor) -> Tensor:
        return pair_energy(graph, KERNEL, positions, charges)

    def slopes(positions: Tensor, charges: Tensor) -> tuple[Tensor, ...]:
        total = energy(positions, charges).square().sum()
        return torch.autograd.grad(total, (positions, charges), create_graph=True)

    assert_all_derivatives(energy, inputs())
    assert_all_derivatives(slopes, inputs())


def test_charges_may_follow_from_the_positions():
    graph, (positions, charges) = batch(SIZES), inputs()

    def slopes(positions: Tensor) -> Tensor:
        moved = charges.detach() * positions[:, :2].cos()
        total = pair_energy(graph, KERNEL, positions, moved).square().sum()
        return torch.autograd.grad(total, positions, create_graph=True)[0]

    assert_all_derivatives(slopes, [positions])


@pytest.mark.parametrize("asked", [0, 1], ids=["positions", "charges"])
def test_derivatives_by_one_of_both(asked):
    """A gradient by positions alone, or by charges alone, is that of both."""
    graph, both = batch(SIZES), inputs()
    alone = [one.detach().requires_grad_(place == asked) for place, one in enumerate(both)]

    def second(values: tuple[Tensor, ...]) -> Tensor:
        total = pair_energy(graph, KERNEL, *values).square().sum()
        (slope,) = torch.autograd.grad(total, values[asked], create_graph=True)
        return torch.autograd.grad(slope.square().sum(), values[asked])[0]

    torch.testing.assert_close(second(alone), second(both), rtol=1e-13, atol=1e-13)


def test_float32_is_close_to_float64():
    positions, charges = inputs()
    energy, found = [], []
    for dtype in (torch.float64, torch.float32):
        values = [one.detach().to(dtype).requires_grad_(True) for one in (positions, charges)]
        energy.append(pair_energy(batch(SIZES), KERNEL, *values))
        (force,) = torch.autograd.grad(energy[-1].sum(), values[0], create_graph=True)
        found.append(torch.autograd.grad(force.square().sum(), values[1])[0].double())
    torch.testing.assert_close(energy[1].double(), energy[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5 * float(found[0].max()))


def test_nothing_of_the_size_of_all_pairs_is_kept():
    """Energy, forces and the graph of a loss on forces hold tensors of the size of the atoms."""
    atoms, kept = 400, []
    positions, charges = draw(atoms, 3, seed=0), draw(atoms, 2, seed=1)

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        positions.requires_grad_(True)
        energy = pair_energy(batch([atoms]), KERNEL, positions, charges.requires_grad_(True))
        (force,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        force.square().sum().backward()
    assert kept and max(kept) <= 3 * atoms
