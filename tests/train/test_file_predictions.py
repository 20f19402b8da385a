"""Labels of files by their names, errors counted by hand, and frames with predictions."""

import math

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from farfield.train.file_predictions import (
    Labels,
    error_table,
    find_labels,
    prediction_table,
    write_predictions,
)

UNITS = {"energy": "eV", "forces": "eV/Angstrom", "dipole": "e Angstrom", "hardness": "K"}


def water() -> Atoms:
    return Atoms("OH2", [[0.0, 0, 0], [0.96, 0, 0], [0, 0.96, 0]])


def test_errors_are_counted_by_hand():
    atoms = [water(), water()[:2], water()]
    predictions = [{"energy": 1.0}, {"energy": 2.0}, {"energy": 9.0}]
    for one, prediction in zip(atoms, predictions, strict=True):
        prediction["forces"] = np.zeros((len(one), 3))
    forces = np.zeros((2, 3))
    forces[1, 2] = -0.6
    labels = {
        "energy": Labels("e", [np.array(1.3), np.array(1.6), None]),
        "forces": Labels("f", [None, forces, None]),
        "hardness": Labels("h", [np.array(1.0), None, None]),
    }
    energy, per_atom, force = error_table(atoms, predictions, labels, UNITS)
    assert energy == {
        "quantity": "energy",
        "unit": "meV",
        "structures": 2,
        "mae": pytest.approx(350),
        "rmse": pytest.approx(1e3 * math.sqrt((0.09 + 0.16) / 2)),
        "max": pytest.approx(400),
    }
    assert (per_atom["quantity"], per_atom["unit"]) == ("energy per atom", "meV/atom")
    assert (per_atom["mae"], per_atom["max"]) == pytest.approx((150, 200))
    assert (force["unit"], force["structures"]) == ("meV/Angstrom", 1)
    assert (force["mae"], force["max"]) == pytest.approx((100, 600))
    assert labels["energy"].count() == 2


@pytest.mark.parametrize("charge, moved", [(None, 0.0), (2, 2.0)])
def test_dipoles_of_files_are_compared_about_the_centroid(charge, moved):
    atoms = water()
    if charge is not None:
        atoms.info["total_charge"] = charge
    dipole = np.array([0.5, 0.25, 0.0])
    label = dipole + moved * atoms.positions.mean(0)
    (row,) = error_table([atoms], [{"dipole": dipole}], {"dipole": Labels("mu", [label])}, UNITS)
    assert row["unit"] == "e Angstrom" and row["max"] == pytest.approx(0.0, abs=1e-12)


def test_a_stress_of_three_by_three_is_taken_in_the_order_of_ase():
    atoms = Atoms("H", cell=2 * np.eye(3), pbc=True)
    stress = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    atoms.info["stress"] = stress
    found = find_labels([atoms], ["stress", "energy"], {})
    assert found.keys() == {"stress"}
    assert found["stress"].values[0].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "quantity, value, words",
    [
        ("forces", np.zeros((2, 3)), r"shape \(3, 3\), got \(2, 3\)"),
        ("energy", np.zeros(1), r"shape \(\), got \(1,\)"),
        ("charges", np.zeros(2), r"shape \(3,\), got \(2,\)"),
        ("dipole", np.zeros(2), r"shape \(3,\), got \(2,\)"),
        ("energy", "low", "must be numbers, got 'low'"),
    ],
)
def test_labels_of_another_shape_are_refused(quantity, value, words):
    atoms = water()
    atoms.info["mine"] = value
    with pytest.raises(ValueError, match=words):
        find_labels([atoms], [quantity], {quantity: "mine"})


def test_the_first_structures_are_shown():
    prediction = {
        "energy": 1.5,
        "forces": np.array([[0.0, 0, 0], [3, 4, 0], [0, 0, 1]]),
        "dipole": np.array([1.0, 2.0, 0.5]),
        "stress": np.zeros(6),
        "charges": np.zeros(3),
    }
    rows = prediction_table([water()] * 12, [prediction] * 12, UNITS)
    assert len(rows) == 10
    assert rows[9] == {
        "structure": 9,
        "formula": "H2O",
        "energy (eV)": "1.500000",
        "largest force (eV/Angstrom)": "5.000000",
        "dipole (e Angstrom)": "1.000000 2.000000 0.500000",
    }
    assert len(prediction_table([water()] * 2, [prediction] * 2, UNITS)) == 2


def test_written_frames_hold_predictions_in_place_of_labels(tmp_path):
    atoms = water()
    atoms.info |= {"my_energy": 7.0, "name": "kept", "hardness": 1.0}
    atoms.arrays["my_forces"] = np.ones((3, 3))
    atoms.calc = SinglePointCalculator(atoms, energy=-5.0)
    prediction = {
        "energy": 1.5,
        "forces": np.arange(9.0).reshape(3, 3),
        "dipole": np.array([1.0, 2.0, 3.0]),
        "hardness": 4.0,
    }
    labels = {"energy": Labels("my_energy", [7.0]), "forces": Labels("my_forces", [None])}
    write_predictions(tmp_path / "out.xyz", [atoms], [prediction], labels)
    found = ase.io.read(tmp_path / "out.xyz")
    assert found.get_potential_energy() == 1.5
    np.testing.assert_allclose(found.get_forces(), prediction["forces"])
    assert found.info["name"] == "kept" and found.info["hardness"] == 4.0
    assert found.info["predicted_dipole"].tolist() == [1, 2, 3]
    assert "my_energy" not in found.info and "my_forces" not in found.arrays
    assert atoms.info["my_energy"] == 7.0  # the structures of the caller stay as they are
