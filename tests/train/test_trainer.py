"""Laws of the training loop: accumulation = large batch, skipped steps, budgets, the best
checkpoint, the run folder.
"""

import json
import os
import signal
import time
from time import process_time

import pytest
import torch

from farfield.common import checkpoint
from farfield.common.session import Interrupted
from farfield.train.data_order import EpochLoader
from farfield.train.results import finish_run
from tests.support.processes import ROOT, run_script
from tests.support.toy_training import (
    ToyData,
    ToySampler,
    ToyTask,
    assert_same_training,
    toy_trainer,
)


def test_same_seed_same_numbers_and_other_seed_others(tmp_path):
    one, two, other = (
        toy_trainer(tmp_path / name, "--seed", seed)
        for name, seed in (("a", "3"), ("b", "3"), ("c", "4"))
    )
    for trainer, seed in ((one, 3), (two, 3), (other, 4)):
        torch.manual_seed(seed)
        trainer.fit()
    assert_same_training(one, two)
    assert one.history[-1]["train_loss"] != other.history[-1]["train_loss"]


def test_accumulated_batches_are_one_large_batch(tmp_path):
    """Also where the last batch is smaller: 20 samples are 8 + 8 + 4."""
    plain = dict(dropout=0.0, size=20)
    large = toy_trainer(tmp_path / "large", "--batch-size", "20", "--epochs", "1", **plain)
    small = toy_trainer(
        tmp_path / "small", "--batch-size", "8", "--accumulate", "3", "--epochs", "1", **plain
    )
    large.fit(), small.fit()
    assert small.position.step == large.position.step == 1
    for a, b in zip(large.model.parameters(), small.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_non_finite_step_changes_nothing_and_is_counted(tmp_path, capsys):
    task = ToyTask()
    task.poison = frozenset({1})
    trainer = toy_trainer(tmp_path, "--epochs", "1", "--batch-size", "40", task=task)
    before = [weight.clone() for weight in trainer.model.parameters()]
    trainer.fit()
    assert trainer.position.skipped == 1 and trainer.position.step == 1
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    finish_run(trainer, trainer.val_loader)
    assert (
        "note: 1 of 1 steps had a non-finite loss or gradient and changed no weight"
        in capsys.readouterr().out
    )


def test_a_non_finite_gradient_changes_nothing(tmp_path):
    class Steep(ToyTask):
        def loss(self, model, batch):
            value, parts = super().loss(model, batch)
            return value.detach() + (
                model(batch.x).sum() * 0
            ).sqrt(), parts  # finite value, infinite slope

    trainer = toy_trainer(tmp_path, "--epochs", "1", "--batch-size", "40", task=Steep())
    before = [weight.clone() for weight in trainer.model.parameters()]
    trainer.fit()
    assert trainer.position.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_many_bad_steps_end_the_run_with_one_line(tmp_path):
    task = ToyTask()
    task.poison = frozenset(range(3, 100))
    with pytest.raises(
        ValueError, match="4 steps in a row.*--max-bad-steps 4.*--resume --lr 0.0033"
    ):
        toy_trainer(tmp_path, "--max-bad-steps", "4", task=task).fit()


def test_cpu_budget_ends_the_run_and_the_cosine(tmp_path):
    trainer = toy_trainer(
        tmp_path,
        "--epochs",
        "100000",
        "--max-cpu-minutes",
        "0.004",
        "--min-lr",
        "1e-4",
        "--validate-every",
        "50",
    )
    trainer.fit()
    assert trainer.ended_by() == "budget"
    assert 0.24 / 60 <= trainer.position.cpu_seconds / 60 < 0.04
    assert (
        1e-4 <= trainer.optimizer.param_groups[0]["lr"] < 0.1 * trainer.options.lr
    )  # one step is up to a tenth of this budget


def test_a_budget_that_ends_after_an_epoch_is_followed_by_a_validation(tmp_path):
    trainer = toy_trainer(
        tmp_path, "--epochs", "1000", "--max-minutes", "0.02", "--validate-every", "1000"
    )
    save = trainer.save

    def slow(name):
        save(name)
        time.sleep(1.3)  # the whole budget

    trainer.save = slow
    trainer.fit()
    assert (
        trainer.position.epoch == 1
        and trainer.best["epoch"] == 1
        and trainer.history[-1]["epoch"] == 1
    )


def test_patience_stops_and_stays_stopped(tmp_path):
    class Worse(ToyTask):
        validations = 0

        def selection(self, evaluation):
            self.validations += 1
            return float(self.validations)

    trainer = toy_trainer(tmp_path, "--epochs", "50", "--patience", "3", task=Worse())
    trainer.fit()
    assert (
        trainer.ended_by() == "patience"
        and trainer.position.epoch == 4
        and trainer.best["epoch"] == 1
    )
    again = toy_trainer(tmp_path, "--resume")
    again.fit()
    assert again.position.epoch == 4


def test_the_best_checkpoint_is_the_best_validation_and_gives_its_error_again(tmp_path, plots):
    trainer = toy_trainer(tmp_path, "--epochs", "6", "--ema-decay", "0.9")
    trainer.fit()
    results = finish_run(trainer, trainer.val_loader)
    assert trainer.best["selection"] == min(row["selection"] for row in trainer.history)
    assert results["test"][0]["error"] == trainer.best["selection"]
    assert json.loads((tmp_path / "results.json").read_text())["history"][0]["epoch"] == 1
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "learning_curve.png",
        "predictions.png",
        "errors.png",
    }
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_signal_while_results_are_written_waits_for_them(tmp_path, plots):
    class Stops(ToyTask):
        def table(self, evaluation):
            os.kill(os.getpid(), signal.SIGINT)
            return super().table(evaluation)

    trainer = toy_trainer(tmp_path, "--epochs", "1", task=Stops())
    trainer.fit()
    with pytest.raises(Interrupted, match=r"SIGINT: .*results.json is written"):
        finish_run(trainer, trainer.val_loader)
    assert (tmp_path / "results.json").exists() and (tmp_path / "plots" / "errors.png").exists()


