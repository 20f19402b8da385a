"""The tables of the comparison on QM9: simple fits, what is read of a run, which runs compare."""

import json
from pathlib import Path

import numpy as np
import pytest
from easydict import EasyDict

from benchmarks.rivals import compare_qm9
from benchmarks.rivals.compare_qm9 import (
    UNITS,
    errors_of,
    farfield_options,
    main,
    report,
    run_schnetpack,
    simple_rows,
    verdicts,
)
from farfield.dataloader.splits import Split
from farfield.dataloader.structures import Structures
from farfield.train.losses import WeightedLoss
from farfield.train.tasks.properties import PropertyTask
from farfield.train.tasks.task import Evaluation

COUNTS = np.array([[4, 1], [6, 2], [8, 3], [6, 4], [2, 2], [4, 2]])  # hydrogen and carbon atoms


def molecules(labels: np.ndarray) -> Structures:
    """Molecules of hydrogen and carbon whose every target has the given labels."""
    numbers = np.concatenate([np.repeat([1, 6], row) for row in COUNTS])
    extra = {target: labels for target in UNITS}
    return Structures(
        numbers, np.arange(3.0 * len(numbers)).reshape(-1, 3), COUNTS.sum(1), extra=extra
    )


def split_of(data_hash: str = "0", test: tuple[int, ...] = (4, 5)) -> Split:
    return Split(np.arange(3), np.array([3]), np.array(test), 6, data_hash, {"name": "made"})


def errors(value: float) -> dict[str, float]:
    return dict.fromkeys(UNITS, value)


def test_the_mean_misses_by_the_deviation_from_the_training_mean_in_units_of_the_table():
    labels = np.array([1.0, 2.0, 6.0, 100.0, 4.0, 0.0])  # mean of the first three: 3
    rows = simple_rows(molecules(labels), split_of())
    mean, _ = json.loads(json.dumps(rows))  # rows can be written to a file
    assert mean["mu"] == pytest.approx((1 + 3) / 2)
    assert mean["homo"] == pytest.approx(2000.0)  # eV -> meV
    assert mean["Cv"] == pytest.approx(2.0)


def test_the_linear_fit_is_exact_for_sums_over_elements_and_a_constant():
    split = Split(np.arange(4), np.array([4]), np.array([5]), 6, "0", {"name": "made"})
    _, fit = simple_rows(molecules(COUNTS @ [-13.0, -1030.0] + 7.0), split)
    assert max(fit[target] for target in UNITS) < 1e-6
    _, fit = simple_rows(molecules(np.prod(COUNTS, 1).astype(float)), split)
    assert fit["mu"] > 0.1


def test_labels_of_validation_and_test_do_not_enter_the_fits():
    split = Split(np.arange(4), np.array([4]), np.array([5]), 6, "0", {"name": "made"})
    labels = COUNTS @ [1.0, 2.0]
    other = labels + np.array([0.0, 0.0, 0.0, 0.0, -9.0, 2.0])
    mean, fit = simple_rows(molecules(labels), split)
    moved_mean, moved_fit = simple_rows(molecules(other), split)

    # The prediction of the fit stays exact for the old label; the new one is nearer to the mean.
    assert moved_fit["mu"] - fit["mu"] == pytest.approx(2.0)
    assert labels[:4].mean() > other[5]
    assert moved_mean["mu"] - mean["mu"] == pytest.approx(-2.0)


def test_errors_of_all_targets_are_needed():
    names = {target: f"{target} of it" for target in UNITS}
    row = {f"{target} of it": 1.0 for target in UNITS} | {"gap": 5.0}
    assert errors_of(row, names, Path("run")) == errors(1.0)
    del row["gap of it"]
    with pytest.raises(ValueError, match="run has no error of gap: .*--run-dir"):
        errors_of(row, names, Path("run"))


def test_table_holds_tests_and_validations_apart_and_counts_wins():
    test = {"split": "test", "minutes": 1.0, "steps": 9}
    validation = {"split": "validation", "minutes": 0.5, "steps": 4}
    ours = {"program": "Farfield E2Former"}
    rows = [
        {"program": "mean", "split": "test", **errors(5.0)},
        {"program": "schnetpack painn", **test, **errors(2.0)},
        {**ours, **test, **errors(1.0), "mu": 2.0, "Cv": 3.0},
        {**ours, **validation, **errors(7.0), "homo": 31.26, "mu": 0.0314},
    ]

    # Equal is not better.
    (verdict,) = verdicts(rows)
    assert verdict == "Farfield E2Former better than schnetpack painn on 4 of 6: alpha homo gap U0"
    test, validation = report(rows).split("validation split")
    assert "31.3" in validation and "0.031" in validation and "7.000" in validation
    assert "31.3" not in test and "mean" in test and "4 of 6" in test


