"""A step that is not finite names its structures and can be repeated; a run goes on with another
learning rate; a run that learned nothing says so.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from farfield.train import launch
from farfield.train.bad_steps import BAD_STEP, BadStep, batches_again, lines_about
from farfield.train.results import finish_run
from farfield.train.tasks.task import Evaluation
from tests.support.md_data import config_for, make_data
from tests.support.toy_training import ToyTask, toy_trainer


def test_a_bad_step_names_its_structures_and_keeps_the_weights(tmp_path, capsys):
    task = ToyTask()
    task.poison = frozenset([3])
    trainer = toy_trainer(tmp_path, "--epochs", "1", "--accumulate", "1", task=task)
    trainer.train_loader.sampler.set_epoch(0)
    third = list(trainer.train_loader.sampler)[2]
    trainer.fit()

    bad = BadStep.load(tmp_path)
    assert (bad.step, bad.epoch, bad.first, bad.batches) == (3, 0, 2, 1)
    np.testing.assert_array_equal(bad.rows, third)
    assert math.isnan(bad.loss)
    assert set(bad.weights) == set(trainer.model.state_dict())
    first = f"training structures {third[0]}, {third[1]}"
    assert first in bad.words
    assert first in capsys.readouterr().out


def test_a_damaged_file_of_a_bad_step_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="bad_step.npz does not exist; train until"):
        lines_about(tmp_path)
    (tmp_path / BAD_STEP).write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="bad_step.npz is damaged"):
        lines_about(tmp_path)


def test_the_step_is_repeated_from_the_folder_alone(tmp_path, monkeypatch):
    data = make_data(tmp_path / "data")
    run = tmp_path / "run"
    config = config_for(data, "--run-dir", str(run), "--epochs", "2", "--max-bad-steps", "1")
    build = launch.build_trainer

    def poisoned(config):
        """One weight that makes every prediction infinite."""
        trainer, parts = build(config)
        with torch.no_grad():
            next(trainer.model.parameters()).fill_(1e38)
        return trainer, parts

    monkeypatch.setattr(launch, "build_trainer", poisoned)
    with pytest.raises(ValueError, match=r"training structures \d.*--resume --lr .*bad[-_]step"):
        launch.train_one(config)
    monkeypatch.setattr(launch, "build_trainer", build)

    trainer, batches = batches_again(run)
    losses = [trainer.task.loss(trainer.model, batch)[0] for batch in batches]
    bad = BadStep.load(run)
    assert sum(batch.num_graphs for batch in batches) == len(bad.rows)
    assert not all(torch.isfinite(loss) for loss in losses)
    told = [line for line in lines_about(run) if line.startswith("batch ")]
    assert len(told) == len(losses)
    assert any("loss nan" in line or "loss inf" in line for line in told)


@pytest.mark.parametrize("schedule", ["cosine", "constant", "plateau"])
def test_a_run_goes_on_with_another_learning_rate(tmp_path, schedule, capsys):
    options = ["--lr-schedule", schedule, "--min-lr", "1e-4"]
    toy_trainer(tmp_path / "old", *options, "--pause-after", "2").fit()
    resumed = toy_trainer(tmp_path / "old", "--resume", "--lr", "0.002", "--clip-norm", "0.5")
    assert "lr (0.01 before, 0.002 now), clip_norm (1.0 before, 0.5 now)" in capsys.readouterr().out

    new = [*options, "--lr", "0.002"]
    whole = toy_trainer(tmp_path / "new", *new)
    resumed.fit()
    whole.fit()
    before, after = resumed.history[:2], resumed.history[2:]
    rates = [row["learning_rate"] for row in whole.history]
    assert [row["learning_rate"] for row in after] == pytest.approx(rates[2:], rel=1e-6)
    assert all(row["learning_rate"] > 2 * rates[0] for row in before)

    # from here on the new rate is the rate of the run
    again = toy_trainer(tmp_path / "old", "--resume", "--lr", "0.002", "--clip-norm", "0.5")
    assert again.optimizer.param_groups[0]["lr"] == resumed.optimizer.param_groups[0]["lr"]
    assert "changed since" not in capsys.readouterr().out


def test_results_of_a_shorter_run_are_removed_when_it_goes_on(tmp_path):
    data = make_data(tmp_path / "data")
    run = tmp_path / "run"
    options = ["--run-dir", str(run), "--epochs", "1"]
    launch.train_one(config_for(data, *options))
    before = (run / "results.json").read_bytes()

    # a finished run keeps its results, one that goes on does not
    launch.train_one(config_for(data, *options, "--resume"))
    assert (run / "results.json").exists()
    longer = [*options[:2], "--epochs", "3", "--pause-after", "1", "--resume"]
    assert launch.train_one(config_for(data, *longer)) is None
    assert not (run / "results.json").exists()
    launch.train_one(config_for(data, *options[:2], "--epochs", "3", "--resume"))
    assert (run / "results.json").read_bytes() != before


def test_what_is_no_better_than_a_baseline_is_said(tmp_path, capsys):
    class Poor(ToyTask):
        def evaluate(self, model, batches):
            found = super().evaluate(model, batches)
            return Evaluation(found.metrics, {"zero": dict(found.metrics)}, found.pairs)

    trainer = toy_trainer(tmp_path, "--epochs", "1", task=Poor())
    trainer.fit()
    finish_run(trainer, trainer.val_loader)
    assert "note: no better than the baseline 'zero'" in capsys.readouterr().out

    good = Evaluation({"error": 0.5}, {"zero": {"error": 1.0}})
    assert not trainer.task.remarks_on(good)
