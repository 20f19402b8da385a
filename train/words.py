"""What a run says about itself in words: the line of an epoch, durations, errors with units."""

from __future__ import annotations

import math
from collections.abc import Mapping

from farfield.train.tasks.task import Task

MAX_ERRORS = 4  # in the line of an epoch; the history has all


def epoch_line(
    row: Mapping[str, float], task: Task, seconds_left: float | None, is_best: bool
) -> str:
    """One validation in a line: losses, errors with units, learning rate, times.

    row: of the history. "best" marks the best score so far.
    """
    shown = [f"{name} {with_unit(row[name], name, task)}" for name in task.curves[:MAX_ERRORS]]
    hidden = len(task.curves) - len(shown)
    errors = ", ".join([*shown, f"{hidden} more"] if hidden else shown)
    words = [
        f"epoch {row['epoch']:4d}",
        f"train loss {row.get('train_loss', math.nan):.4g}",
        f"val {errors}, score {row['selection']:.4g}",
        f"lr {row['learning_rate']:.1e}",
        f"cpu {row['cpu_minutes']:.2f} min",
    ]
    if seconds_left is not None:
        words.append(f"left {duration(seconds_left)}")
    if is_best:
        words.append("best")
    return "  ".join(words)


def with_unit(value: float, name: str, task: Task) -> str:
    """An error with its unit, as the log shows it."""
    unit = task.units.get(name)
    return f"{value:.4g} {unit}" if unit else f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time for people: "40 s", "12 min", "3 h 05 min", "2 d 4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
