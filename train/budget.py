"""Where a run stands and when it ends: epochs, CPU minutes, wall minutes, patience.

    progress p = max(epochs done / epochs planned, CPU minutes / allowed, wall minutes / allowed)

The run is over when p = 1, or after ``patience`` validations without a better one. Several ranks
have one clock: the wall time of the first and the CPU time of all, read together once a step.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from farfield.common import ranks
from farfield.common.session import WATCHED, cpu_seconds


@dataclass
class Position:
    """Where a run stands; all of it is in a checkpoint.

    Arguments
        epoch           finished epochs
        batch           batches done in the next epoch
        step            optimiser steps, skipped ones included
        skipped         steps with a non-finite loss or gradient
        skipped_in_row  how many of these came last
        seconds         wall time over all sessions
        cpu_seconds     CPU time over all sessions
        waiting         seconds in which training waited for its next batch
        sums            of this epoch: name -> sum over samples; "samples" -> their number
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    waiting: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)

    def add_samples(self, scalars: dict[str, float], samples: int) -> None:
        """Add the means of a step over its samples to the sums of the epoch."""
        for name, value in {**scalars, "samples": 1.0}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * samples

    def means(self) -> dict[str, float]:
        """Means over the samples of this epoch so far."""
        return {
            name: total / self.sums["samples"]
            for name, total in self.sums.items()
            if name != "samples"
        }

    def end_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, {}


class Budget:
    """The plan of a run and how much of it is done.

    Arguments
        options  ``config.training``
        batches  number of batches of an epoch, as far as it is known before
    """

    def __init__(self, options, batches: int):
        self.options, self.batches = options, batches
        self.position = Position()
        self.start_session()

    def start_session(self) -> None:
        """From now on the clocks of this session run."""
        self._clock = (time.monotonic(), cpu_seconds())
        self._session_start = time.monotonic()
        self._session_progress = self.progress()

    def read_clocks(self) -> None:
        """Add the time since the last reading to the position; with several ranks only
        :meth:`agree` does.
        """
        if ranks.count() == 1:
            self._advance(*self._elapsed())

    def agree(self, stop: str | None) -> str | None:
        """One clock and one signal for all ranks: the signal that any of them has got.

        stop: name of the signal of this rank. All ranks call it, once a step.
        """
        if ranks.count() == 1:
            return stop
        wall, cpu = self._elapsed()
        names = [number.name for number in WATCHED]
        flags = [float(name == stop) for name in names]
        wall, cpu, *flags = ranks.total([wall if ranks.is_first() else 0.0, cpu, *flags])
        self._advance(wall, cpu)
        return next((name for name, flag in zip(names, flags, strict=True) if flag), None)

    def _elapsed(self) -> tuple[float, float]:
        """Wall and CPU seconds of this process since the last call."""
        before, self._clock = self._clock, (time.monotonic(), cpu_seconds())
        return self._clock[0] - before[0], self._clock[1] - before[1]

    def _advance(self, wall: float, cpu: float) -> None:
        self.position.seconds += wall
        self.position.cpu_seconds += cpu

    def progress(self) -> float:
        """Fraction of the plan that is done."""
        self.read_clocks()
        position, options = self.position, self.options
        epochs = position.epoch + position.batch / max(1, self.batches)
        parts = [epochs / options.epochs]
        if options.max_cpu_minutes:
            parts.append(position.cpu_seconds / 60 / options.max_cpu_minutes)
        if options.max_minutes:
            parts.append(position.seconds / 60 / options.max_minutes)
        return max(parts)

    def seconds_left(self) -> float | None:
        """Wall time to the end at the pace of this session; None before anything is done."""
        progress = self.progress()
        done = progress - self._session_progress
        if done <= 0:
            return None
        elapsed = time.monotonic() - self._session_start
        return max(0.0, 1 - progress) * elapsed / done

    def ended_by(self, stale_validations: int) -> str | None:
        """What has ended the run (``epochs``, ``budget``, ``patience``), None while it goes on.

        stale_validations: validations since the best one.
        """
        if self.options.patience and stale_validations >= self.options.patience:
            return "patience"
        if self.position.epoch >= self.options.epochs:
            return "epochs"
        return "budget" if self.progress() >= 1 else None
