"""Where charges come from: conservation, equilibration, and what a charge far away changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.far_field.charges import (
    CHARGES,
    CONSERVATIONS,
    ChargeOptions,
    NearEdges,
    charge_model,
    equilibrium,
)
from farfield.models.far_field.coulomb import COULOMB, coulomb_energy, near_coulomb_energy
from farfield.models.graph_ops import GraphIndex
from farfield.models.layers.radial import polynomial_envelope
from tests.support.crystals import CELLS
from tests.support.draws import draw
from tests.support.law_cases import cutoff_graph

FEATURES, CUTOFF = 6, 3.0
TOTALS = torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)


def made(name: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    chosen = ChargeOptions(**{"channels": 3, "unit": 1.0, "inside": "keep", **options})
    return charge_model(name, FEATURES, chosen, 8.0).double()


def structures(sizes=(5, 4, 6), **more) -> AtomBatch:
    positions = 1.5 * draw(sum(sizes), 3, seed=0)
    return AtomBatch(cutoff_graph(positions, torch.tensor(sizes), CUTOFF), positions, **more)


def edges(batch: AtomBatch) -> NearEdges:
    length = batch.positions[batch.graph.dst] - batch.positions[batch.graph.src]
    length = length.norm(dim=1)
    return NearEdges(length, polynomial_envelope(length / CUTOFF))


def scalars_of(batch: AtomBatch) -> Tensor:
    return draw(batch.num_nodes, FEATURES, seed=1)


def sums(batch: AtomBatch, charges: Tensor) -> Tensor:
    return torch.stack([part.sum(0) for part in charges.split(batch.graph.sizes)])


@pytest.mark.parametrize("given", [True, False], ids=["charged", "unknown"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("latent", {"conservation": "total"}),
        ("latent", {"conservation": "local"}),
        ("equilibrated", {}),
    ],
)
def test_the_first_channel_holds_the_total_charge(name, options, given):
    """The others are neutral; without a total charge all are."""
    batch = structures(graph_features={"total_charge": TOTALS} if given else {})
    charges, _ = made(name, **options)(batch, scalars_of(batch), edges(batch))
    expected = torch.zeros(3, charges.shape[1], dtype=torch.float64)
    if given:
        expected[:, 0] = TOTALS
    torch.testing.assert_close(sums(batch, charges), expected, rtol=0, atol=1e-12)
    assert float(charges.detach().std(0).min()) > 1e-3


def test_free_charges_are_free():
    batch = structures(graph_features={"total_charge": TOTALS})
    charges, _ = made("latent", conservation="none")(batch, scalars_of(batch), edges(batch))
    assert float(sums(batch, charges.detach()).abs().min()) > 1e-3


def test_charge_moves_along_edges():
    """Every piece that no edge joins to others is neutral, and its charges do not depend on them:
    a piece far away changes nothing.
    """
    batch, model = structures((5, 4)), made("latent", conservation="local")
    alone, _ = model(batch, scalars_of(batch), edges(batch))
    apart = batch.positions + torch.tensor([[0.0] * 3] * 5 + [[40.0, 0.0, 0.0]] * 4)
    graph = cutoff_graph(apart, torch.tensor([9]), CUTOFF)
    joined = dataclasses.replace(batch, graph=graph, positions=apart)
    together, _ = model(joined, scalars_of(batch), edges(joined))
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        sums(batch, together), torch.zeros(2, 3, dtype=torch.float64), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("conservation", CONSERVATIONS)
def test_energy_is_the_coulomb_energy_of_the_charges(conservation):
    batch = structures()
    model = made("latent", conservation=conservation, smearing=0.7, channels=3)
    charges, energy = model(batch, scalars_of(batch), edges(batch))
    expected = coulomb_energy(batch.graph, batch.positions, charges, 0.7)
    assert charges.shape == (15, 3)
    torch.testing.assert_close(energy, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", ["latent", "equilibrated"])
def test_pairs_inside_the_cutoff_are_left_to_the_near_field(name):
    """The charges are the same, the energy is less by the Coulomb energy of the faded edges."""
    batch = structures()
    near, scalars = edges(batch), scalars_of(batch)
    charges, whole = made(name)(batch, scalars, near)
    same, beyond = made(name, inside="subtract")(batch, scalars, near)
    inside = near_coulomb_energy(batch.graph, *near, charges, 1.0)
    torch.testing.assert_close(same, charges, rtol=0, atol=0)
    torch.testing.assert_close(whole - beyond, inside, rtol=1e-10, atol=1e-12)
    assert float(inside.abs().detach().min()) > 1e-4


def test_equilibrium_is_the_constrained_minimum():
    """Against scipy's minimiser, for two systems at once."""
    root = draw(2, 5, 5, seed=3)
    matrix = root @ root.transpose(1, 2) + 0.5 * torch.eye(5)
    negativity, total = draw(2, 5, seed=4), torch.tensor([1.0, -0.5], dtype=torch.float64)
    found = equilibrium(matrix, negativity, total)
    for index in range(2):
        chi, a, charge = negativity[index].numpy(), matrix[index].numpy(), float(total[index])
        least = minimize(
            lambda q, chi=chi, a=a: chi @ q + 0.5 * q @ a @ q,
            np.zeros(5),
            jac=lambda q, chi=chi, a=a: chi + a @ q,
            constraints={"type": "eq", "fun": lambda q, charge=charge: q.sum() - charge},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        expected = torch.from_numpy(least.x)
        torch.testing.assert_close(found[index], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("crystal", [False, True], ids=["open", "crystal"])
def test_equilibrated_charges_have_the_lowest_energy(crystal):
    """No move of charge between two atoms lowers the energy, and the energy holds the Coulomb
    energy of the charges.
    """
    more = {"cell": CELLS[:1]} if crystal else {}
    batch = structures((6,), graph_features={"total_charge": TOTALS[:1]}, **more)
    model, scalars = made("equilibrated"), scalars_of(batch)
    charges, energy = model(batch, scalars, edges(batch))

    read, hardness = model.network(scalars).unbind(1)
    scale = COULOMB * (2 / torch.pi) ** 0.5

    def total(charges: Tensor) -> Tensor:
        own = 0.5 * scale * (1 + torch.nn.functional.softplus(hardness)) * charges.square()
        pairs = coulomb_energy(batch.graph, batch.positions, charges[:, None], 1.0, **more)
        return (scale * read * charges + own).sum() + pairs.sum()

    least = charges.squeeze(1).detach().requires_grad_(True)
    torch.testing.assert_close(total(least), energy[0], rtol=1e-10, atol=0)
    (slope,) = torch.autograd.grad(total(least), least)
    torch.testing.assert_close(slope, slope.mean().expand(6), rtol=0, atol=1e-9)


def test_too_many_atoms_are_refused():
    none = torch.zeros(0, dtype=torch.long)
    positions = draw(2001, 3, seed=0)
    batch = AtomBatch(GraphIndex(none, none, torch.tensor([2001])), positions)
    with pytest.raises(ValueError, match="at most 2000 atoms, got one of 2001"):
        made("equilibrated")(batch, scalars_of(batch), edges(batch))


@pytest.mark.parametrize("name", [name for name, entry in CHARGES.items() if entry])
def test_charges_draw_no_number_of_the_others(name):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    charge_model(name, FEATURES, ChargeOptions(), 8.0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("options", "quoted"),
    [
        ({"channels": 0}, "channels of the charges must be >= 1, got 0"),
        ({"smearing": 0.0}, "smearing of the charges must be > 0"),
        ({"smearing": 0.1}, "smearing of the charges must be at least 0.2 Angstrom, got 0.1"),
        ({"conservation": "totl"}, "did you mean 'total'"),
        ({"inside": "both"}, "inside of the charges must be one of keep, subtract"),
    ],
)
def test_options_out_of_range_are_refused(options, quoted):
    with pytest.raises(ValueError, match=quoted):
        ChargeOptions(**options)
