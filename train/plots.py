"""Pictures of a training: learning curves, predictions against targets, distributions of errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from farfield.common.figures import new_figure
from farfield.train.tasks.task import Task

Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]

MAX_DOTS = 20_000  # of a panel
PANELS_PER_ROW = 3
MAX_ABOVE = 30  # factor between a baseline that is shown and its curve
MIN_LOG_RANGE = 3  # factor between the values of an axis from which on it is a log axis
TINY = 1e-12  # smallest absolute error on a log axis


@dataclass(frozen=True)
class Curve:
    """One curve of the learning curve: a column of the history times a factor."""

    label: str
    column: str
    factor: float = 1.0
    dashed: bool = False
    baseline: float | None = None  # level of a dotted line


def draw_curves(history: Sequence[Mapping[str, float]], task: Task, baseline: Mapping[str, float]):
    """Errors of the validation split over the epochs, one panel a unit, and the training loss.

    A dashed curve is the same quantity on the training split. baseline: error -> its dotted level.
    """
    panels = _curves_by_panel(task, baseline)
    figure, axes = _grid(len(panels), (4.6, 3.6))
    last = history[-1]
    span = f"epoch ({last['epoch']} epochs, {last['cpu_minutes']:.3g} CPU minutes)"

    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        colours: dict[str, str] = {}
        for curve in curves:
            _draw_curve(axis, history, curve, colours)
        axis.set(xlabel=span, ylabel=title)
        axis.xaxis.get_major_locator().set_params(integer=True)
        _choose_scale(axis)
        axis.grid(True, which="both", linewidth=0.2)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="small")
    return figure


def _curves_by_panel(task: Task, baseline: Mapping[str, float]) -> dict[str, list[Curve]]:
    """Label of the vertical axis -> its curves: one panel a unit, then the loss."""
    panels: dict[str, list[Curve]] = {}
    for name in dict.fromkeys([*task.curves, *task.training_curves]):
        if name == "selection":
            continue
        unit = task.units.get(name)
        curves = panels.setdefault(f"error ({unit})" if unit else f"error of {name}", [])
        level = baseline.get(name) if name in task.curves else None
        curves.append(Curve(f"{name}, validation", name, baseline=level))
        if name in task.training_curves:
            part, factor = task.training_curves[name]
            curves.append(Curve(f"{name}, training", f"train_{part}", factor, dashed=True))

    # the score has the unit of the loss where the task selects by the loss
    panels["loss"] = [Curve("loss, training", "train_loss", dashed=True)]
    if "selection" in task.training_curves:
        panels["loss"].insert(0, Curve("loss, validation", "selection"))
    return panels


def _draw_curve(axis, history: Sequence[Mapping[str, float]], curve: Curve, colours: dict) -> None:
    """Draw the positive points of a curve; both curves of one error have one colour."""
    rows = [row for row in history if row.get(curve.column, 0) > 0]
    if not rows:
        return
    epochs = [row["epoch"] for row in rows]
    values = [curve.factor * row[curve.column] for row in rows]
    name = curve.label.split(",")[0]

    (line,) = axis.plot(
        epochs,
        values,
        marker="." if len(rows) < 100 else None,
        linestyle="--" if curve.dashed else "-",
        linewidth=1.2,
        color=colours.get(name),
        label=curve.label,
    )
    colours[name] = line.get_color()

    # a baseline far above would leave no room for the curve
    if curve.baseline is not None and 0 < curve.baseline < MAX_ABOVE * max(values):
        label = f"{name}, baseline"
        axis.axhline(
            curve.baseline, color=line.get_color(), linestyle=":", linewidth=1, label=label
        )


def _choose_scale(axis) -> None:
    """A log axis for values that fall by a factor; a linear one where it would have no ticks."""
    values = np.concatenate([line.get_ydata() for line in axis.get_lines()] or [[1.0]])
    if np.max(values) < MIN_LOG_RANGE * np.min(values):
        return
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(_plain_tick)
    axis.yaxis.set_minor_formatter(_short_tick)


def draw_pairs(pairs: Pairs, units: Mapping[str, str], title: str = ""):
    """One panel a quantity: predictions over targets, with the mean absolute error."""
    figure, axes = _grid(len(pairs), (4.2, 4.1), title)
    for axis, (name, (prediction, target)) in zip(axes, pairs.items(), strict=True):
        unit = _in_brackets(units.get(name))
        error = _mean_absolute_error(prediction, target, units.get(name))
        shown, true = _thinned(prediction, target)

        # dots stay visible whether there are ten or ten thousand
        size = min(6.0, max(2.5, 40 / math.sqrt(max(1, true.size))))
        opacity = min(0.9, max(0.25, 15 / math.sqrt(max(1, true.size))))
        axis.plot(true, shown, "o", markersize=size, alpha=opacity, markeredgewidth=0)

        # the targets set the frame: a wild prediction does not shrink the rest to a dot
        low, high = np.percentile(true, [0.1, 99.9]) if true.size else (0.0, 1.0)
        margin = 0.05 * (high - low) or 1.0
        frame = (low - margin, high + margin)
        axis.plot(frame, frame, "k-", linewidth=0.8)
        axis.text(0.04, 0.95, f"MAE {error}", transform=axis.transAxes, va="top")
        axis.set(
            title=name,
            xlabel=f"target{unit}",
            ylabel=f"prediction{unit}",
            xlim=frame,
            ylim=frame,
        )
        axis.locator_params(nbins=5)
    return figure


def draw_errors(pairs: Pairs, units: Mapping[str, str], title: str = ""):
    """One panel a quantity: histogram of the absolute error on a log axis, with its median."""
    figure, axes = _grid(len(pairs), (4.2, 3.4), title)
    for axis, (name, (prediction, target)) in zip(axes, pairs.items(), strict=True):
        error = np.maximum(np.abs(np.ravel(prediction) - np.ravel(target)), TINY)
        error = error[np.isfinite(error)]
        unit = units.get(name, "")
        if not error.size:
            axis.set(title=f"{name}: no finite error")
            continue
        low, high = np.log10(error.min()), np.log10(error.max())
        median = np.median(error)

        bins = min(60, 5 + int(2 * math.sqrt(error.size)))
        axis.hist(error, bins=np.logspace(low - 0.01, high + 0.01, bins))
        axis.axvline(median, color="k", linewidth=0.8)
        axis.set(
            title=f"{name}: median {median:.3g} {unit}".rstrip(),
            xlabel=f"absolute error{_in_brackets(unit)}",
            ylabel="count",
            xscale="log",
        )
    return figure


def _grid(count: int, size: tuple[float, float], title: str = ""):
    """A figure and ``count`` axes of ``size`` inches, at most three in a row."""
    columns = min(count, PANELS_PER_ROW)
    rows = math.ceil(count / columns)
    figure = new_figure((size[0] * columns, size[1] * rows + (0.3 if title else 0.0)))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.set_axis_off()
    if title:
        figure.suptitle(title)
    return figure, axes[:count]


def _mean_absolute_error(prediction: np.ndarray, target: np.ndarray, unit: str | None) -> str:
    """The error with its unit; vectors and tensors count by their components."""
    error = float(np.abs(np.ravel(prediction) - np.ravel(target)).mean()) if target.size else 0.0
    words = f"{error:.3g} {unit}" if unit else f"{error:.3g}"
    return words if target.ndim == 1 else f"{words}\nper component"


def _in_brackets(unit: str | None) -> str:
    return f" ({unit})" if unit else ""


def _thinned(prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MAX_DOTS pairs, evenly spaced."""
    prediction, target = np.ravel(prediction), np.ravel(target)
    stride = max(1, math.ceil(target.size / MAX_DOTS))
    return prediction[::stride], target[::stride]


def _plain_tick(value: float, place: int) -> str:
    """Labels of powers of ten: 0.01, 10, 1000."""
    return f"{value:g}"


def _short_tick(value: float, place: int) -> str:
    """Labels of 2, 5, 20, 50, ... between the powers of ten."""
    return f"{value:g}" if f"{value:.0e}"[0] in "25" else ""
