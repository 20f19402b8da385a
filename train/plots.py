"""Pictures of a training: learning curves, predictions against targets, distributions of errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from farfield.common.figures import new_figure

MAX_POINTS = 20_000


def draw_pairs(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]):
    """One panel per quantity: predictions over targets."""
    figure, panels = _panels(len(pairs), (4.2 * len(pairs), 4))
    for panel, (name, (prediction, target)) in zip(panels, pairs.items(), strict=True):
        prediction, target = _thinned(prediction, target)
        low, high = np.percentile(target, [0.1, 99.9]) if target.size else (0.0, 1.0)
        panel.plot(target, prediction, ".", markersize=1.5, alpha=0.3, rasterized=True)
        panel.plot([low, high], [low, high], "k-", linewidth=0.8)
        margin = 0.05 * (high - low) or 1.0
        panel.set(
            title=name,
            xlabel="target",
            ylabel="prediction",
            xlim=(low - margin, high + margin),
            ylim=(low - margin, high + margin),
        )
    return figure


def draw_errors(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]):
    """One panel per quantity: histogram of the absolute error on a log axis, with its median."""
    figure, panels = _panels(len(pairs), (4.2 * len(pairs), 3.4))
    for panel, (name, (prediction, target)) in zip(panels, pairs.items(), strict=True):
        error = np.maximum(np.abs(np.ravel(prediction) - np.ravel(target)), 1e-12)
        panel.hist(np.log10(error), bins=80)
        panel.axvline(np.log10(np.median(error)), color="k", linewidth=0.8)
        panel.set(
            title=f"{name}: median {np.median(error):.3g}",
            xlabel="log10 of the absolute error",
            ylabel="count",
        )
    return figure


def draw_curves(
    history: Sequence[Mapping[str, float]],
    names: Sequence[str],
    references: Mapping[str, float],
    units: Mapping[str, str] | None = None,
):
    """Validation errors ``names`` against epoch and against CPU minutes (log axes); ``references``:
    name -> level of a baseline.
    """
    from matplotlib.ticker import FuncFormatter

    labels = {
        name: f"{name} ({units[name]})" if units and name in units else name for name in names
    }
    figure, panels = _panels(2, (9, 3.8))
    for panel, axis in zip(panels, ("epoch", "cpu_minutes"), strict=True):
        for name in names:
            points = [(row[axis], row[name]) for row in history if row.get(name, 0) > 0]
            line = (
                panel.plot(*zip(*points, strict=True), ".-", linewidth=1, label=labels[name])[0]
                if points
                else None
            )
            if line is not None and references.get(name, 0) > 0:
                panel.axhline(references[name], color=line.get_color(), linestyle=":", linewidth=1)
        panel.set(xlabel=axis.replace("_", " "), yscale="log")
        panel.set_xscale(
            "log" if axis == "cpu_minutes" and any(row[axis] > 0 for row in history) else "linear"
        )
        panel.xaxis.set_minor_formatter(FuncFormatter(_short_ticks))
        panel.grid(True, which="both", linewidth=0.2)
    panels[0].set_ylabel("validation error (dotted: baseline)")
    panels[0].legend()
    return figure


def _short_ticks(value: float, place: int) -> str:
    """Labels of 2, 5, 20, 50, ... between the powers of ten."""
    return f"{value:g}" if f"{value:.0e}"[0] in "25" else ""


def _panels(count: int, size: tuple[float, float]):
    figure = new_figure(size)
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _thinned(prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    prediction, target = np.ravel(prediction), np.ravel(target)
    stride = max(1, math.ceil(target.size / MAX_POINTS))
    return prediction[::stride], target[::stride]
