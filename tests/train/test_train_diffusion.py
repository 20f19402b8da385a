"""Laws of the script for diffusions on a few random structures: it learns, goes on bit-identically
after a pause, is judged by its checkpoint alone, trains every network, refuses bad input.
"""

import signal
import time

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from farfield.common import checkpoint
from farfield.common.trained import TrainedRun, diffusion_process
from farfield.models.factory import network_names
from farfield.models.network import DIFFUSION
from farfield.preprocess import preprocess_qm9
from farfield.train import evaluate, train_diffusion
from tests.support.md_data import flags, make_data
from tests.support.processes import Script
from tests.support.qm9_data import molecules
from tests.support.run_results import assert_equal_checkpoints, results_of, without_clocks
from tests.support.small_diffusion import BACKBONES, E2FORMER

SMALL = [
    *flags(lr=0.01, warmup_steps=2, ema_decay=0.9, batch_size=4, epochs=4, diffusion_steps=100),
    "--no-progress",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("molecules") / "data")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Many copies of four molecules, as preprocess_qm9 prepares them."""
    folder = tmp_path_factory.mktemp("many")
    some = molecules(("C6H6", "C5H5N", "C4H4O", "C3H4_C3v") * 35)
    arrays = {"n_atoms": some.counts, "Z": some.atomic_numbers, "R": some.positions}
    np.savez(folder / "own.npz", **arrays, mu=np.ones(len(some)))
    files = ["--source", "npz", "--file", str(folder / "own.npz"), "--out", str(folder / "data")]
    sizes = ["--train", "60", "--val", "40", "--test", "40", "--lmax", "1"]
    preprocess_qm9.main([*files, *sizes])
    return folder / "data"


def arguments(folder, data, *more, model=E2FORMER):
    file = folder.parent / f"{model['name']}.yaml"
    file.write_text(yaml.safe_dump({"model": model}))
    paths = ["--run-dir", str(folder), "--data-path", str(data), "--config", str(file)]
    return [*paths, *SMALL, *more]


def run(folder, data, *more, **network):
    """Results of the script in ``folder``."""
    train_diffusion.main(arguments(folder, data, *more, **network))
    return results_of(folder)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(folder, data)


@pytest.mark.parametrize("objective, error", [("joint", "loss"), ("time", "time_mae")])
def test_it_learns_more_than_a_constant_says(many, tmp_path, objective, error):
    results = run(
        tmp_path / "run", many, "--objective", objective, "--epochs", "15", "--batch-size", "10"
    )
    model, constant = results["test"]
    assert constant["row"] == "constant" and model["row"] == "model"
    assert model[error] < 0.6 * constant[error]
    assert results["best"]["metrics"]["loss"] == min(row["selection"] for row in results["history"])
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "train: 60 molecules of 7 to 12 atoms, 6 batches" in log
    assert f"polynomial noise in 100 steps, objective {objective}" in log


def test_four_epochs_are_two_and_two_more(whole, data, tmp_path):
    """Times and noise of an epoch are drawn again as they were."""
    assert run(tmp_path / "run", data, "--pause-after", "2") is None
    train_diffusion.main(["--run-dir", str(tmp_path / "run"), "--resume"])
    resumed = results_of(tmp_path / "run")
    assert without_clocks(resumed["history"]) == without_clocks(whole[1]["history"])
    assert resumed["test"] == whole[1]["test"]
    assert_equal_checkpoints(whole[0], tmp_path / "run")


def pictured_steps(folder) -> list[int]:
    """Steps at which tensorboard got pictures of molecules, in order."""
    events = EventAccumulator(str(folder / "tensorboard"), {"images": 0})
    events.Reload()
    if "molecules" not in events.Tags()["images"]:
        return []
    return [event.step for event in events.Images("molecules")]


def test_tensorboard_gets_pictures_of_molecules(whole, data, tmp_path):
    """Four times a run, as often where it was interrupted, never where no noise is found."""
    assert pictured_steps(whole[0]) == [2, 4, 6, 8]
    assert run(tmp_path / "run", data, "--pause-after", "2") is None
    assert pictured_steps(tmp_path / "run") == [2, 4]
    train_diffusion.main(["--run-dir", str(tmp_path / "run"), "--resume"])
    assert pictured_steps(tmp_path / "run") == [2, 4, 6, 8]

    run(tmp_path / "time", data, "--objective", "time", "--epochs", "1")
    assert pictured_steps(tmp_path / "time") == []


def test_a_killed_run_goes_on_with_the_draws_of_its_epoch(data, tmp_path):
    """Killed after any step: times and noise are drawn where the epoch is known."""
    folder, options = tmp_path / "run", ["--epochs", "16", "--checkpoint-every", "1"]
    script = Script("-m", "train.train_diffusion", *arguments(folder, data, *options))
    deadline = time.monotonic() + 60
    while not (folder / checkpoint.LAST).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    script.send_signal(signal.SIGKILL)
    assert script.wait().returncode == -signal.SIGKILL
    step = checkpoint.read_run(folder / checkpoint.LAST)["position"]["step"]
    assert 0 < step < 32, "the kill came too late to test anything"

    train_diffusion.main(["--run-dir", str(folder), "--resume"])
    unbroken = run(tmp_path / "unbroken", data, "--epochs", "16")
    assert without_clocks(results_of(folder)["history"]) == without_clocks(unbroken["history"])
    assert_equal_checkpoints(folder, tmp_path / "unbroken")


def test_a_checkpoint_alone_gives_the_table_the_network_and_the_process_again(whole):
    folder, results = whole
    assert evaluate.evaluate_checkpoint(folder / checkpoint.BEST) == results["test"]
    validation = evaluate.evaluate_checkpoint(folder / checkpoint.BEST, "val")
    assert validation[0]["loss"] == results["best"]["metrics"]["loss"]

    trained = TrainedRun.read(folder / checkpoint.BEST)
    assert diffusion_process(trained.config).options.time_steps == 100
    assert set(trained.network().outputs()) == {"noise", "time"}


def test_seeds_differ_in_training_alone(whole, data, tmp_path):
    other = run(tmp_path / "other", data, "--seed", "1", "--epochs", "1")
    assert other["test"][1] == whole[1]["test"][1], "times and noise of the test split are the same"
    assert other["history"][0]["train_loss"] != whole[1]["history"][0]["train_loss"]


@pytest.mark.parametrize("objective", ["noise", "time", "joint"])
@pytest.mark.parametrize("name", network_names(DIFFUSION))
def test_every_network_trains_on_every_objective(data, tmp_path, name, objective):
    """Small ones as the tests know them, and whatever else is registered as it is by default."""
    known = {model["name"]: model for model in BACKBONES.values()}
    more = ["--objective", objective, "--epochs", "1", "--batch-size", "8"]
    results = run(tmp_path / "run", data, *more, model=known.get(name, {"name": name}))
    parts = {key for key in results["history"][0] if key.startswith("train_")}
    errors = {"noise": {"noise_mse"}, "time": {"time_mse"}, "joint": {"noise_mse", "time_mse"}}
    assert {f"train_{error}" for error in errors[objective]} | {"train_loss"} <= parts
    assert 0 < results["test"][0]["loss"] < 100


def test_the_data_say_how_many_neighbours_there_are(data, tmp_path):
    options = train_diffusion.SCRIPT.read_options(
        ["--run-dir", str(tmp_path), "--data-path", str(data), "--atoms", "5"]
    )
    assert options.model.avg_degree == 4.0 and options.model.avg_atoms == 5.0
    assert options.model.far_design_radius > 5, "pure noise reaches as far, whatever the molecules"
    assert "noise_head" not in options.model


@pytest.mark.parametrize(
    "more, message",
    [
        (["--objective", "score"], "must be one of noise, time, joint, got 'score'"),
        (["--objective", "noise", "--detach-time"], "--detach-time is for --objective joint"),
        (["--condition", "time"], "--condition tells the network the time that"),
        (
            ["--condition", "total_charge"],
            "the structures have no 'total_charge'",
        ),
        (["--noise-schedule", "square"], "must be one of polynomial, cosine, linear, got 'square'"),
        (["--noise-schedule", "linear", "--diffusion-steps", "9"], "time_steps of the linear"),
        (["--diffusion-steps", "1"], "--diffusion-steps: must be >= 2"),
        (["--atoms", "many"], "atoms must be one number or a range such as 5,9, got 'many'"),
        (["--heavy-atoms", "50,60"], "no molecule is left by heavy_atoms 50,60"),
        (["--model", "e2former"], "e2former"),
        (["--data-path", "/nowhere"], "/nowhere/train.npz does not exist; make the folder with"),
    ],
)
def test_bad_input_is_refused_before_a_run_folder_is_made(data, tmp_path, more, message):
    with pytest.raises((ValueError, OSError), match=message) as error:
        run(tmp_path / "run", data, *more)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