def options(folder: Path, **more) -> EasyDict:
    own = {
        "se3_options": None,
        "e2former_options": None,
        "schnetpack_options": None,
        "schnetpack_python": "no-such-python",
    }
    return EasyDict({"data_path": str(folder), "minutes": 2.0, "seed": 3, **own, **more})


def test_options_of_both_backbones_and_of_one_reach_its_command_line(tmp_path):
    chosen = options(tmp_path, e2former_options="--channels 32 --layers 2")
    own = farfield_options("e2former_properties", chosen, ["--lr", "1e-3"])
    assert own[-6:] == ["--lr", "1e-3", "--channels", "32", "--layers", "2"]
    assert {str(tmp_path), "--seed", "3", ",".join(UNITS)} <= set(own)
    other = farfield_options("se3_transformer_properties", chosen, ["--lr", "1e-3"])
    assert other[-2:] == ["--lr", "1e-3"]


def test_a_finished_program_is_read_and_not_run_again(tmp_path):
    curve = [
        {"minutes": 1.5, "step": 30, "errors": errors(4.0)},
        {"minutes": 2.0, "step": 40, "errors": errors(3.0)},
    ]
    result = {"weights": 11, "steps": 40, "minutes": 2.0, "test": errors(3.5), "curve": curve}
    (tmp_path / "painn_2.json").write_text(json.dumps(result))
    test, *validation = run_schnetpack("painn", options(tmp_path), tmp_path, [])
    common = {"program": "schnetpack painn", "weights": 11}
    assert test == {**common, "split": "test", "minutes": 2.0, "steps": 40, **errors(3.5)}
    assert [row["steps"] for row in validation] == [30, 40] and validation[1]["mu"] == 3.0


def test_a_python_that_is_not_there_is_named_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no python no-such-python; .* how to make it"):
        run_schnetpack("painn", options(tmp_path), tmp_path, [])


def test_runs_on_another_split_are_refused_and_other_graphs_are_not(tmp_path):
    folders = {name: tmp_path / name for name in ("data", "bonds", "resplit", "remade")}
    for name, split in zip(
        folders, (split_of(), split_of(), split_of(test=(5,)), split_of("1")), strict=True
    ):
        folders[name].mkdir()
        split.save(folders[name] / "split.npz")
    task = PropertyTask(WeightedLoss("mae", dict.fromkeys(UNITS, 1.0), 1.0), None)
    metrics = {name: 1.0 for name in task.curves}
    results = {
        "parameters": 5,
        "cpu_minutes": 2.0,
        "steps": 8,
        "history": [{"cpu_minutes": 2.0, "step": 8, **metrics}],
    }
    results["test"] = task.table(Evaluation(metrics, {"mean": dict.fromkeys(metrics, 9.0)}))[::-1]
    run = tmp_path / "e2former_properties_2"
    run.mkdir()
    for name in ("bonds", "resplit", "remade"):
        (run / "results.json").write_text(
            json.dumps({**results, "config": {"data": {"data_path": str(folders[name])}}})
        )
        if name == "bonds":
            rows = compare_qm9.PROGRAMS["e2former"](options(folders["data"]), tmp_path, [])
            assert [(row["split"], row["U0"]) for row in rows] == [
                ("test", 1.0),
                ("validation", 1.0),
            ]
        else:
            with pytest.raises(
                ValueError, match=f"learned from .*{name}, whose molecules or split"
            ):
                compare_qm9.PROGRAMS["e2former"](options(folders["data"]), tmp_path, [])


def test_missing_data_and_unknown_programs_are_refused_in_one_line(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="molecules.npz does not exist; .*python -m preprocess.preprocess_qm9",
    ):
        main(["--data-path", str(tmp_path), "--run-dir", str(tmp_path / "runs")])
    folders = ["--data-path", str(tmp_path), "--run-dir", str(tmp_path / "runs")]
    with pytest.raises(ValueError, match="--programs must be one of painn, .* got 'dimenet'"):
        main([*folders, "--programs", "painn,dimenet"])
    assert not (tmp_path / "runs").exists()
