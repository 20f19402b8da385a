"""Laws of the script for denoising on a small data set, with a network of one file: it learns, goes
on bit-identically after pauses and kills, is judged by its checkpoint alone, refuses bad input.
"""

import signal
import time
from pathlib import Path

import pytest

from farfield.common import checkpoint
from farfield.preprocess import preprocess_backbones
from farfield.train import evaluate, train_denoise
from tests.support.processes import Script
from tests.support.registries import restore_registries, saved_registries
from tests.support.run_results import assert_equal_checkpoints, results_of, without_clocks

NETWORK = str(Path(__file__).resolve().parents[1] / "support" / "doors" / "toy_denoiser.py")
IMPORT = ["--import", NETWORK]
SMALL = ["--model", "toy_denoiser", "--no-progress", "--warmup-steps", "2", "--lr", "0.01"]


@pytest.fixture(scope="module", autouse=True)
def as_before():
    """What the file registers is forgotten again."""
    state = saved_registries()
    yield
    restore_registries(state)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbones") / "data"
    sizes = ["--build", "24", "--residues", "8,16", "--val", "4", "--test", "4"]
    preprocess_backbones.main([*sizes, "--out", str(folder)])
    return folder


OPTIONS = ["--epochs", "4", "--batch-size", "4", "--max-residues", "10", "--adjacency", "chain"]


def arguments(folder, data, *more):
    return [*IMPORT, "--run-dir", str(folder), "--data-path", str(data), *SMALL, *OPTIONS, *more]


def run(folder, data, *more):
    """Results of the script in ``folder``."""
    train_denoise.main(arguments(folder, data, *more))
    return results_of(folder)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(folder, data)


def test_it_learns_and_says_how_far_the_noised_chains_were(whole):
    folder, results = whole
    model, noised = results["test"]
    assert noised["rmsd (A)"] == pytest.approx(0.5 * 3**0.5, rel=0.1)
    assert model["rmsd (A)"] < 0.85 * noised["rmsd (A)"]
    assert results["history"][0]["train_loss"] < 1.2, "a network that does nothing has the loss 1"
    log = (folder / "log.txt").read_text()
    assert "train: 16 chains of 9 to 16 residues, 4 batches" in log
    assert "noise 0.5 A; edges within 5.0 A and up to 3 bonds" in log


def test_four_epochs_are_two_and_two_more(whole, data, tmp_path):
    assert run(tmp_path / "run", data, "--pause-after", "2") is None
    train_denoise.main([*IMPORT, "--run-dir", str(tmp_path / "run"), "--resume"])
    resumed = results_of(tmp_path / "run")
    assert without_clocks(resumed["history"]) == without_clocks(whole[1]["history"])
    assert resumed["test"] == whole[1]["test"]
    assert_equal_checkpoints(whole[0], tmp_path / "run")


def test_a_killed_run_goes_on_with_the_noise_of_its_epoch(data, tmp_path):
    """Killed after any step: noise is drawn where the epoch is known."""
    folder, options = tmp_path / "run", ["--epochs", "12", "--checkpoint-every", "1"]
    script = Script("-m", "train.train_denoise", *arguments(folder, data, *options))
    deadline = time.monotonic() + 60
    while not (folder / checkpoint.LAST).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    script.send_signal(signal.SIGKILL)
    assert script.wait().returncode == -signal.SIGKILL
    step = checkpoint.read_run(folder / checkpoint.LAST)["position"]["step"]
    assert 0 < step < 48, "the kill came too late to test anything"

    train_denoise.main([*IMPORT, "--run-dir", str(folder), "--resume"])
    unbroken = run(tmp_path / "unbroken", data, "--epochs", "12")
    found = results_of(folder)
    assert without_clocks(found["history"]) == without_clocks(unbroken["history"])
    assert_equal_checkpoints(folder, tmp_path / "unbroken")


def test_a_checkpoint_alone_gives_the_table_again(whole):
    folder, results = whole
    assert evaluate.evaluate_checkpoint(folder / checkpoint.BEST) == results["test"]
    validation = evaluate.evaluate_checkpoint(folder / checkpoint.BEST, "val")
    assert validation[0]["rmsd (A)"] == results["best"]["metrics"]["rmsd"]


def test_seeds_differ_in_training_alone(whole, data, tmp_path):
    other = run(tmp_path / "other", data, "--seed", "1", "--epochs", "1")
    assert other["test"][1] == whole[1]["test"][1], "the noise of the test split is the same"
    assert other["history"][0]["train_loss"] != whole[1]["history"][0]["train_loss"]


def test_the_network_decides_the_cutoff_of_the_graphs(data, tmp_path):
    options = train_denoise.SCRIPT.read_options(
        arguments(tmp_path, data, "--cutoff", "3.5", "--max-hops", "5")
    )
    assert options.model.cutoff == 3.5 and "cutoff" not in options.data
    assert options.data.max_hops == 5


@pytest.mark.parametrize(
    "more, message",
    [
        (["--adjacency", "rings"], "must be one of none, chain, got 'rings'"),
        (["--noise", "0"], "--noise: must be > 0"),
        (["--cutoff", "-1"], "cutoff must be finite and > 0"),
        (["--max-hops", "0"], "--max-hops"),
        (["--model", "toy"], "toy"),
        (["--data-path", "/nowhere"], "/nowhere/train.npz does not exist; make the folder with"),
    ],
)
def test_bad_input_is_refused_before_a_run_folder_is_made(data, tmp_path, more, message):
    with pytest.raises((ValueError, OSError), match=message) as error:
        run(tmp_path / "run", data, *more)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
