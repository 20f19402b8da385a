"""Laws of the budget: progress, time left, what ends a run; and how the log says it."""

import math
from types import SimpleNamespace

import pytest

from farfield.train.budget import Budget
from farfield.train.words import duration, epoch_line
from tests.support.toy_training import ToyTask


@pytest.fixture
def clock(monkeypatch):
    """Seconds of the wall clock and of the CPU clock, moved by hand."""
    now = SimpleNamespace(wall=100.0, cpu=7.0)
    monkeypatch.setattr("farfield.train.budget.time.monotonic", lambda: now.wall)
    monkeypatch.setattr("farfield.train.budget.cpu_seconds", lambda: now.cpu)
    return now


def budget_of(**options):
    plan = {"epochs": 10, "max_cpu_minutes": None, "max_minutes": None, "patience": None}
    return Budget(SimpleNamespace(**(plan | options)), batches=4)


def test_the_largest_fraction_counts(clock):
    budget = budget_of(max_cpu_minutes=1.0, max_minutes=2.0)
    budget.position.epoch, budget.position.batch = 2, 2
    assert budget.progress() == 0.25
    clock.cpu += 30
    assert budget.progress() == 0.5
    clock.wall += 90
    assert budget.progress() == 0.75
    clock.cpu += 30
    assert budget.progress() == 1.0 and budget.ended_by(0) == "budget"


def test_time_left_is_the_pace_of_the_session(clock):
    budget = budget_of()
    budget.position.epoch = 4  # of a session before
    budget.start_session()
    assert budget.seconds_left() is None, "nothing is known before something is done"
    clock.wall += 60
    budget.position.epoch = 6
    assert budget.seconds_left() == pytest.approx(120), "two epochs a minute, four are left"


def test_a_budget_of_minutes_has_a_time_left(clock):
    budget = budget_of(epochs=10**6, max_minutes=10.0)
    clock.wall += 60
    assert budget.seconds_left() == pytest.approx(540)


def test_patience_ends_a_run(clock):
    budget = budget_of(patience=3)
    assert budget.ended_by(2) is None and budget.ended_by(3) == "patience"


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5340, "89 min"), (5400, "1 h 30 min")]
    + [(170_000, "47 h 13 min"), (200_000, "2 d 7 h")],
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


def test_the_line_of_an_epoch_has_units_rate_and_time_left():
    task = ToyTask()
    task.units = {"error": "eV"}
    row = {"epoch": 3, "train_loss": 0.5, "error": 0.25, "selection": 0.25}
    row |= {"learning_rate": 1e-3, "cpu_minutes": 1.5}
    assert epoch_line(row, task, 100.0, is_best=True) == (
        "epoch    3  train loss 0.5  val error 0.25 eV, score 0.25  lr 1.0e-03  cpu 1.50 min  "
        "left 2 min  best"
    )
    del row["train_loss"]  # the budget was over before the first step of the epoch
    line = epoch_line(row, task, None, is_best=False)
    assert f"train loss {math.nan:.4g}" in line and "left" not in line and "best" not in line
