"""Charges and dipoles from the file to the test table: read, learned, resumed, saved, predicted."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase import Atoms

from farfield.common import checkpoint, plugins
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.models.factory import build_model
from farfield.models.network_check import check_network
from farfield.preprocess import preprocess_structures
from farfield.simulate import dynamics, run_md
from farfield.simulate.calculator import FarfieldCalculator
from farfield.train import train_potential
from farfield.train.evaluate import evaluate_checkpoint
from farfield.train.file_predictions import error_table, find_labels
from farfield.train.prediction import load
from tests.support.registries import restore_registries, saved_registries
from tests.support.run_results import assert_equal_checkpoints, results_of

NETWORK = Path(__file__).resolve().parents[1] / "support" / "doors" / "toy_charge_network.py"
OF_ELEMENT = {8: -0.6, 1: 0.3}
TRAINING = ["--import", str(NETWORK), "--model", "charged_atoms", "--batch-size", "8"]
TRAINING += [
    "--forces",
    "conservative",
    "--lr",
    "0.05",
    "--warmup-steps",
    "1",
    "--ema-decay",
    "0.9",
    "--no-progress",
]
WEIGHTS = ["--weight-charges", "1", "--weight-dipole", "1", "--weight-forces", "0"]
WEIGHTS += ["--weight-energy", "1"]


@pytest.fixture(scope="module", autouse=True)
def as_before():
    """What the file registers is forgotten again, so that no other test meets it."""
    state = saved_registries()
    yield
    restore_registries(state)


def water(charge: int, seed: int) -> Atoms:
    """Water anywhere in space, with charges of its elements and an equal share of the total charge;
    its dipole is about the origin.
    """
    rng = np.random.default_rng(seed)
    places = np.array([[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    atoms = Atoms("OHH", places + 0.1 * rng.normal(size=(3, 3)) + rng.normal(size=3))
    charges = np.array([OF_ELEMENT[number] for number in atoms.numbers]) + charge / 3
    atoms.arrays |= {"REF_charges": charges, "REF_forces": np.zeros((3, 3))}
    atoms.info |= {"total_charge": charge, "REF_energy": float(charge)}
    atoms.info["REF_dipole"] = charges @ atoms.positions
    return atoms


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("charged")
    frames = [water(index % 3 - 1, index) for index in range(40)]
    ase.io.write(folder / "water.xyz", frames, format="extxyz")
    preprocess_structures.main([str(folder / "water.xyz"), "--out", str(folder / "data")])
    return folder / "data"


def trained(data, folder, *options):
    paths = ["--data-path", str(data), "--run-dir", str(folder)]
    train_potential.main([*paths, *TRAINING, *WEIGHTS, "--epochs", "60", *options])
    return paths


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trained(data, folder)
    return folder


def test_the_network_keeps_the_contract(data):
    plugins.import_file(NETWORK)
    torch.manual_seed(0)
    network = build_model({"name": "charged_atoms"})
    torch.nn.init.normal_(network.network.elements.weight)
    inputs = network.optional_inputs
    dataset = MoleculeDataset.open(data, "test", dtype=torch.float64, optional_inputs=inputs)
    check_network(network.double(), dataset[range(4)])


def test_charges_and_dipoles_are_learned_and_judged(run):
    """The labels are what the network can say exactly: what is left is the training."""
    row = evaluate_checkpoint(run / checkpoint.BEST)[0]
    assert row["charges_mae"] < 0.01 and row["dipole_mae"] < 0.01
    assert row["charges_r2"] > 0.99 and row["dipole_r2"] > 0.99
    assert row["energy_mae"] < 50, "energies depend on the total charge alone"
    assert row["units"] == "meV, meV/A, e, e A"

    # nobody predicts charges of the baseline: its error is the mean size of the labels
    base = evaluate_checkpoint(run / checkpoint.BEST)[1]
    assert base["charges_mae"] > 0.2 and base["dipole_r2"] <= 0
    results = results_of(run)
    assert results["test"][0] == pytest.approx(row)
    assert {"charges_mae", "dipole_mae"} <= results["history"][-1].keys()
    assert results["units"]["charges_mae"] == "e" and results["units"]["dipole_mae"] == "e A"


def test_a_pause_changes_nothing(data, run, tmp_path):
    paths = trained(data, tmp_path / "run", "--pause-after", "7")
    train_potential.main([*paths, "--import", str(NETWORK), "--resume", "--no-progress"])
    assert_equal_checkpoints(tmp_path / "run", run)
    assert results_of(tmp_path / "run")["test"] == results_of(run)["test"]


def test_errors_are_shown_without_learning(data, tmp_path):
    trained(data, tmp_path, "--weight-charges", "0", "--weight-dipole", "0", "--epochs", "1")
    row = evaluate_checkpoint(tmp_path / checkpoint.BEST)[0]
    assert row["charges_mae"] > 0.2 and "dipole_r2" in row


def test_total_charges_reach_prediction_calculator_and_dynamics(run, tmp_path):
    """With and without a total charge in one call, which a structure without is 0 for."""
    frames = [water(charge, 100) for charge in (0, 1, -1, 1)]
    frames[1].info["charge"] = frames[1].info.pop("total_charge")
    del frames[3].info["total_charge"]
    energies = [found["energy"] for found in load(run / checkpoint.BEST).predict(frames)]
    assert energies == pytest.approx([0, 1, -1, energies[0]], abs=0.1)

    calculator = FarfieldCalculator(run / checkpoint.BEST)
    for atoms, energy in zip(frames, energies, strict=True):
        assert calculator.get_potential_energy(atoms) == pytest.approx(energy, abs=1e-5)
    moved = frames[0].copy()
    moved.calc = calculator
    before = moved.get_potential_energy()
    moved.info["total_charge"] = 1
    assert moved.get_potential_energy() - before == pytest.approx(1, abs=0.1)

    ase.io.write(tmp_path / "first.xyz", frames[1], format="extxyz")
    options = ["--checkpoint", str(run / checkpoint.BEST), "--structure"]
    options += [str(tmp_path / "first.xyz"), "--steps", "4", "--record-every", "1", "--no-progress"]
    run_md.main(["--run-dir", str(tmp_path / "md"), *options, "--pause-after", "2"])
    run_md.main(["--run-dir", str(tmp_path / "md"), "--resume"])
    state = dynamics.read_state(tmp_path / "md" / dynamics.STATE, (), ["total_charge"])
    assert state["input_total_charge"] == 1
    last = ase.io.read(tmp_path / "md" / dynamics.TRAJECTORY, index=-1)
    assert last.get_potential_energy() == pytest.approx(energies[1], abs=1e-5)


def test_a_file_is_judged_about_the_centroid():
    """Perfect predictions have no error, wherever the file has its origin."""
    frames = [water(charge, 7 + charge) for charge in (0, 1, -1)]
    predictions = [
        {
            "charges": atoms.arrays["REF_charges"],
            "dipole": atoms.arrays["REF_charges"] @ (atoms.positions - atoms.positions.mean(0)),
        }
        for atoms in frames
    ]
    units = {"charges": "e", "dipole": "e Angstrom"}
    labels = find_labels(frames, list(units), {})
    assert {name: found.key for name, found in labels.items()} == {
        "charges": "REF_charges",
        "dipole": "REF_dipole",
    }
    rows = error_table(frames, predictions, labels, units)
    assert [(row["quantity"], row["unit"]) for row in rows] == list(units.items())
    assert all(row["max"] < 1e-12 for row in rows)


@pytest.mark.parametrize(
    ("absent", "options", "message"),
    [
        ("charges", [], "the train split of .* has no charges to learn; preprocess with --charges"),
        (
            "dipole",
            [],
            "the train split of .* has no dipole to learn; preprocess with --dipole-key",
        ),
        (
            "neither",
            ["--model", "e2former"],
            "--weight-charges 1 needs a network that predicts charges; e2former with these "
            "options gives energy, forces; give other options, or --weight-charges 0",
        ),
    ],
)
def test_what_cannot_be_learned_is_one_line(data, tmp_path, absent, options, message):
    folder = data
    if absent != "neither":
        folder = tmp_path / "data"
        file = str(data.with_name("water.xyz"))
        preprocess_structures.main([file, f"--{absent}-key", "absent", "--out", str(folder)])
    with pytest.raises(ValueError, match=message) as error:
        trained(folder, tmp_path / "run", *options)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_runs_from_before_there_were_charges_are_judged_and_continued(data, run, tmp_path):
    """Their configuration has no such options: they learned nothing of charges."""
    options = ["--weight-charges", "0", "--weight-dipole", "0", "--epochs", "2"]
    paths = trained(data, tmp_path / "run", *options, "--pause-after", "1")
    last = tmp_path / "run" / checkpoint.LAST
    content = checkpoint.read_run(last)
    of_charges = [
        name for name in content["config"]["loss"] if "charges" in name or "dipole" in name
    ]
    for name in of_charges:
        del content["config"]["loss"][name]
    checkpoint.save_checkpoint(last, content)
    former = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    former["loss"] = {key: value for key, value in former["loss"].items() if key not in of_charges}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(former))

    assert len(of_charges) == 6
    assert evaluate_checkpoint(last)[0]["charges_mae"] > 0.2
    train_potential.main([*paths, "--import", str(NETWORK), "--resume", "--no-progress"])
    assert results_of(tmp_path / "run")["history"][-1]["epoch"] == 2


def test_an_edge_transformer_learns_dipoles_beside_energies(data, tmp_path):
    """Saved, loaded and asked by ASE, with another frame of the molecule."""
    network = ["--model", "edge_transformer", "--dipole", "--forces", "none", "--width", "16"]
    network += ["--layers", "1", "--heads", "2", "--gaussians", "8", "--augment", "orthogonal"]
    loss = ["--weight-dipole", "1", "--weight-forces", "0", "--weight-energy", "1"]
    steps = ["--lr", "0.01", "--warmup-steps", "1", "--ema-decay", "0.9", "--no-progress"]
    paths = ["--data-path", str(data), "--run-dir", str(tmp_path), "--batch-size", "8"]
    train_potential.main([*paths, *network, *loss, *steps, "--epochs", "20"])
    model, baseline, *_ = evaluate_checkpoint(tmp_path / checkpoint.BEST)
    assert model["dipole_mae"] < 0.1 * baseline["dipole_mae"] and "charges_mae" not in model

    # e Angstrom, about the mean position
    atoms = water(0, 99)
    expected = load(tmp_path / checkpoint.BEST).predict(atoms)["dipole"]
    atoms.calc = FarfieldCalculator(tmp_path / checkpoint.BEST)
    moved = atoms.copy()
    moved.positions += 7.0
    moved.calc = atoms.calc
    np.testing.assert_allclose(atoms.get_dipole_moment(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moved.get_dipole_moment(), expected, rtol=1e-3, atol=1e-4)
    assert "charges" not in atoms.calc.implemented_properties
