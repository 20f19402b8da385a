"""Training with products in bfloat16: runs go on bit for bit, are judged in float32, turn with the
structures up to 2e-2 while they train; conservative forces and compiled steps are refused.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.accuracy import bench_precision
from farfield.common import checkpoint
from farfield.dataloader.datasets.nbody_data import simulate_nbody
from farfield.preprocess import preprocess_qm9
from farfield.train import train_diffusion, train_md17, train_nbody, train_qm9
from farfield.train.compiled_gradients import compiled_gradients
from farfield.train.evaluate import Judged, evaluate_checkpoint
from farfield.train.launch import build_trainer
from farfield.train.prediction import load
from tests.support.md_data import SMALL, config_for, flags, make_data
from tests.support.qm9_data import molecules
from tests.support.run_results import assert_equal_checkpoints, results_of

MIXED = ["--precision", "bf16-mixed", "--no-progress"]
TURNED = 2e-2  # largest mean rotation error over the size of an output, rounded
EXACT = 1e-5  # the same in float32
STEPS = flags(lr=0.01, warmup_steps=2, batch_size=4, ema_decay=0.5)
E2FORMER = flags(
    irreps="4x0e+4x1o", schedule="hybrid-first-order1", heads=2, radial_hidden=8, radial_size=4
)


@pytest.fixture(scope="module")
def structures(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("structures") / "set")


def potentials(folder, structures):
    """Options of direct forces on random structures."""
    return train_md17, ["--data-path", str(structures), *SMALL, "--forces", "direct"]


def properties(folder, structures):
    """Options of a property of small molecules."""
    some = molecules(("CH4", "NH3", "H2O", "HCN", "H2CO", "CH3OH") * 4)
    arrays = {"n_atoms": some.counts, "Z": some.atomic_numbers, "R": some.positions}
    alpha = np.random.default_rng(0).normal(size=len(some))
    np.savez(folder / "own.npz", **arrays, alpha=alpha, mu=alpha)
    files = ["--source", "npz", "--file", str(folder / "own.npz"), "--out", str(folder / "data")]
    sizes = ["--train", "12", "--val", "6", "--test", "6", "--lmax", "1", "--graph", "cutoff"]
    preprocess_qm9.main([*files, *sizes])
    return train_qm9, ["--data-path", str(folder / "data"), "--targets", "alpha", *STEPS, *E2FORMER]


def particles(folder, structures):
    """Options of the N-body experiment."""
    rng = np.random.RandomState(3)  # noqa: NPY002 - the public protocol draws from it
    for split, count in (("train", 8), ("test", 4), ("val", 4)):
        simulated = simulate_nbody(count, rng)
        arrays = {name: values.astype(np.float32) for name, values in simulated.items()}
        text = json.dumps({"dynamics": "charged"})
        np.savez(folder / f"nbody_{split}.npz", **arrays, metadata=text)
    small = flags(layers=1, channels=4, lmax=1)
    return train_nbody, ["--data-path", str(folder), *STEPS, *small]


def noise(folder, structures):
    """Options of a diffusion of molecules."""
    network = flags(irreps="4x0e+4x1o", schedule="first-order1", heads=2, radial_hidden=8)
    return train_diffusion, ["--data-path", str(structures), *STEPS, *network]


RUNS = {"energy": potentials, "properties": properties, "nbody": particles, "diffusion": noise}
RESUMED = ["energy"]  # one trainer goes on for all


@pytest.fixture(scope="module", params=RUNS)
def run(request, structures, tmp_path_factory):
    """Script, options and folder of a finished run."""
    folder = tmp_path_factory.mktemp(request.param)
    script, options = RUNS[request.param](folder, structures)
    epochs = "2" if request.param in RESUMED else "1"
    script.main(["--run-dir", str(folder / "run"), *options, *MIXED, "--epochs", epochs])
    return script, options, folder / "run"


@pytest.mark.parametrize("run", RESUMED, indirect=True)
def test_it_goes_on_bit_for_bit_with_weights_in_float32(run, tmp_path):
    script, options, folder = run
    two = ["--run-dir", str(tmp_path / "two")]
    script.main([*two, *options, *MIXED, "--epochs", "2", "--pause-after", "1"])
    script.main([*two, "--resume"])
    assert_equal_checkpoints(folder, tmp_path / "two")

    content = checkpoint.read_checkpoint(folder / checkpoint.LAST)
    assert content["config"]["training"]["precision"] == "bf16-mixed"
    kept = [content["weights"], content["averaged"], *content["optimizer"]["state"].values()]
    values = [value for part in kept for value in part.values() if isinstance(value, torch.Tensor)]
    assert not any(value.dtype in (torch.bfloat16, torch.float16) for value in values)


def test_it_is_judged_in_float32_and_turns_up_to_the_bar_while_it_trains(run):
    path = run[2] / checkpoint.BEST
    assert evaluate_checkpoint(path)[0] == pytest.approx(results_of(run[2])["test"][0], nan_ok=True)

    found = bench_precision.measure(str(path), None, directions=2, rounds=1)
    for row in found["rows"]:
        assert row["rotation float32"] < EXACT < row["rotation bf16-mixed"] < TURNED
        assert row["change"] > EXACT


def test_gradients_are_in_float32_and_near_those_without_rounding(run):
    one = Judged.open(run[2] / checkpoint.LAST)
    batch = next(iter(one.loader)).to(dtype=torch.float32)
    rounded, exact = (
        bench_precision.gradients(model, batch)
        for model in (bench_precision.rounded_copy(one.model), one.model)
    )
    assert all(part.dtype == torch.float32 for part in rounded)
    rounded, exact = (torch.cat([one.flatten() for one in side]) for side in (rounded, exact))
    assert 1e-5 < float((rounded - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "bf16-mixed: forces cannot be the slope .* type --forces direct, or --precision"),
        (["--forces", "direct", "--compile", "on"], "--compile on: .* type --compile off, or"),
        (["--model", "edge_transformer", "--forces", "none"], "no products that it may round"),
    ],
)
def test_what_is_not_safe_is_refused_before_anything_is_written(
    structures, tmp_path, arguments, reason
):
    folder = ["--run-dir", str(tmp_path / "run"), "--data-path", str(structures)]
    with pytest.raises(ValueError, match=reason) as error:
        train_md17.main([*folder, *MIXED, *arguments])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("run", ["energy"], indirect=True)
def test_a_prediction_has_no_such_precision(run):
    with pytest.raises(ValueError, match="dtype must be one of float32, float64"):
        load(run[2] / checkpoint.BEST, dtype="bf16-mixed")


def test_a_compiled_step_of_a_long_run_is_passed_over(structures, tmp_path):
    long = ["--forces", "direct", "--max-cpu-minutes", "600", "--run-dir", str(tmp_path / "run")]
    config = config_for(structures, *MIXED, *long)
    trainer, _ = build_trainer(config)
    lines = []
    parts = (trainer.model, trainer.task, config, trainer.train_loader)
    assert compiled_gradients(*parts, lines.append) is None
    assert lines == ["training without compiled code: --precision bf16-mixed rounds products"]
