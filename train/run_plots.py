"""The folder ``plots`` of a run: written while it trains, and again with the test split at its end.

| file | what it shows |
|---|---|
| learning_curve.png | errors of the validation split, training loss, over the epochs |
| predictions.png | predictions over targets |
| errors.png | distribution of the absolute errors |
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from farfield.common import figures
from farfield.train import plots
from farfield.train.tasks.task import Task

SECONDS_BETWEEN = 30.0
MAX_SHARE = 0.01  # of the wall time that plots may take


class RunPlots:
    """Plots of a run, written so that an interrupted run has some.

    Arguments
        folder  where the png files go
        task    gives names and units of errors and quantities
    """

    def __init__(self, folder: Path, task: Task):
        self.folder, self.task = folder, task
        self._pairs: plots.Pairs = {}
        self._due = time.monotonic() + SECONDS_BETWEEN

    def after_validation(
        self, history: Sequence[Mapping], best: Mapping | None, pairs: plots.Pairs
    ) -> None:
        """Remember the predictions of the validation split, and write plots if it is time."""
        self._pairs = pairs
        if time.monotonic() < self._due:
            return
        start = time.monotonic()
        self.write(history, best)
        now = time.monotonic()
        self._due = now + max(SECONDS_BETWEEN, (now - start) / MAX_SHARE)

    def write(self, history: Sequence[Mapping], best: Mapping | None) -> None:
        """Write what is known of the run so far."""
        if history:
            title = f"validation split, epoch {history[-1]['epoch']}"
            self.write_all(history, best, self._pairs, title)

    def write_all(
        self, history: Sequence[Mapping], best: Mapping | None, pairs: plots.Pairs, title: str
    ) -> None:
        """Write all plots; title: which split and weights the predictions belong to."""
        baselines = best["baselines"] if best else {}
        baseline = next(iter(baselines.values()), {})
        curves = plots.draw_curves(history, self.task, baseline)
        figures.save_figure(self.folder / "learning_curve.png", curves)
        if pairs:
            units = self.task.units
            predictions = plots.draw_pairs(pairs, units, title)
            figures.save_figure(self.folder / "predictions.png", predictions)
            errors = plots.draw_errors(pairs, units, title)
            figures.save_figure(self.folder / "errors.png", errors)
