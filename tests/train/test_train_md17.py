"""Laws of the script for small molecules: resume, evaluation from the checkpoint and on other
folders, presets, data and bad input.
"""

import json

import numpy as np
import pytest

from farfield.common import checkpoint
from farfield.common.command_line import plain
from farfield.common.session import Interrupted
from farfield.dataloader.prepared_folder import load_statistics
from farfield.models.factory import build_model
from farfield.models.networks.e2former_options import PRESETS
from farfield.preprocess import preprocess_md17
from farfield.train import evaluate, launch, train_md17
from farfield.train.tasks.energy_forces import BASELINE
from tests.support.md_data import config_for, make_data, run_md17
from tests.support.molecule_data import random_structures
from tests.support.run_results import assert_equal_checkpoints, results_of, without_clocks

OPTIONS = [
    "--epochs",
    "4",
    "--lr",
    "0.01",
    "--drop-path",
    "0.3",
    "--max-atoms-per-batch",
    "9",
    "--accumulate",
    "2",
]
OPTIONS += ["--late-energy-factor", "3"]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run of four epochs: ragged batches, accumulation, random depth, weights that
    change.
    """
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run_md17(folder, data, *OPTIONS)


def test_four_epochs_are_two_and_two_more(whole, data, tmp_path):
    folder, results = whole
    assert run_md17(tmp_path / "run", data, *OPTIONS, "--pause-after", "2") is None
    train_md17.main(["--run-dir", str(tmp_path / "run"), "--resume"])
    resumed = results_of(tmp_path / "run")
    assert without_clocks(resumed["history"]) == without_clocks(results["history"])
    assert resumed["test"] == results["test"]
    assert_equal_checkpoints(folder, tmp_path / "run")


def test_a_run_learns_and_its_table_has_both_units_and_the_baseline(data, tmp_path):
    options = ["--lr", "0.02", "--batch-size", "4"]
    first = run_md17(tmp_path / "one", data, *options, "--epochs", "1")["history"][0]["train_loss"]
    results = run_md17(tmp_path / "run", data, *options, "--epochs", "20", "--validate-every", "20")
    assert results["history"][0]["train_loss"] < 0.85 * first
    assert [(row["row"], row["units"]) for row in results["test"]] == [
        ("model", "meV, meV/A"),
        (BASELINE, "meV, meV/A"),
        ("model", "kcal/mol, kcal/mol/A"),
        (BASELINE, "kcal/mol, kcal/mol/A"),
    ]
    words = (tmp_path / "run" / "log.txt").read_text()
    assert (
        "forces (eV/Angstrom)" in words
        and "edges within 5.0 Angstrom" in words
        and "8 structures of" in words
    )


def test_a_checkpoint_alone_gives_the_table_again(whole, tmp_path):
    folder, results = whole
    evaluate.main([str(folder / checkpoint.BEST), "--json", str(tmp_path / "rows.json")])
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == results["test"]
    validation = evaluate.evaluate_checkpoint(folder / checkpoint.BEST, "val")
    assert validation[0]["force_mae"] == results["best"]["metrics"]["force_mae"]


def test_another_folder_is_judged_with_the_references_of_the_training(whole, tmp_path):
    """Larger structures: the energies of the other folder moved by a constant move the error, and
    an offset takes that off.
    """
    structures = random_structures((7,) * 12, seed=5, elements=(1,))
    moved = random_structures((7,) * 12, seed=5, elements=(1,))
    moved.energy = moved.energy + 100.0
    folders = [
        make_data(tmp_path / name, one, sizes=(2, 2, 8))
        for name, one in (("as is", structures), ("moved", moved))
    ]
    path = whole[0] / checkpoint.BEST
    here, there = (evaluate.evaluate_checkpoint(path, data_path=folder)[0] for folder in folders)
    assert (
        abs(here["energy_mae"] - there["energy_mae"]) > 9e4
        and here["force_mae"] == there["force_mae"]
    )
    free = [
        evaluate.evaluate_checkpoint(path, data_path=folder, energy_offset="per-composition")[0][
            "energy_mae"
        ]
        for folder in folders
    ]
    assert free[0] == pytest.approx(free[1], rel=1e-4) and free[0] < 1e4


def test_an_unknown_element_in_another_folder_is_one_line(whole, tmp_path):
    folder = make_data(
        tmp_path / "foreign", random_structures((4,) * 8, elements=(1, 79)), sizes=(2, 2, 4)
    )
    with pytest.raises(ValueError, match=r"unknown element Au \(Z = 79\)"):
        evaluate.evaluate_checkpoint(whole[0] / checkpoint.BEST, data_path=folder)


def test_the_network_is_told_what_its_data_are_like(data):
    statistics, config = load_statistics(data), config_for(data)
    assert (config.model.avg_degree, config.model.avg_atoms) == (
        statistics.average_neighbors,
        statistics.average_atoms,
    )
    assert config.model.far_design_radius == statistics.design_radius
    assert config_for(data, "--avg-degree", "7").model.avg_degree == 7.0
    trainer, _ = launch.build_trainer(config)
    reference = trainer.model.reference
    assert (
        reference.scale.item() == statistics.force_rms
        and reference.energy[6].item() == statistics.references[6]
    )


def test_the_cutoff_is_that_of_the_graphs_unless_it_is_given(data, tmp_path):
    folder = make_data(tmp_path / "short", cutoff=3.5)
    assert config_for(folder).model.cutoff == 3.5 and config_for(data).model.cutoff == 5.0
    assert config_for(folder, "--cutoff", "3").model.cutoff == 3.0
    assert config_for(folder, "--preset", "paper").model.cutoff == PRESETS["paper"]["cutoff"]
    launch.build_trainer(config_for(folder))


@pytest.mark.parametrize("cutoff", [None, "five", -1.0])
def test_a_folder_that_names_no_cutoff_is_one_line(tmp_path, cutoff):
    folder = make_data(tmp_path / "odd")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["settings"]["cutoff"] = cutoff
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        ValueError, match=rf"manifest.json names no cutoff \(it says {cutoff!r}\)"
    ) as error:
        config_for(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_stand_behind_what_is_given(data, name):
    read = train_md17.SCRIPT.read_options
    config = read(["--data-path", str(data), "--preset", name])
    for key, value in PRESETS[name].items():
        if key not in ("avg_degree", "avg_atoms", "far_design_radius"):
            assert config.model[key] == value, key
    given = read(["--data-path", str(data), "--preset", name, "--irreps", "8x0e+8x1o"])
    assert given.model.irreps == "8x0e+8x1o"
    build_model(plain(config.model))


def test_the_last_rate_of_a_time_budget_is_small(data, tmp_path):
    results = run_md17(
        tmp_path / "run",
        data,
        "--epochs",
        "100000",
        "--max-cpu-minutes",
        "0.006",
        "--validate-every",
        "1000",
    )
    assert (
        results["ended_by"] == "budget"
        and results["history"][-1]["learning_rate"] < 0.1 * results["config"]["training"]["lr"]
    )


def test_a_run_goes_on_with_the_data_it_began_with(whole, tmp_path):
    other = make_data(tmp_path / "other", random_structures((4,) * 16, seed=9))
    before = {path: path.read_bytes() for path in whole[0].rglob("*") if path.is_file()}
    with pytest.raises(
        ValueError,
        match="cannot resume .*: it was trained .* on other structures .*; give the data it "
        "began with",
    ):
        train_md17.main(["--run-dir", str(whole[0]), "--resume", "--data-path", str(other)])
    assert before == {
        path: path.read_bytes() for path in whole[0].rglob("*") if path.is_file()
    }  # the refusal changed nothing


def test_seeds_have_their_folders_and_a_table_of_means(data, tmp_path):
    results = run_md17(tmp_path / "seeds", data, "--epochs", "1", "--seeds", "2")
    assert "+-" in results["test"][0]["force_mae"] and isinstance(
        results["test"][1]["force_mae"], float
    )
    assert (
        results["test_of_run"][1]
        == run_md17(tmp_path / "one", data, "--epochs", "1", "--seed", "1")["test"]
    )


BAD = [
    (["--lr", "0.001", "--min-lr", "1"], "--min-lr 1.0 is above --lr 0.001"),
    (["--schedule", "third-order"], "third-order"),
    (["--irreps", "9x0e"], "irreps must hold at least degrees 0 and 1"),
    (
        ["--layers", "3"],
        "--layers 3 changes nothing: every part of --schedule hybrid-first-order1 has its count",
    ),
    (["--preset", "huge"], "must be one of small, base, paper, got 'huge'"),
    (["--cutoff", "4"], "holds the neighbours within 5.0 Angstrom, but 4.0 is needed"),
    (["--data-path", "/nowhere"], "/nowhere/statistics.json does not exist"),
    (["--max-atoms-per-batch", "2"], "has . atoms, a batch may have 2"),
    (["--lr-schedule", "none"], "must be one of constant, cosine, plateau"),
]


@pytest.mark.parametrize("arguments, message", BAD)
def test_bad_input_is_refused_before_a_run_folder_is_made(data, tmp_path, arguments, message):
    with pytest.raises((ValueError, OSError), match=message) as error:
        run_md17(tmp_path / "run", data, *arguments)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_an_interruption_says_how_to_go_on(data, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "finish_run", interrupted)
    with pytest.raises(
        Interrupted,
        match="interrupted; continue with: python -m train.train_md17 "
        "--run-dir '.*/a run' --resume",
    ):
        run_md17(tmp_path / "a run", data, "--epochs", "1")


def test_offsets_are_for_energies(tmp_path, whole):
    saved = checkpoint.read_run(whole[0] / checkpoint.BEST)
    saved["config"]["task"] = "other"
    checkpoint.save_checkpoint(tmp_path / "c.pt", saved)
    with pytest.raises(ValueError, match="unknown task 'other'; known: .*energy_forces"):
        evaluate.evaluate_checkpoint(tmp_path / "c.pt", energy_offset="per-composition")
    saved["config"]["task"] = "qm9"
    checkpoint.save_checkpoint(tmp_path / "c.pt", saved)
    with pytest.raises(
        ValueError,
        match="--energy-offset per-composition is no option of the task 'qm9' .*; leave it out",
    ):
        evaluate.evaluate_checkpoint(tmp_path / "c.pt", energy_offset="per-composition")


def test_the_bundled_sample_goes_through_both_scripts(tmp_path):
    """As ``make train`` calls them, a few frames of ethanol and one epoch."""
    few = ["--train", "6", "--val", "4", "--test", "4"]
    preprocess_md17.main(["--sample", "--out", str(tmp_path / "data"), *few])
    results = run_md17(tmp_path / "run", tmp_path / "data", "--epochs", "1")
    assert np.isclose(results["test"][1]["force_mae"], 900, rtol=0.3), (
        "forces of ethanol at 500 K, meV/Angstrom"
    )
    assert load_statistics(tmp_path / "data").references[6] == pytest.approx(-468.3, abs=0.1)
