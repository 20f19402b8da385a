"""An E2Former with charges: what they add, what they leave alone, and what is handed on."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.born_charges import born_charges
from farfield.models.far_field.coulomb import COULOMB
from farfield.models.network_check import check_network
from tests.support.added_weights import assert_no_other_weight_changes, silent_weights
from tests.support.derivatives import strain_slope
from tests.support.small_e2former import (
    CUTOFF,
    connect,
    crystal,
    draw,
    made,
    one_structure,
    two_cells,
)

LATENT = {"charges": "latent", "charge_unit": 1.0}
ALL = [
    LATENT,
    LATENT | {"charge_inside": "keep"},
    {"charges": "equilibrated", "charge_unit": 1.0},
    {"charges": "equilibrated", "charge_unit": 1.0, "charge_inside": "keep"},
]
EACH = pytest.mark.parametrize(
    "options", ALL, ids=lambda options: "-".join(map(str, options.values()))
)
OF_CHARGES = "network.charges."


def charged(batch: AtomBatch, *totals: float) -> AtomBatch:
    """The batch with total charges."""
    return dataclasses.replace(batch, graph_features={"total_charge": torch.tensor(totals)})


@EACH
def test_charges_change_no_other_weight(options):
    plain, with_charges = made().state_dict(), made(**options).state_dict()
    assert_no_other_weight_changes(plain, with_charges, OF_CHARGES)


@EACH
def test_the_potential_hands_on_charges_and_dipole(options, double):
    """Detached in evaluation, with a graph in training; a crystal has no dipole."""
    model, batch = made(**options), charged(draw(), 1.0, -1.0)
    found = model(batch)
    assert set(found) == {"energy", "forces", "charges", "dipole"}
    assert not any(value.requires_grad for value in found.values())
    sums = [float(part.sum()) for part in found["charges"].split([5, 3])]
    assert sums == pytest.approx([1.0, -1.0], abs=1e-12)

    centre = batch.positions[:5].mean(0)
    expected = found["charges"][:5] @ (batch.positions[:5] - centre)
    torch.testing.assert_close(found["dipole"][0], expected, rtol=1e-12, atol=1e-13)
    assert all(value.requires_grad for value in model.train()(batch).values())
    assert set(made(stress=True, **options)(crystal())) == {"energy", "forces", "stress", "charges"}


@EACH
def test_the_contract_is_kept(options, double):
    check_network(made(**options), charged(draw(), 1.0, -1.0))


@EACH
def test_a_charge_of_the_data_changes_the_energy(options, double):
    """No total charge counts as 0; the network says that it reads one where there is one."""
    model, batch = made(**options), draw()
    assert (model.inputs, model.optional_inputs) == ([], ["total_charge"])
    neutral, unknown = model(charged(batch, 0.0, 0.0)), model(batch)
    assert torch.equal(neutral["energy"], unknown["energy"])
    change = model(charged(batch, 1.0, 0.0))["energy"] - unknown["energy"]
    assert abs(float(change[0])) > 1e-3 and float(change[1]) == 0.0
    assert made().optional_inputs == []
    conditioned = made(condition="total_charge", **options)
    assert (conditioned.inputs, conditioned.optional_inputs) == (["total_charge"], [])


@EACH
def test_stress_with_charges_is_the_slope_under_strain(options, double):
    model, batch = made(stress=True, **options), crystal()
    out = model(batch)
    for row, column in ((0, 0), (0, 1), (2, 1), (2, 2)):
        slope = strain_slope(model, batch, row, column)
        assert slope == pytest.approx(float(out["stress"][0, row, column]), abs=1e-7)


@EACH
def test_supercell_with_charges_has_twice_the_energy(options, double):
    model, batch = made(stress=True, **options), crystal()
    once, twice = model(batch), model(two_cells(batch))
    torch.testing.assert_close(twice["energy"], 2 * once["energy"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(twice["stress"], once["stress"], rtol=0, atol=1e-9)
    torch.testing.assert_close(twice["charges"], once["charges"].repeat(2), rtol=0, atol=1e-10)


@EACH
def test_all_weights_of_charges_learn(options, double):
    assert not silent_weights(made(**options), draw(), OF_CHARGES)


@pytest.mark.parametrize("conservation", ["local", "total"])
def test_neutral_structures_far_apart_add_up(conservation, double):
    """Their dipoles act on each other: the energy falls with the cube of the distance. Under
    ``total`` that holds for copies of one structure, under ``local`` for any two.
    """
    model, batch = made(charge_conservation=conservation, **LATENT), draw((4, 4))
    if conservation == "total":
        positions = torch.cat([batch.positions[:4], batch.positions[:4].flip(1)])
        numbers = batch.atomic_numbers[:4].repeat(2)
        batch = dataclasses.replace(
            batch,
            positions=positions,
            atomic_numbers=numbers,
            graph=connect(positions, torch.tensor([4, 4])),
        )
    alone = float(model(batch)["energy"].sum())
    near, far = (
        float(model(one_structure(*batch.split(), apart=at))["energy"]) - alone
        for at in (100.0, 200.0)
    )
    assert 1e-11 < abs(far) < abs(near) / 6.5 and abs(near) < 1e-4


def test_the_tail_of_separated_charges(double):
    """Charges that stay apart under ``total`` act as point charges: dE / d(1 / r) is the sum of
    their products.
    """
    options = LATENT | {"charge_unit": 2.0, "charge_conservation": "total"}
    model, parts = made(**options), draw((4, 4)).split()
    energies = []
    for distance in (1000.0, 2000.0):
        out = model(one_structure(*parts, apart=distance))
        energies.append(float(out["energy"]))
    charges = model.network(one_structure(*parts, apart=2000.0))["charges"]
    slope = (energies[0] - energies[1]) / (1 / 1000 - 1 / 2000)
    first = float(charges[:4].sum().detach())
    assert abs(first) > 0.01 and slope < -COULOMB * first**2 * 0.99


def test_born_charges_are_slopes_of_the_dipole(double):
    model, batch, step = made(**LATENT), charged(draw(), 1.0, 0.0), 1e-5
    found = born_charges(model, batch)
    sums = torch.stack([part.sum(0) for part in found.split([5, 3])])
    total = torch.tensor([1.0, 0.0]).view(2, 1, 1) * torch.eye(3)
    torch.testing.assert_close(sums, total, rtol=0, atol=1e-12)

    origin = batch.positions[:5].mean(0)

    def dipole(positions: Tensor) -> Tensor:
        charges = model(dataclasses.replace(batch, positions=positions))["charges"]
        return charges[:5] @ (positions[:5] - origin)

    for atom, axis in ((0, 0), (3, 2)):
        move = torch.zeros_like(batch.positions)
        move[atom, axis] = step
        slope = (dipole(batch.positions + move) - dipole(batch.positions - move)) / (2 * step)
        torch.testing.assert_close(found[atom, axis], slope, rtol=0, atol=1e-8)


def test_born_charges_of_a_molecule_in_a_wide_cell(double):
    """They are those of the molecule alone, wherever it lies in its cell."""
    model, batch = made(charge_conservation="local", **LATENT), draw((4,))
    expected = born_charges(model, batch)
    cell = torch.eye(3).unsqueeze(0) * 4000.0
    for shift in (0.0, 700.0, 2500.0):
        graph = dataclasses.replace(batch, cell=cell, positions=batch.positions + shift)
        found = born_charges(model, graph)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_born_charges_need_charges_and_one_kind_of_structure():
    with pytest.raises(ValueError, match="this one has none; train with --charges latent"):
        born_charges(made(), draw())
    both = dataclasses.replace(
        draw(), cell=CUTOFF * torch.eye(3).repeat(2, 1, 1), periodic=torch.tensor([[True], [False]])
    )
    both.periodic = both.periodic.expand(2, 3)
    with pytest.raises(ValueError, match="got 1 crystals of 2 structures"):
        born_charges(made(**LATENT), both)
