"""A potential with charges from training to prediction: the total charge of a structure is read
wherever the data have it, and charges and dipoles come out.
"""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from farfield.common import checkpoint
from farfield.preprocess import preprocess_structures
from farfield.simulate import dynamics, run_md
from farfield.simulate.calculator import FarfieldCalculator
from farfield.train import train_potential
from farfield.train.evaluate import main as evaluate
from farfield.train.prediction import load

SIZES = ["--irreps", "8x0e+8x1o", "--radial-hidden", "8", "--schedule", "first-order1"]
SIZES += ["--batch-size", "16", "--lr", "0.02", "--warmup-steps", "1", "--no-progress"]


def ion_pair(charge: int, seed: int) -> Atoms:
    """Two atoms beyond the cutoff; their energy is the Coulomb energy of half the charge each."""
    rng = np.random.default_rng(seed)
    distance = rng.uniform(6.0, 12.0)
    atoms = Atoms("OO", [[0, 0, 0], [0, 0, distance]])
    atoms.info["total_charge"] = charge
    energy = 14.4 * (charge / 2) ** 2 / distance
    force = np.array([[0, 0, -1], [0, 0, 1]]) * energy / distance
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=force)
    return atoms


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(data folder, run folder)."""
    folder = tmp_path_factory.mktemp("charges")
    frames = [ion_pair(2 * (index % 2), index) for index in range(40)]
    write(folder / "pairs.xyz", frames, format="extxyz")
    preprocess_structures.main(
        [str(folder / "pairs.xyz"), "--out", str(folder / "data"), "--cutoff", "4"]
    )
    paths = ["--data-path", str(folder / "data"), "--run-dir", str(folder / "run")]
    charges = ["--charges", "latent", "--epochs", "30"]
    train_potential.main([*paths, *SIZES, *charges])
    return folder / "data", folder / "run"


def test_the_charge_of_the_data_reaches_training_and_prediction(run):
    """Two neutral atoms and two ions look alike to the near field: the total charge tells them
    apart, and its Coulomb energy is their energy. A structure without one is neutral.
    """
    frames = [ion_pair(2, 100), ion_pair(0, 100), ion_pair(0, 100)]
    del frames[2].info["total_charge"]
    ions, neutral, unknown = load(run[1] / checkpoint.BEST).predict(frames)
    found = ions["energy"] - neutral["energy"]
    assert found == pytest.approx(frames[0].get_potential_energy(), abs=0.05)
    assert unknown["energy"] == neutral["energy"]
    assert ions["charges"] == pytest.approx([1, 1], abs=1e-6)
    assert neutral["charges"] == pytest.approx([0, 0], abs=1e-6)
    assert ions["dipole"] == pytest.approx([0, 0, 0], abs=1e-5)


def test_the_calculator_gives_charges_and_dipole(run):
    atoms = ion_pair(2, 100)
    atoms.calc = FarfieldCalculator(run[1] / checkpoint.BEST)
    assert {"charges", "dipole"} <= set(atoms.calc.implemented_properties)
    assert atoms.get_charges() == pytest.approx([1, 1], abs=1e-6)
    assert atoms.get_dipole_moment() == pytest.approx([0, 0, 0], abs=1e-5)
    before = atoms.get_potential_energy()
    atoms.info["total_charge"] = 0
    assert before - atoms.get_potential_energy() > 0.1

    atoms.set_cell([30, 30, 30])
    atoms.pbc = True
    assert atoms.get_charges() == pytest.approx([0, 0], abs=1e-6)
    with pytest.raises(PropertyNotImplementedError, match="dipole needs a structure"):
        atoms.get_dipole_moment()


@pytest.mark.parametrize("given", [True, False], ids=["charged", "unknown"])
def test_dynamics_keeps_the_charge_over_a_pause(run, tmp_path, given):
    atoms = ion_pair(2, 100)
    if not given:
        del atoms.info["total_charge"]
    write(tmp_path / "first.xyz", atoms, format="extxyz")
    options = ["--checkpoint", str(run[1] / checkpoint.BEST), "--steps", "4", "--timestep", "0.1"]
    options += ["--structure", str(tmp_path / "first.xyz"), "--no-progress"]
    run_md.main(["--run-dir", str(tmp_path / "md"), *options, "--pause-after", "2"])
    run_md.main(["--run-dir", str(tmp_path / "md"), "--resume"])
    state = dynamics.read_state(tmp_path / "md" / dynamics.STATE, [], ["total_charge"])
    assert state.get("input_total_charge") == (2 if given else None)


def test_a_file_of_predictions_holds_charges(run, tmp_path):
    write(tmp_path / "in.xyz", [ion_pair(2, 100), ion_pair(0, 101)], format="extxyz")
    evaluate(
        [str(run[1] / checkpoint.BEST), "--input", str(tmp_path / "in.xyz")]
        + ["--output", str(tmp_path / "out.xyz")]
    )
    ions, neutral = read(tmp_path / "out.xyz", index=":")
    assert ions.get_charges() == pytest.approx([1, 1], abs=1e-6)
    assert neutral.get_charges() == pytest.approx([0, 0], abs=1e-6)
