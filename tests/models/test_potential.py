"""A potential: what it adds to an energy network, and strain that stretches positions and cells."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import GraphIndex
from farfield.models.network import EnergyNetwork, Output
from farfield.models.potential import Potential, PotentialOptions, strained

NONE = torch.empty(0, dtype=torch.long)
GRAPH = GraphIndex(NONE, NONE, torch.tensor([3, 0, 2]))
NUMBERS = torch.tensor([1, 6, 8, 6, 1])


class Springs(EnergyNetwork):
    """Every atom is bound to the origin by a spring of its element; a structure adds its size."""

    Options = PotentialOptions

    def __init__(self, graph_energy: bool = False):
        super().__init__()
        self.options = PotentialOptions()
        self.stiffness = nn.Parameter(torch.linspace(0.5, 1.5, 10))
        self.graph_energy = graph_energy

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        squares = batch.positions.square().sum(-1)
        out = {"atomic_energy": self.stiffness[batch.atomic_numbers] * squares}
        if self.graph_energy:
            out["graph_energy"] = batch.graph.nodes_per_graph.to(squares)
        return out


def structures(dtype=torch.float64, **more) -> AtomBatch:
    generator = torch.Generator().manual_seed(0)
    positions = torch.randn(5, 3, generator=generator, dtype=torch.float64).to(dtype)
    return AtomBatch(GRAPH, positions, NUMBERS, **more)


def test_energy_is_a_sum_over_the_atoms_of_each_graph():
    potential, batch = Potential(Springs().double(), "none"), structures()
    each = potential.network(batch)["atomic_energy"]
    expected = torch.stack([each[:3].sum(), each.new_zeros(()), each[3:].sum()])
    torch.testing.assert_close(potential(batch)["energy"], expected, rtol=0, atol=1e-14)

    whole = Potential(Springs(graph_energy=True).double(), "none")(batch)["energy"]
    torch.testing.assert_close(whole, expected + torch.tensor([3.0, 0.0, 2.0]))


def test_energy_is_float64_and_forces_have_the_type_of_the_positions():
    found = Potential(Springs())(structures(torch.float32))
    assert found["energy"].dtype == torch.float64 and found["forces"].dtype == torch.float32


def test_forces_are_the_negative_slope_and_scale_with_the_energy():
    potential, batch = Potential(Springs().double()), structures()
    slope = 2 * potential.network.stiffness[NUMBERS].unsqueeze(1) * batch.positions
    torch.testing.assert_close(potential(batch)["forces"], -slope)
    potential.set_reference({1: -1.0, 6: -2.0, 8: -3.0}, scale=2.0, shift=0.5)
    torch.testing.assert_close(potential(batch)["forces"], -2 * slope)


def test_stress_is_the_slope_under_strain():
    cell = 3.0 * torch.eye(3, dtype=torch.float64).repeat(3, 1, 1)
    potential, batch = Potential(Springs().double(), stress=True), structures(cell=cell)
    step = 1e-6
    for i, j in [(0, 0), (0, 1), (2, 1)]:
        energies = []
        for sign in (1, -1):
            strain = torch.zeros(3, 3, dtype=torch.float64)
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            moved = dataclasses.replace(batch, positions=batch.positions @ (strain + torch.eye(3)))
            energies.append(potential(moved)["energy"].detach())
        slope = (energies[0] - energies[1]) / (2 * step * 27.0)
        torch.testing.assert_close(potential(batch)["stress"][:, i, j], slope, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "quoted"),
    [
        (lambda: Potential(Springs(), "both"), "forces must be one of conservative, direct, none"),
        (lambda: Potential(Springs(), "direct", stress=True), "stress is a derivative"),
        (lambda: Potential(Springs(), "direct")(structures()), "Springs gives no direct_forces"),
        (lambda: Potential(Springs(), stress=True)(structures()), "stress needs a cell"),
    ],
)
def test_what_does_not_go_together_is_refused(make, quoted):
    with pytest.raises(ValueError, match=quoted):
        make()


def test_strain_stretches_positions_and_cells_alike():
    """Fractional coordinates stay, the derivative is that of ``r (1 + symmetric strain)``."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    cell = torch.randn(3, 3, 3, generator=generator, dtype=torch.float64)
    strain, moved, stretched = strained(GRAPH, positions, cell)
    assert torch.equal(moved, positions) and torch.equal(stretched, cell)
    (slope,) = torch.autograd.grad(
        moved[4] @ torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), strain, retain_graph=True
    )
    outer = torch.outer(positions[4], torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(slope[2], (outer + outer.T) / 2)
    assert not slope[:2].any()
    fractional = moved[:3] @ torch.linalg.inv(stretched[0])
    (slope,) = torch.autograd.grad(fractional.square().sum(), strain)
    assert float(slope.abs().max()) <= 1e-9


def test_cells_without_volume_are_refused():
    with pytest.raises(ValueError, match="volume > 0 Angstrom.*got 0.0"):
        strained(GRAPH, torch.zeros(5, 3), torch.zeros(3, 3, 3))


class ChargedSprings(Springs):
    """Springs whose atoms have charges that follow the positions."""

    @property
    def inputs(self) -> list[str]:
        return ["spin"]

    @property
    def optional_inputs(self) -> list[str]:
        return ["total_charge"]

    def outputs(self) -> dict[str, Output]:
        return {**super().outputs(), "charges": Output("node", "scalar", "e")}

    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        charges = self.stiffness[batch.atomic_numbers] * batch.positions.sum(-1)
        return {**super().forward(batch), "charges": charges, "unnamed": charges}


@pytest.mark.parametrize(
    ("forces", "stress"), [("none", False), ("conservative", False), ("conservative", True)]
)
def test_what_a_network_promises_besides_its_energy_is_passed_on(forces, stress):
    cell = 3.0 * torch.eye(3, dtype=torch.float64).repeat(3, 1, 1) if stress else None
    potential = Potential(ChargedSprings().double(), forces, stress)
    batch = structures(cell=cell)
    assert potential.inputs == ["spin"] and potential.optional_inputs == ["total_charge"]

    found = potential(batch)
    assert set(found) == set(potential.outputs()), "nothing unnamed leaves a potential"
    torch.testing.assert_close(found["charges"], potential.network(batch)["charges"])
    found["charges"].square().sum().backward()
    assert potential.network.stiffness.grad.abs().sum() > 0, "charges can be learned"

    # evaluation keeps no graph
    with torch.no_grad():
        assert not any(value.requires_grad for value in potential.eval()(batch).values())
