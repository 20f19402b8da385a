"""What a run shows while it trains and leaves behind: log, tensorboard, progress bar, plots,
``results.json``.

Everything here only reads the training; nothing here can change its numbers. Matplotlib and
tensorboard are imported where they are used, so that ``--help`` does not wait for them.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from farfield.dataloader.storage import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS = 20_000


class RunLog:
    """Lines for the reader: on the terminal (above the progress bar) and, if ``path`` is given,
    appended to a file.
    """

    def __init__(self, path=None):
        self.path = path

    def __call__(self, text: str):
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(text + "\n")
        try:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:  # who read along has gone (| head); the run goes on
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives


class Monitor:
    """Progress bar and tensorboard of one run.

    Arguments
        folder    run folder; tensorboard files go to ``folder/tensorboard``
        total     planned optimiser steps, None if a time budget ends the run
        step      steps already done (tensorboard rows beyond it, left by a killed run, are dropped)
        progress  show the bar
    """

    def __init__(self, folder: Path, total: int | None, step: int, progress: bool):
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(folder / "tensorboard", purge_step=step)
        self.bar = progress_bar(total, initial=step, unit="step", disable=not progress)

    def step(self, loss: float, epoch: int, progress: float):
        """Advance the bar; ``progress`` is the fraction of the run that is done."""
        self.bar.update(1)
        self.bar.set_postfix(
            {"epoch": epoch, "loss": f"{loss:.4g}", "done": f"{min(1.0, progress):.1%}"},
            refresh=False,
        )

    def scalars(self, values: Mapping[str, float], step: int):
        """Rows of tensorboard."""
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def picture(self, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], step: int):
        """Predictions against targets, into tensorboard."""
        self.board.add_figure("predictions vs targets", draw_pairs(pairs), step)

    def close(self):
        """Flush and let go of the files."""
        self.bar.close()
        self.board.close()


def progress_bar(total: int | None, **more) -> tqdm:
    """A bar on stderr; where that is a file, a line every 20 seconds."""
    return tqdm(
        total=total, mininterval=0.2 if sys.stderr.isatty() else 20.0, dynamic_ncols=True, **more
    )


def write_json(path, content):
    """Write ``content`` atomically; numbers that json does not know (nan, inf) become null."""
    files.write_json(path, _finite(content))


def _finite(value):
    if isinstance(value, Mapping):
        return {str(key): _finite(content) for key, content in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(content) for content in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def format_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of a table as aligned text; columns in the order of the first row."""
    columns = list(rows[0])
    cells = [columns] + [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = []
    for line in cells:
        padded = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        lines.append("  ".join([line[0].ljust(widths[0]), *padded[1:]]).rstrip())
    return "\n".join(lines)


def _cell(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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


def save_figure(path: Path, figure: Figure):
    """Write a png atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure of this size in inches."""
    # without pyplot: a notebook that imports this keeps its own backend
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _panels(count: int, size: tuple[float, float]):
    figure = new_figure(size)
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _thinned(prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    prediction, target = np.ravel(prediction), np.ravel(target)
    stride = max(1, math.ceil(target.size / MAX_POINTS))
    return prediction[::stride], target[::stride]
