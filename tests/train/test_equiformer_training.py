"""Equiformers trained by the scripts: resumed bit for bit, evaluated, used for dynamics."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from farfield.common import checkpoint
from farfield.dataloader.sources.nbody_simulation import simulate_nbody
from farfield.preprocess import preprocess_structures
from farfield.simulate.calculator import FarfieldCalculator
from farfield.train import train_nbody, train_potential
from farfield.train.evaluate import evaluate_checkpoint
from tests.support.run_results import assert_equal_checkpoints, results_of

SIZES = ["--dim", "8,4", "--num-degrees", "2", "--heads", "2", "--dim-head", "4", "--depth", "1"]
SIZES += ["--radial-hidden-dim", "8", "--radial-size", "24", "--batch-size", "8"]
SIZES += ["--warmup-steps", "1", "--ema-decay", "0.5", "--no-progress"]


def dimer(seed: int) -> Atoms:
    """Two atoms on a spring of 1.2 Angstrom."""
    rng = np.random.default_rng(seed)
    way = rng.normal(size=3)
    way *= rng.uniform(1.0, 1.4) / np.linalg.norm(way)
    atoms = Atoms("CO", [[0, 0, 0], way])
    length = np.linalg.norm(way)
    force = 10 * (length - 1.2) * way / length
    energy = 5 * (length - 1.2) ** 2
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.array([force, -force]))
    return atoms


@pytest.fixture(scope="module")
def dimers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dimers")
    write(folder / "dimers.xyz", [dimer(seed) for seed in range(32)], format="extxyz")
    preprocess_structures.main([str(folder / "dimers.xyz"), "--out", str(folder / "data")])
    return folder


def test_a_potential_learns_and_a_resumed_run_is_the_whole_one(dimers):
    options = ["--data-path", str(dimers / "data"), "--model", "equiformer", *SIZES]
    options += ["--epochs", "8", "--lr", "0.03", "--reversible", "--drop-path", "0.1"]
    train_potential.main([*options, "--run-dir", str(dimers / "whole")])
    train_potential.main([*options, "--run-dir", str(dimers / "parts"), "--pause-after", "3"])
    train_potential.main(["--run-dir", str(dimers / "parts"), "--resume", "--no-progress"])
    assert_equal_checkpoints(dimers / "whole", dimers / "parts")

    table = evaluate_checkpoint(dimers / "whole" / checkpoint.BEST)
    assert table[0]["force_mae"] < 0.5 * table[1]["force_mae"]  # of zero forces


def test_its_forces_are_the_slope_of_its_energy_in_ase(dimers):
    atoms = dimer(100)
    atoms.calc = FarfieldCalculator(dimers / "whole" / checkpoint.BEST, dtype="float64")
    forces, step = atoms.get_forces(), 1e-4
    energies = []
    for move in (step, -step):
        moved = atoms.copy()
        moved.positions[0, 1] += move
        moved.calc = atoms.calc
        energies.append(moved.get_potential_energy())
    assert forces[0, 1] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=1e-5)


def test_particles_are_learned_and_a_resumed_run_is_the_whole_one(tmp_path):
    # the public protocol draws from the legacy generator
    rng = np.random.RandomState(3)  # noqa: NPY002
    for split, count in (("train", 24), ("test", 8), ("val", 8)):
        arrays = simulate_nbody(count, rng)
        arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
        kind = json.dumps({"dynamics": "charged"})
        np.savez(tmp_path / f"nbody_{split}.npz", **arrays, metadata=kind)

    options = ["--data-path", str(tmp_path), "--model", "equiformer_nbody", *SIZES]
    options += ["--epochs", "2", "--updates", "2"]
    train_nbody.main([*options, "--run-dir", str(tmp_path / "whole")])
    train_nbody.main([*options, "--run-dir", str(tmp_path / "parts"), "--pause-after", "1"])
    train_nbody.main(["--run-dir", str(tmp_path / "parts"), "--resume", "--no-progress"])
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")
    assert results_of(tmp_path / "parts")["test"] == results_of(tmp_path / "whole")["test"]
