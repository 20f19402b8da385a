"""Laws of an interrupted training: after pauses, signals and kills a resumed run is the
uninterrupted one; what cannot be resumed is refused.
"""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from farfield.common import checkpoint
from farfield.common.session import Interrupted
from tests.support.processes import Script
from tests.support.toy_training import (
    ToyTask,
    assert_same_training,
    toy_trainer,
)

TOY = "tests.support.toy_training"
WAYS = [
    (),
    ("--ema-decay", "0.99", "--lr-schedule", "plateau"),
    ("--accumulate", "2", "--optimizer", "adamw"),
]


@pytest.mark.parametrize("options", WAYS)
def test_two_epochs_and_two_more_are_four(tmp_path, options):
    whole = toy_trainer(tmp_path / "whole", *options)
    assert whole.fit()
    assert not toy_trainer(tmp_path / "parts", *options, "--pause-after", "2").fit()
    torch.rand(7)  # the state of the generators outside may not matter
    rest = toy_trainer(tmp_path / "parts", "--resume")
    assert rest.position.epoch == 2 and rest.options.epochs == 4
    assert rest.fit()
    assert_same_training(whole, rest)
    if whole.averaged is not None:
        pairs = zip(
            whole.averaged.state_dict().values(), rest.averaged.state_dict().values(), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("step, place", [(8, (1, 3)), (10, (1, 5)), (20, (3, 5))])
def test_a_signal_in_any_step_loses_nothing(tmp_path, step, place):
    """Also in the last step of an epoch, whose validation is still to come, and in the last one of
    the run.
    """

    class Stops(ToyTask):
        def loss(self, model, batch):
            value = super().loss(model, batch)
            if self.calls == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return value

    whole = toy_trainer(tmp_path / "whole")
    whole.fit()
    with pytest.raises(Interrupted, match="SIGTERM"):
        toy_trainer(tmp_path / "parts", task=Stops()).fit()
    rest = toy_trainer(tmp_path / "parts", "--resume")
    assert (rest.position.epoch, rest.position.batch, rest.position.step) == (*place, step)
    rest.fit()
    assert_same_training(whole, rest)
    assert rest.ended_by() == "epochs"


def test_a_signal_when_the_budget_is_spent_leaves_the_validation_to_the_resumed_run(tmp_path):
    class Slow(ToyTask):
        def loss(self, model, batch):
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGTERM)
            return super().loss(model, batch)

    with pytest.raises(Interrupted):
        toy_trainer(tmp_path, "--max-minutes", "0.004", task=Slow()).fit()
    rest = toy_trainer(tmp_path, "--resume")
    rest.fit()
    assert rest.position.step == 1 and len(rest.history) == 1 and rest.ended_by() == "budget"


def test_a_finished_run_is_resumed_without_a_trace(tmp_path):
    toy_trainer(tmp_path, "--epochs", "1").fit()
    before = (
        sorted(path.name for path in (tmp_path / "tensorboard").iterdir()),
        (tmp_path / checkpoint.LAST).read_bytes(),
    )
    assert toy_trainer(tmp_path, "--resume", "--epochs", "1").fit()
    assert (
        sorted(path.name for path in (tmp_path / "tensorboard").iterdir()),
        (tmp_path / checkpoint.LAST).read_bytes(),
    ) == before


@pytest.mark.parametrize(
    "change", [("--epochs", "5"), ("--max-cpu-minutes", "9"), ("--max-minutes", "9")]
)
def test_a_run_resumed_with_another_length_says_so(tmp_path, capsys, change):
    assert not toy_trainer(tmp_path, "--pause-after", "1").fit()
    toy_trainer(tmp_path, "--resume")
    assert "changed since the run began" not in capsys.readouterr().out
    toy_trainer(tmp_path, "--resume", *change)
    name = change[0].removeprefix("--").replace("-", "_")
    shown = capsys.readouterr().out
    assert f"note: changed since the run began: {name} (" in shown
    assert "now); it does not continue bit-identically" in shown


@pytest.mark.parametrize("text", ["", "3", "lr: 1"])
def test_a_damaged_configuration_is_not_resumed(tmp_path, text):
    toy_trainer(tmp_path, "--epochs", "1").fit()
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="config.yaml"):
        toy_trainer(tmp_path, "--resume")


def test_another_configuration_is_not_resumed(tmp_path):
    toy_trainer(tmp_path, "--epochs", "1").fit()
    with pytest.raises(ValueError, match=r"model.width is 8 there and 16 here"):
        toy_trainer(tmp_path, "--resume", "--width", "16")
    assert toy_trainer(tmp_path, "--resume", "--epochs", "1").position.epoch == 1, (
        "the refused attempt left the run as it was"
    )


def wait_for(file: Path):
    """Return when the file is there."""
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_killed_run_leaves_a_good_checkpoint_and_goes_on_identically(tmp_path):
    options = ("--checkpoint-every", "1", "--epochs", "30")
    script = Script("-m", TOY, str(tmp_path / "killed"), *options)
    wait_for(tmp_path / "killed" / checkpoint.LAST)
    time.sleep(0.05)
    script.send_signal(signal.SIGKILL)
    assert script.wait().returncode == -signal.SIGKILL
    rest = toy_trainer(
        tmp_path / "killed", "--resume", "--epochs", "30", "--checkpoint-every", "1000"
    )
    assert 0 < rest.position.step < 150, "the kill came too late to test anything"
    rest.fit()
    whole = toy_trainer(tmp_path / "whole", "--epochs", "30")
    whole.fit()
    assert_same_training(whole, rest)


def test_an_interrupted_script_says_how_to_go_on_and_exits_130(tmp_path):
    options = ("--epochs", "100000", "--validate-every", "100")
    script = Script("-m", TOY, str(tmp_path), *options)
    wait_for(tmp_path / checkpoint.LAST)
    script.send_signal(signal.SIGINT)
    done = script.wait()
    assert done.returncode == 130
    assert done.stderr.startswith("SIGINT: saved") and "Traceback" not in done.stderr


def test_a_kill_between_the_two_checkpoints_loses_no_best(tmp_path):
    trainer = toy_trainer(tmp_path / "run")
    save = trainer.save

    def killed(name):
        if name == checkpoint.LAST and trainer.position.epoch == 3:
            raise MemoryError("killed")
        save(name)

    trainer.save = killed
    with pytest.raises(MemoryError):
        trainer.fit()
    again = toy_trainer(tmp_path / "run", "--resume")
    written = checkpoint.read_run(tmp_path / "run" / checkpoint.BEST)["best"]
    assert again.position.epoch == 2 and again.best["epoch"] == written["epoch"] == 3
    again.fit()
    whole = toy_trainer(tmp_path / "whole")
    whole.fit()
    assert {**again.best, "validation": 0} == {**whole.best, "validation": 0}


def test_other_data_are_not_resumed(tmp_path):
    toy_trainer(tmp_path / "run", "--pause-after", "1").fit()
    with pytest.raises(
        ValueError, match="other structures or labels than these; give the data it began with"
    ):
        toy_trainer(tmp_path / "run", "--resume", size=41)


def test_a_run_of_one_seed_is_not_continued_as_several(tmp_path):
    toy_trainer(tmp_path / "run")
    with pytest.raises(ValueError, match="it was started with --seeds 1, not 2; leave --seeds out"):
        toy_trainer(tmp_path / "run", "--resume", "--seeds", "2")
