"""What a run shows while it trains: progress bar and tensorboard.

Everything here only reads the training; nothing here can change its results. Tensorboard is
imported when a training begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from farfield.common.log import progress_bar
from farfield.train import plots
from farfield.train.step import StepResult

# percent done, bar, time used, time left; both times are of this session
BAR = "{percentage:5.1f}%|{bar:30}| {elapsed}, left {remaining}{postfix}"


class Unheard:
    """In place of log, bar, tensorboard and plots on all ranks but the first: calls do nothing."""

    def __call__(self, *arguments):
        """Nothing."""

    def __getattr__(self, name: str):
        return self


class Monitor:
    """Progress bar and tensorboard of one run.

    The bar shows the fraction of the plan that is done, so that the time left is known whether
    epochs or minutes end the run.

    Arguments
        folder    run folder; tensorboard files go to ``folder/tensorboard``
        step      steps already done (tensorboard rows beyond it, left by a killed run, are dropped)
        progress  show the bar
    """

    def __init__(self, folder: Path, step: int, progress: bool):
        from torch.utils.tensorboard import SummaryWriter

        # rows from this step on are dropped; that of the last step belongs to what is continued
        self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)
        self.bar = None
        self._show = progress

    def step(self, loss: float, epoch: int, progress: float):
        """Advance the bar.

        epoch: number of finished epochs. progress: fraction of the run that is done.
        """
        progress = min(1.0, progress)
        if self.bar is None:  # a resumed run begins in the middle
            self.bar = progress_bar(1.0, initial=progress, bar_format=BAR, disable=not self._show)
        self.bar.set_postfix_str(f"epoch {epoch + 1}, loss {loss:.4g}", refresh=False)
        self.bar.update(progress - self.bar.n)

    def training_row(self, result: StepResult, seconds: float, step: int):
        """Means, rate and gradient of a step, into tensorboard."""
        for name, value in result.scalars.items():
            self.board.add_scalar(f"train/{name}", value, step)
        self.board.add_scalar("train/learning_rate", result.rate, step)
        self.board.add_scalar("train/gradient_norm", float(result.gradient_norm), step)
        self.board.add_scalar("train/seconds_per_step", seconds, step)

    def validation_row(self, values: Mapping[str, float], step: int):
        """Errors of the validation split, into tensorboard."""
        for name, value in values.items():
            self.board.add_scalar(f"validation/{name}", value, step)

    def picture(self, pairs: plots.Pairs, units: Mapping[str, str], step: int):
        """Predictions against targets, into tensorboard."""
        self.board.add_figure("predictions vs targets", plots.draw_pairs(pairs, units), step)

    def figures(self, figures: Mapping[str, object], step: int):
        """Figures of the task by name, into tensorboard."""
        for name, figure in figures.items():
            self.board.add_figure(name, figure, step)

    def close(self):
        """Flush and let go of the files."""
        if self.bar is not None:
            self.bar.close()
        self.board.close()
