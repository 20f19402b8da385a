"""What a run shows while it trains: progress bar and tensorboard.

Everything here only reads the training; nothing here can change its numbers. Tensorboard is
imported when a training begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from farfield.common.log import progress_bar
from farfield.train import plots


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
        self.board.add_figure("predictions vs targets", plots.draw_pairs(pairs), step)

    def close(self):
        """Flush and let go of the files."""
        self.bar.close()
        self.board.close()
