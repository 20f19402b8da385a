"""Encoder, clusters and experts together: trained, paused, resumed, loaded, predicted."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from farfield.common import checkpoint
from farfield.preprocess import preprocess_structures
from farfield.simulate.calculator import FarfieldCalculator
from farfield.train import train_potential
from farfield.train.evaluate import evaluate_checkpoint
from farfield.train.prediction import load
from tests.support.run_results import assert_equal_checkpoints, results_of

OPTIONS = ["--encoder", "dit", "--encoder-width", "8", "--encoder-heads", "2"]
OPTIONS += ["--encoder-depth", "1", "--encoder-attention", "math"]
OPTIONS += ["--with-cluster", "--cluster-cutoff", "9", "--cluster-layers", "1"]
OPTIONS += ["--experts", "3", "--experts-top-k", "1"]
SIZES = ["--irreps", "4x0e+4x1o", "--radial-hidden", "8", "--schedule", "first-order1"]
SIZES += ["--near-heads", "2", "--batch-size", "8", "--warmup-steps", "1", "--no-progress"]


def waters(seed: int, distance: float) -> Atoms:
    """Two distorted waters whose energy knows how far apart they are."""
    rng = np.random.default_rng(seed)
    places = np.array([[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    both = np.concatenate([places, places + [0, 0, distance]]) + 0.02 * rng.normal(size=(6, 3))
    atoms = Atoms("OHHOHH", both)
    forces = np.zeros((6, 3))
    slope = -1 / distance**2
    forces[[0, 3], 2] = [slope, -slope]
    atoms.calc = SinglePointCalculator(atoms, energy=1 / distance, forces=forces)
    return atoms


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("waters")
    frames = [waters(index, 3 + 0.1 * index) for index in range(16)]
    write(folder / "waters.xyz", frames, format="extxyz")
    preprocess_structures.main(
        [str(folder / "waters.xyz"), "--out", str(folder / "data"), "--cutoff", "4"]
    )
    return folder / "data"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Run folder of a training without a pause."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    paths = ["--data-path", str(data), "--run-dir", str(folder)]
    train_potential.main([*paths, *SIZES, *OPTIONS, "--epochs", "2"])
    return folder


def test_a_pause_changes_nothing(data, run, tmp_path):
    paths = ["--data-path", str(data), "--run-dir", str(tmp_path / "parts")]
    train_potential.main([*paths, *SIZES, *OPTIONS, "--epochs", "2", "--pause-after", "1"])
    train_potential.main([*paths, "--resume", "--no-progress"])
    assert_equal_checkpoints(tmp_path / "parts", run)
    assert results_of(tmp_path / "parts")["test"] == results_of(run)["test"]


def test_a_checkpoint_is_loaded_with_all_of_them(run):
    model = load(run / checkpoint.BEST)
    options = model.network.options
    assert (options.encoder.kind, options.with_cluster, options.experts.number) == ("dit", True, 3)
    row = evaluate_checkpoint(run / checkpoint.BEST)[0]
    assert row == pytest.approx(results_of(run)["test"][0])

    (found,) = model.predict([waters(100, 5.0)])
    atoms = waters(100, 5.0)
    atoms.calc = FarfieldCalculator(run / checkpoint.BEST)
    assert atoms.get_potential_energy() == pytest.approx(found["energy"], abs=1e-5)
    assert np.abs(atoms.get_forces() - found["forces"]).max() < 1e-5


def test_the_load_of_experts_is_reported(run):
    """In the test table, in every validation, and in tensorboard; no unit of energy scales it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    results = results_of(run)
    names = [f"expert_{index}_load" for index in range(4)]
    for row in (*results["test"][::2], *results["history"], results["best"]["metrics"]):
        loads = [row[name] for name in names]
        assert sum(loads) == pytest.approx(1, abs=1e-6) and min(loads) >= 0
    assert results["test"][0]["row"] == results["test"][2]["row"] == "model"
    assert [results["test"][0][name] for name in names] == [
        results["test"][2][name] for name in names
    ]

    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    shown = board.Scalars("validation/expert_1_load")
    assert [one.value for one in shown] == pytest.approx(
        [row["expert_1_load"] for row in results["history"]], abs=1e-6
    )


def test_what_is_not_extensive_is_said_at_the_start(run):
    text = (run / "log.txt").read_text(encoding="utf-8")
    assert text.count("note: encoder dit: every atom hears the elements") == 1