def test_evaluation_uses_the_averaged_weights(tmp_path):
    trainer = toy_trainer(tmp_path, "--epochs", "1", "--ema-decay", "0.9")
    trainer.fit()
    weights = checkpoint.evaluation_weights(checkpoint.read_checkpoint(tmp_path / checkpoint.BEST))
    averaged = trainer.averaged.module.state_dict()
    assert all(torch.equal(weights[key], averaged[key]) for key in averaged)
    assert any(
        not torch.equal(weights[key], value) for key, value in trainer.model.state_dict().items()
    )


def test_a_used_run_folder_is_refused_unless_asked(tmp_path):
    toy_trainer(tmp_path, "--epochs", "1").fit()
    with pytest.raises(ValueError, match="already holds a run.*--resume.*--overwrite"):
        toy_trainer(tmp_path)
    assert not toy_trainer(tmp_path, "--overwrite").history
    assert not (tmp_path / checkpoint.LAST).exists()


def test_a_run_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError,
        match=r"run folder .*/file/run cannot be written \(Not a directory\); give another "
        r"--run-dir",
    ):
        toy_trainer(tmp_path / "file" / "run")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(
        ValueError,
        match=r"run folder .*/run cannot be written \(Permission denied\); give another --run-dir",
    ):
        toy_trainer(tmp_path / "run")


def test_double_precision_is_that_of_the_weights(tmp_path):
    trainer = toy_trainer(tmp_path / "double", "--precision", "float64", "--epochs", "1")
    trainer.fit()
    assert next(trainer.model.parameters()).dtype == torch.float64


def test_the_data_order_is_a_function_of_seed_epoch_and_place():
    state = torch.get_rng_state()
    here, there, rest = (
        [batch.x for batch in EpochLoader(ToyData(), ToySampler(40, 8, 5), workers).epoch(2, first)]
        for workers, first in ((0, 0), (1, 0), (0, 3))
    )
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert len(rest) == 2 and torch.equal(rest[0], here[3])
    assert torch.equal(torch.get_rng_state(), state)


def test_epochs_of_changing_length_are_all_done(tmp_path):
    """The number of batches may depend on the epoch (limits of atoms or edges); the planned epochs
    are done all the same.
    """
    trainer = toy_trainer(tmp_path / "run", "--epochs", "5")
    sampler = trainer.train_loader.sampler
    sampler.set_epoch = lambda epoch: sampler.__dict__.update(
        epoch=epoch, batch_size=3 if epoch else 20
    )
    assert trainer.fit() and trainer.ended_by() == "epochs" and trainer.position.epoch == 5
    assert trainer.history[-1]["progress"] == 1.0 and trainer.history[-1]["learning_rate"] < 1e-4


def test_the_test_split_is_not_on_the_clock(tmp_path):
    class Slow(ToyTask):
        def table(self, evaluation):
            while process_time() < self.until:
                pass
            return super().table(evaluation)

    trainer = toy_trainer(
        tmp_path / "run", "--max-cpu-minutes", "0.002", "--epochs", "100000", task=Slow()
    )
    trainer.fit()
    trainer.task.until = process_time() + 0.5
    results = finish_run(trainer, trainer.val_loader)
    assert results["ended_by"] == "budget" and 60 * results["cpu_minutes"] < 0.5


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path):
    script = f"""
import os, sys
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
sys.path.append({str(ROOT)!r})
from tests.support.toy_training import toy_trainer
toy_trainer("run").fit()
open("done", "w").close()
"""
    assert run_script("-c", script, folder=tmp_path).returncode == 0
    assert (tmp_path / "done").exists() and "epoch    4" in (
        tmp_path / "run" / "log.txt"
    ).read_text()


def full_disk(*arguments):
    raise OSError(28, "No space left on device")


def test_plots_that_cannot_be_drawn_hide_no_other_end(tmp_path, monkeypatch, capsys):
    """A pause stays a pause, and the error that ended a run is the error that is shown."""
    paused = toy_trainer(tmp_path / "paused", "--epochs", "2", "--pause-after", "1")
    monkeypatch.setattr(paused.plots, "write", full_disk)
    assert not paused.fit()
    assert "note: plots or tensorboard could not be written: [Errno 28]" in capsys.readouterr().out

    task = ToyTask()
    task.poison = frozenset(range(40))
    diverged = toy_trainer(tmp_path / "diverged", "--max-bad-steps", "1", task=task)
    monkeypatch.setattr(diverged.plots, "write", full_disk)
    with pytest.raises(ValueError, match="training diverged"):
        diverged.fit()
