"""What a run tells tensorboard and its progress bar."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from farfield.train.monitor import Monitor
from farfield.train.step import StepResult


def rows_of(folder) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(row.step, row.value) for row in events.Scalars(tag)] for tag in tags}


def test_rows_of_tensorboard_have_names_values_and_steps(tmp_path):
    result = StepResult({"loss": 0.5, "forces": 0.25}, torch.tensor(2.0), 1e-3, 4, True)
    monitor = Monitor(tmp_path, 0, progress=False)
    monitor.training_row(result, seconds=3.0, step=7)
    monitor.validation_row({"energy": 0.75}, step=9)
    monitor.close()

    expected = {
        "train/loss": [(7, 0.5)],
        "train/forces": [(7, 0.25)],
        "train/learning_rate": [(7, pytest.approx(1e-3))],
        "train/gradient_norm": [(7, 2.0)],
        "train/seconds_per_step": [(7, 3.0)],
        "validation/energy": [(9, 0.75)],
    }
    assert rows_of(tmp_path) == expected

    # a run that was killed after step 9 and goes on from step 8: rows beyond it are dropped
    again = Monitor(tmp_path, 8, progress=False)
    again.validation_row({"energy": 0.5}, step=10)
    again.close()
    assert rows_of(tmp_path) == {**expected, "validation/energy": [(10, 0.5)]}


def test_the_bar_shows_the_part_that_is_done(tmp_path):
    monitor = Monitor(tmp_path, 0, progress=True)
    shown = []
    for progress in (0.25, 0.5, 1.5):
        monitor.step(0.1234567, 2, progress)
        shown.append((monitor.bar.n, monitor.bar.total, monitor.bar.postfix))
    words = "epoch 3, loss 0.1235"
    assert shown == [(0.25, 1.0, words), (0.5, 1.0, words), (1.0, 1.0, words)]
    monitor.close()
    assert monitor.bar.disable  # it is closed
