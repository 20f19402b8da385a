"""Laws of the N-body script on a small data set: protocols, baselines, resume, evaluation from the
checkpoint, bad input.
"""

import json
import shutil

import numpy as np
import pytest
import torch

from farfield.common import checkpoint
from farfield.common.session import Interrupted
from farfield.dataloader.datasets.nbody_data import simulate_nbody
from farfield.train import evaluate, launch, train_nbody
from farfield.train.prediction import load
from farfield.train.tasks.nbody import (
    NBodyTask,
    build_task,
    window_errors,
    window_statistics,
)
from farfield.train.tasks.nbody_windows import split_loader
from farfield.train.tasks.task import Evaluation
from tests.support.run_results import assert_equal_checkpoints, results_of, without_clocks

SMALL = [
    "--no-progress",
    "--layers",
    "1",
    "--channels",
    "4",
    "--lmax",
    "1",
    "--batch-size",
    "16",
    "--warmup-steps",
    "2",
    "--lr",
    "0.01",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nbody")
    # the public protocol draws from the legacy generator
    rng = np.random.RandomState(3)  # noqa: NPY002
    for split, count in (("train", 40), ("test", 11), ("val", 9)):
        simulated = simulate_nbody(count, rng)
        arrays = {name: values.astype(np.float32) for name, values in simulated.items()}
        np.savez(
            folder / f"nbody_{split}.npz", **arrays, metadata=json.dumps({"dynamics": "charged"})
        )
    return folder


def run(folder, data, *arguments):
    """Results of the script in ``folder``."""
    train_nbody.main(["--run-dir", str(folder), "--data-path", str(data), *SMALL, *arguments])
    return results_of(folder)


def config_for(data, *arguments):
    return train_nbody.SCRIPT.read_options(["--data-path", str(data), *SMALL, *arguments])


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run of four epochs with everything switched on."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(
        folder,
        data,
        "--epochs",
        "4",
        "--ema-decay",
        "0.9",
        "--updates",
        "2",
        "--waypoint-weight",
        "0.5",
    )


def test_four_epochs_are_two_and_two_more(whole, data, tmp_path):
    folder, results = whole
    options = ["--epochs", "4", "--ema-decay", "0.9", "--updates", "2", "--waypoint-weight", "0.5"]
    assert run(tmp_path / "run", data, *options, "--pause-after", "2") is None
    train_nbody.main(["--run-dir", str(tmp_path / "run"), "--resume"])
    resumed = results_of(tmp_path / "run")
    assert without_clocks(resumed["history"]) == without_clocks(results["history"])
    assert resumed["test"] == results["test"]
    assert_equal_checkpoints(folder, tmp_path / "run")


def test_the_same_seed_gives_the_same_curve(whole, data, tmp_path):
    options = ["--epochs", "4", "--ema-decay", "0.9", "--updates", "2", "--waypoint-weight", "0.5"]
    again = run(tmp_path / "same", data, *options)
    other = run(tmp_path / "other", data, *options, "--seed", "1")
    assert without_clocks(again["history"]) == without_clocks(whole[1]["history"])
    assert other["history"][0]["train_loss"] != again["history"][0]["train_loss"]


def test_a_checkpoint_alone_gives_the_table_again(whole, data, tmp_path):
    folder, results = whole
    evaluate.main([str(folder / checkpoint.BEST), "--json", str(tmp_path / "rows.json")])
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == results["test"]
    validation = evaluate.evaluate_checkpoint(folder / checkpoint.BEST, "val")
    assert validation[0]["x_mean"] == results["best"]["metrics"]["x"], (
        "the best checkpoint holds the weights that were selected"
    )


def test_moved_or_missing_data_are_named(whole, tmp_path):
    with pytest.raises(FileNotFoundError, match="preprocess_nbody"):
        evaluate.evaluate_checkpoint(whole[0] / checkpoint.BEST, data_path=tmp_path)


@pytest.mark.parametrize(
    "protocol, horizon, start",
    [("p1000", 10, lambda i: 0), ("p500", 5, lambda i: int((49 - 5) / 11 * i))],
)
def test_the_rows_are_those_of_the_protocols_windows(data, protocol, horizon, start):
    """Linear and constant rows against the formula on the raw file, over every window (11 windows
    do not fill a batch).
    """
    config = config_for(data, "--protocol", protocol)
    rows = build_task(config).table(
        build_task(config).evaluate(lambda batch: batch.labels, split_loader(config, "test"))
    )
    raw = np.load(data / "nbody_test.npz")
    x, v = raw["positions"].astype(float), raw["velocities"].astype(float)
    index, first = np.arange(11), np.array([start(i) for i in range(11)])
    moved, pushed = (
        x[index, first + horizon] - x[index, first],
        v[index, first + horizon] - v[index, first],
    )
    linear = ((0.1 * horizon * v[index, first] - moved) ** 2).mean((1, 2))
    table = {row["row"]: row for row in rows}
    assert table["model"]["x_mean"] == table["model"]["v_mean"] == 0
    assert np.isclose(table["Linear"]["x_mean"], linear.mean(), rtol=1e-5)
    assert np.isclose(table["Linear"]["x_median"], np.median(linear), rtol=1e-5)
    assert np.isclose(table["Linear"]["v_mean"], (pushed**2).mean(), rtol=1e-5)
    assert np.isclose(table["constant"]["x_mean"], (moved**2).mean(), rtol=1e-5)


