"""Networks that read the total charge: preprocessed, trained, resumed, evaluated, predicted."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from farfield.common import checkpoint
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.preprocess import preprocess_qm9, preprocess_structures
from farfield.simulate import dynamics, run_md
from farfield.simulate.calculator import FarfieldCalculator
from farfield.train import train_potential, train_qm9
from farfield.train.evaluate import evaluate_checkpoint
from farfield.train.prediction import load

SIZES = ["--irreps", "8x0e+8x1o", "--radial-hidden", "8", "--schedule", "first-order1"]
SIZES += ["--batch-size", "16", "--lr", "0.02", "--warmup-steps", "1", "--no-progress"]


def water(charge: int, seed: int) -> Atoms:
    """A distorted water molecule whose energy is its charge, at any geometry."""
    rng = np.random.default_rng(seed)
    places = np.array([[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    atoms = Atoms("OHH", places + 0.02 * rng.normal(size=(3, 3)))
    atoms.info["total_charge"] = charge
    atoms.calc = SinglePointCalculator(atoms, energy=float(charge), forces=np.zeros((3, 3)))
    return atoms


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(data folder, run folder) of a network that was trained, interrupted and resumed."""
    folder = tmp_path_factory.mktemp("charged")
    frames = [water(index % 2, index) for index in range(40)]
    write(folder / "water.xyz", frames, format="extxyz")
    preprocess_structures.main([str(folder / "water.xyz"), "--out", str(folder / "data")])

    paths = ["--data-path", str(folder / "data"), "--run-dir", str(folder / "run")]
    loss = ["--weight-forces", "0", "--forces", "direct", "--epochs", "24"]
    options = [*paths, *SIZES, *loss, "--condition", "total_charge"]
    train_potential.main([*options, "--pause-after", "12"])
    train_potential.main([*paths, "--resume", "--no-progress"])
    return folder / "data", folder / "run"


def test_charges_are_told_apart(run):
    """Geometry says nothing of the energy here: without the charge the error is half an eV."""
    table = evaluate_checkpoint(run[1] / checkpoint.BEST)
    assert table[0]["energy_mae"] < 100  # meV


def test_prediction_and_calculator_read_the_charge_of_a_structure(run):
    structures = [water(charge, 100 + charge) for charge in (0, 1)]
    energies = [found["energy"] for found in load(run[1] / checkpoint.BEST).predict(structures)]
    assert energies == pytest.approx([0, 1], abs=0.2)
    for atoms, energy in zip(structures, energies, strict=True):
        atoms.calc = FarfieldCalculator(run[1] / checkpoint.BEST)
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-5)

    del structures[0].info["total_charge"]
    with pytest.raises(ValueError, match="structure 0 has no number atoms.info.'total_charge'"):
        load(run[1] / checkpoint.BEST).predict(structures)


def test_charge_is_another_name_of_the_total_charge(run):
    frames = [water(charge, 100) for charge in (0, 1)]
    expected = [found["energy"] for found in load(run[1] / checkpoint.BEST).predict(frames)]
    for atoms in frames:
        atoms.info["charge"] = atoms.info.pop("total_charge")
    found = [found["energy"] for found in load(run[1] / checkpoint.BEST).predict(frames)]
    assert found == expected

    data = MoleculeDataset.open(run[0], "train", inputs=["charge"])
    assert data[[0, 1, 2]].graph_features["charge"].tolist() == [
        float(value) for value in data.structures.extra["total_charge"][:3]
    ]


def test_data_without_the_input_are_refused(run, tmp_path):
    with pytest.raises(ValueError, match="have no 'spin', which the network reads"):
        options = ["--data-path", str(run[0]), "--run-dir", str(tmp_path / "run"), *SIZES]
        train_potential.main([*options, "--condition", "spin", "--epochs", "1"])


def test_the_calculator_sees_a_change_of_the_charge_alone(run):
    atoms = water(0, 100)
    atoms.calc = FarfieldCalculator(run[1] / checkpoint.BEST)
    before = atoms.get_potential_energy()
    atoms.info["total_charge"] = 1
    assert atoms.get_potential_energy() - before == pytest.approx(1, abs=0.2)


def test_dynamics_keeps_the_charge_over_a_pause(run, tmp_path):
    """The first structure is one of the test split, whose charge the data folder holds."""
    options = ["--checkpoint", str(run[1] / checkpoint.BEST), "--steps", "6", "--timestep", "0.1"]
    options += ["--record-every", "1", "--no-progress", "--index", "1"]
    run_md.main(["--run-dir", str(tmp_path / "whole"), *options])
    run_md.main(["--run-dir", str(tmp_path / "parts"), *options, "--pause-after", "2"])
    run_md.main(["--run-dir", str(tmp_path / "parts"), "--resume"])
    for name in dynamics.RECORDS:
        whole, parts = (tmp_path / folder / name for folder in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()

    # a file may call it charge
    atoms = water(1, 100)
    atoms.info["charge"] = atoms.info.pop("total_charge")
    write(tmp_path / "first.xyz", atoms, format="extxyz")
    run_md.main(
        ["--run-dir", str(tmp_path / "file"), *options, "--index", "0"]
        + ["--structure", str(tmp_path / "first.xyz")]
    )
    state = dynamics.read_state(tmp_path / "file" / dynamics.STATE, ["total_charge"])
    assert state["input_total_charge"] == 1

    # every frame says for which charge its energy is
    frame = read(tmp_path / "whole" / dynamics.TRAJECTORY, index=-1)
    (found,) = load(run[1] / checkpoint.BEST).predict([frame])
    assert found["energy"] == pytest.approx(frame.get_potential_energy(), abs=1e-5)


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    """Folder of waters whose polarisability is their charge, as properties are preprocessed."""
    folder = tmp_path_factory.mktemp("properties")
    frames = [water(index % 2, index) for index in range(40)]
    charges = np.array([atoms.info["total_charge"] for atoms in frames])
    np.savez(
        folder / "water.npz",
        n_atoms=np.full(40, 3),
        Z=np.concatenate([atoms.numbers for atoms in frames]),
        R=np.concatenate([atoms.positions for atoms in frames]),
        alpha=10.0 + charges,
        total_charge=charges,
    )
    options = ["--graph", "cutoff", "--train", "24", "--val", "8", "--lmax", "1"]
    preprocess_qm9.main(
        ["--file", str(folder / "water.npz"), "--out", str(folder / "data"), *options]
    )
    return folder / "data"


def test_properties_of_charged_molecules(molecules, tmp_path):
    """Geometry says nothing of the label here: a blind network has an error of half a unit."""
    options = ["--data-path", str(molecules), "--run-dir", str(tmp_path), *SIZES]
    options += ["--targets", "alpha", "--ema-decay", "0", "--epochs", "40"]
    options += ["--batch-size", "8", "--lr", "0.005", "--loss", "mse"]
    train_qm9.main([*options, "--condition", "total_charge"])
    table = evaluate_checkpoint(tmp_path / checkpoint.BEST)
    assert table[0]["alpha (bohr^3)"] < 0.1

    structures = [water(charge, 100 + charge) for charge in (0, 1)]
    found = load(tmp_path / checkpoint.BEST).predict(structures)
    assert [one["alpha"] for one in found] == pytest.approx([10, 11], abs=0.2)


def test_properties_without_the_input_are_refused_before_anything_is_written(molecules, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="have no 'spin', which the network reads"):
        options = ["--data-path", str(molecules), "--run-dir", str(folder), *SIZES]
        train_qm9.main([*options, "--targets", "alpha", "--condition", "spin"])
    assert not folder.exists()
