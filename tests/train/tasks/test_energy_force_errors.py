"""Metrics of energies and forces on values small enough to count by hand."""

import math

import numpy as np
import pytest

from farfield.dataloader.units import KCAL_MOL
from farfield.train.losses import StructureLoss
from farfield.train.tasks.energy_force_errors import (
    ENERGY_UNITS,
    cosine,
    determination,
    expert_loads,
    is_an_energy,
    measure,
    metric_units,
    no_offset,
    of_set,
    offset_per_composition,
)
from farfield.train.tasks.energy_forces import EnergyForceTask

# two structures, of two atoms and of one
ATOMS = np.array([2, 1])
ERRORS = {
    "energy": np.array([-0.5, 0.25]),
    "forces": np.array([[3.0, 4, 0], [0, 0, 0], [0, 0, -1]]),
    "stress": np.stack([np.full((3, 3), -0.1), np.zeros((3, 3))]),
    "charges": np.array([0.1, -0.3, 0.2]),
    "dipole": np.array([[1.0, 0, 0], [0, 0, -0.5]]),
}
TARGETS = {
    "energy": np.array([1.0, 2.0]),
    "forces": np.array([[0.0, 0, 2], [0, 1, 0], [0, 0, 3]]),
    "stress": np.zeros((2, 3, 3)),
    "charges": np.array([1.0, 2.0, 3.0]),
    "dipole": np.array([[1.0, 0, 0], [0, 0, 0]]),
}


def test_metrics_are_counted_by_hand():
    cosine_of_first = 4 / (2 * math.sqrt(29))
    expected = {
        "energy_mae": 375,
        "energy_per_atom_mae": 250,
        "energy_rmse": 1e3 * math.sqrt((0.25 + 0.0625) / 2),
        "energy_max": 500,
        "force_mae": 8000 / 9,
        "force_rmse": 1e3 * math.sqrt(26 / 9),
        "force_norm_mae": 2000,
        "force_max": 5000,
        "stress_mae": 100,  # of the first structure: the other has no stress
        "force_cosine": (cosine_of_first + 1 + 1) / 3,
        "charges_mae": 0.2,
        "charges_r2": 1 - 0.14 / 2,
        "dipole_mae": 0.25,
        "dipole_r2": 1 - 1.25 / (25 / 36 + 5 / 36),
    }
    assert measure(ERRORS, TARGETS, ATOMS) == pytest.approx(expected)
    energies = measure({"energy": ERRORS["energy"]}, {}, ATOMS)
    assert energies == pytest.approx({name: expected[name] for name in list(expected)[:4]})
    open_ones = {**ERRORS, "stress": np.zeros((2, 3, 3))}
    assert measure(open_ones, TARGETS, ATOMS)["stress_mae"] == 0.0


def test_a_stress_that_is_met_exactly_counts():
    stress = np.stack([np.eye(3), np.zeros((3, 3))])
    errors, targets = {**ERRORS, "stress": 0 * stress}, {**TARGETS, "stress": stress}
    assert measure(errors, targets, ATOMS)["stress_mae"] == 0.0
    errors["stress"] = np.stack([np.zeros((3, 3)), np.ones((3, 3))])
    assert measure(errors, targets, ATOMS)["stress_mae"] == pytest.approx(500)


def test_errors_of_a_set_are_those_of_its_structures_and_atoms():
    structures = {"set": np.array([0, 1]), "atoms": ATOMS}
    for number, chosen, rows in ((0, [0], [0, 1]), (1, [1], [2])):
        errors, targets, atoms = of_set(number, structures, ERRORS, TARGETS)
        assert atoms.tolist() == ATOMS[chosen].tolist()
        for found, whole in ((errors, ERRORS), (targets, TARGETS)):
            for name in ("energy", "stress", "dipole"):
                np.testing.assert_array_equal(found[name], whole[name][chosen])
            for name in ("forces", "charges"):
                np.testing.assert_array_equal(found[name], whole[name][rows])


def test_offsets_are_means_over_equal_compositions():
    error, composition = np.array([1.0, 2.0, 5.0, 4.0]), np.array([[1, 0], [0, 1], [1, 0], [0, 1]])
    np.testing.assert_allclose(offset_per_composition(error, composition), [-2, -1, 2, 1])
    assert no_offset(error, composition) is error
    with pytest.raises(ValueError, match="1 compositions occur once"):
        offset_per_composition(error[:3], composition[:3])


def test_limits_of_r2_and_cosine():
    assert math.isnan(determination(np.ones(3), np.full(3, 2.0)))
    assert determination(np.zeros(2), np.array([1.0, 2.0])) == 1.0
    one, two = np.array([[1.0, 0, 0], [0, 0, 0]]), np.array([[2.0, 0, 0], [1.0, 0, 0]])
    assert cosine(one, two) == 0.5


def test_units_follow_the_metric():
    assert {"meV": 1.0, "kcal/mol": pytest.approx(1e-3 / KCAL_MOL)} == ENERGY_UNITS
    units = metric_units("meV")
    assert set(measure(ERRORS, TARGETS, ATOMS)) == set(units)
    assert (units["energy_max"], units["force_norm_mae"], units["stress_mae"]) == (
        "meV",
        "meV/A",
        "meV/A^3",
    )
    energies = {name for name, unit in units.items() if unit.startswith("meV")}
    assert {name for name in units if is_an_energy(name)} == energies

    loads = expert_loads(np.array([[0.25, 0.75], [0.75, 0.25]]))
    assert loads == {"expert_0_load": 0.5, "expert_1_load": 0.5}
    assert not any(map(is_an_energy, loads))


@pytest.mark.parametrize(
    "energy, forces, per_atom, weights, curves",
    [
        ("mae", "vector_norm", True, (1, 1), ["energy_per_atom_mae", "force_norm_mae"]),
        ("mae", "vector_norm", False, (1, 1), ["energy_mae", "force_norm_mae"]),
        ("mae", "vector_norm", False, (0, 1), ["force_norm_mae"]),
        ("mae", "vector_norm", False, (1, 0), ["energy_mae"]),
        ("mse", "mse", False, (1, 1), []),
    ],
)
def test_curves_of_both_splits_are_of_one_kind(energy, forces, per_atom, weights, curves):
    """Losses in eV, errors in meV: the factor puts both on one axis."""
    costs = {"energy": energy, "forces": forces}
    parts = dict(zip(costs, map(float, weights), strict=True))
    loss = StructureLoss(parts, 2.0, costs, dict.fromkeys(costs, 1.0), per_atom)
    found = EnergyForceTask(loss, late=None).training_curves
    assert found["selection"] == ("loss", 1.0)
    parts_of_loss = [("forces" if "force" in name else "energy", 1e3) for name in curves]
    assert {name: found[name] for name in found if name != "selection"} == dict(
        zip(curves, parts_of_loss, strict=True)
    )