def test_training_windows_are_drawn_as_asked(data):
    """At frame 0; anywhere; half of them at frame 0: 40 simulations in 30 epochs, always each
    simulation once.
    """
    share = {}
    for name in ("first", "all", "mixed"):
        loader = split_loader(config_for(data, "--train-starts", name), "train", training=True)
        starts = []
        for epoch in range(30):
            loader.sampler.set_epoch(epoch)
            simulation, start = loader.dataset.windows(np.concatenate(list(loader.sampler)))
            assert sorted(simulation) == list(range(40))
            starts.append(start)
        share[name] = np.mean(np.concatenate(starts) == 0)
    assert share["first"] == 1 and share["all"] < 0.06 and 0.45 < share["mixed"] < 0.6


def test_window_statistics():
    errors = np.arange(1.0, 101.0)
    errors[-1] = 1e6
    found = window_statistics(errors)
    assert found["_trimmed"] == np.arange(1.0, 96.0).mean() and found["_median"] == 50.5
    assert np.isclose(found["_stderr"], errors.std(ddof=1) / 10)
    per_graph = window_errors(
        torch.tensor([[1.0, 1, 1], [3, 3, 3], [2, 0, 0]]), torch.tensor([0, 0, 1]), 2
    )
    assert np.allclose(per_graph, [5.0, 4 / 3])


def test_the_loss_is_the_mean_square_of_the_stacked_pair_plus_the_waypoints(data):
    config = config_for(data, "--updates", "2", "--waypoint-weight", "0.5")
    torch.manual_seed(0)
    model = NBodyTask.restore(config)
    batch = next(iter(split_loader(config, "train", training=True)))
    out, labels = model(batch), batch.labels
    names = ("displacement", "velocity_change")
    stacked = (
        (torch.stack([out[name] for name in names]) - torch.stack([labels[name] for name in names]))
        .square()
        .mean()
    )
    way = (out["waypoints"] - labels["waypoints"]).square().mean()
    assert torch.allclose(build_task(config).loss(model, batch)[0], stacked + 0.5 * way)
    assert torch.equal(labels["waypoints"][:, -1], torch.cat([labels[name] for name in names], -1))


def test_selection_is_relative_to_the_linear_row():
    evaluation = Evaluation({"x": 0.01, "v": 0.1}, {"Linear": {"x": 0.1, "v": 0.2}})
    assert NBodyTask(10).selection(evaluation) == pytest.approx(0.6)


def test_data_in_which_nothing_happens_are_refused():
    evaluation = Evaluation({"x": 0.01, "v": 0.1}, {"Linear": {"x": 0.1, "v": 0.0}})
    with pytest.raises(
        ValueError,
        match="the Linear row of the validation split has no error in v: nothing happens",
    ):
        NBodyTask(10).selection(evaluation)


def test_seeds_have_their_folders_and_a_table_of_means_also_after_an_interruption(data, tmp_path):
    folder = tmp_path / "seeds"
    assert run(folder, data, "--epochs", "2", "--seeds", "2", "--pause-after", "1") is None
    assert (folder / "seed_0" / checkpoint.LAST).exists() and not (folder / "seed_1").exists()
    train_nbody.main(["--run-dir", str(folder), "--resume"])
    content = results_of(folder)
    assert "+-" in content["test"][0]["x_mean"] and isinstance(content["test"][1]["x_mean"], float)
    assert content["test_of_run"] == [
        run(tmp_path / seed, data, "--epochs", "2", "--seed", seed)["test"] for seed in "01"
    ]
    train_nbody.main(["--run-dir", str(folder), "--resume"])
    assert results_of(folder) == content


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--protocol", "p100"], "must be one of p1000, p500, got 'p100'"),
        (["--heads", "3"], "heads"),
        (["--cutoff", "-1"], "cutoff must be > 0"),
        (["--heads", "3", "--seeds", "2"], "heads"),
        (["--updates", "0"], "updates must be >= 1, got 0"),
        (["--updates", "3", "--waypoint-weight", "1"], "--updates must divide the 10 frames"),
        (
            ["--weight-displacement", "0", "--weight-velocity", "0"],
            "loss weights must be >= 0 and not all zero",
        ),
        (
            ["--precision", "bfloat16"],
            "must be one of float32, float64, bf16-mixed, got 'bfloat16'",
        ),
        (["--device", "cuda:77"], "--device cuda:77: not usable here"),
        (["--data-path", "/nowhere"], "/nowhere/nbody_train.npz does not exist"),
    ],
)
def test_bad_input_is_refused_before_a_run_folder_is_made(data, tmp_path, arguments, message):
    with pytest.raises((ValueError, OSError), match=message) as error:
        train_nbody.main(
            ["--run-dir", str(tmp_path / "run"), "--data-path", str(data), *SMALL, *arguments]
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "section, key, message",
    [
        ("data", "protocol", "protocol must be one of p1000, p500, got 'other'"),
        (
            "training",
            "precision",
            "precision of checkpoint .* must be one of float32, float64, bf16-mixed, got 'other'",
        ),
        ("model", "name", "unknown network 'other'; known: .*se3_transformer_nbody, "),
    ],
)
def test_a_checkpoint_of_another_version_is_one_line(whole, tmp_path, section, key, message):
    saved = checkpoint.read_run(whole[0] / checkpoint.BEST)
    saved["config"][section][key] = "other"
    checkpoint.save_checkpoint(tmp_path / "c.pt", saved)
    with pytest.raises(ValueError, match=message):
        evaluate.evaluate_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize("place", [".", "missing/rows.json"])
def test_rows_are_written_where_there_is_a_place(whole, tmp_path, place):
    with pytest.raises(ValueError, match="--json .*: give a file in a folder that exists"):
        evaluate.main([str(whole[0] / checkpoint.BEST), "--json", str(tmp_path / place)])


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            [],
            r"already holds a run \(config.yaml\); add --resume to continue it, --overwrite to "
            r"replace it",
        ),
        (["--overwrite", "--heads", "3"], "heads"),
        (
            ["--overwrite", "--resume"],
            "--resume continues the run in .*, --overwrite deletes it; give one of them",
        ),
        (["--resume", "--beta2", "0.5"], r"training.beta2 is 0.999 there and 0.5 here"),
    ],
)
def test_a_refused_call_leaves_the_run_in_the_folder_alone(whole, data, arguments, message):
    before = content(whole[0])
    with pytest.raises(ValueError, match=message):
        run(whole[0], data, *arguments)
    assert content(whole[0]) == before


def test_an_interruption_outside_the_training_says_how_to_go_on(data, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(launch, "finish_run", interrupted)
        with pytest.raises(
            Interrupted,
            match="interrupted; continue with: python -m train.train_nbody --run-dir '.*/a run' "
            "--resume",
        ):
            run(tmp_path / "a run", data, "--epochs", "1")
        patched.setattr(launch, "build_trainer", interrupted)
        with pytest.raises(Interrupted, match="^interrupted$"):
            run(tmp_path / "none", data)
    train_nbody.main(["--run-dir", str(tmp_path / "a run"), "--resume"])
    assert (tmp_path / "a run" / "results.json").exists() and not (tmp_path / "none").exists()


def test_a_run_stopped_before_its_first_checkpoint_starts_at_the_beginning(
    whole, data, tmp_path, capsys
):
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / checkpoint.LAST).unlink()
    train_nbody.main(["--run-dir", str(tmp_path / "run"), "--resume"])
    assert (
        f"there is no {checkpoint.LAST} in {tmp_path / 'run'}: starts at the beginning"
        in capsys.readouterr().out
    )
    assert results_of(tmp_path / "run")["test"] == whole[1]["test"]


def test_a_checkpoint_of_another_model_is_refused(whole, data):
    with pytest.raises(ValueError, match=r"model.channels is 4 there and 8 here"):
        train_nbody.main(["--run-dir", str(whole[0]), "--resume", "--channels", "8"])


def test_particles_in_memory_get_the_predictions_of_the_data_set(whole, data):
    folder, _ = whole
    model = load(folder / checkpoint.BEST)
    loader = split_loader(model.config, "test")
    dataset = loader.dataset
    with torch.no_grad():
        expected = model.network(dataset[range(len(dataset))])

    simulation, start = dataset.windows(range(len(dataset)))
    arrays = {
        "positions": dataset.positions[simulation, start],
        "velocities": dataset.velocities[simulation, start],
        "charges": dataset.charges[simulation],
    }
    samples = [{name: rows[k] for name, rows in arrays.items()} for k in range(len(dataset))]
    for name in ("displacement", "velocity_change"):
        found = np.concatenate([result[name] for result in model.predict(samples, max_atoms=12)])
        np.testing.assert_allclose(found, expected[name].numpy(), rtol=1e-4, atol=1e-5)
    assert model.predict(samples[0])["displacement"].shape == (5, 3)
    with pytest.raises(ValueError, match="sample 0 must be a dict with positions, .*, got int"):
        model.predict([3])

    del samples[2]["charges"]
    with pytest.raises(ValueError, match="sample 2 needs .* got .*; add charges"):
        model.predict(samples)
