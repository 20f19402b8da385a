"""The one training loop: steps, validation, selection of the best, checkpoints, budgets, signals.

It knows nothing of any data set: a `Task` says what the loss, the errors and the table are. A step
is in ``step.py``, the end of a run in ``budget.py``, resuming in ``checkpointing.py``. Steps with a
non-finite loss or gradient are counted, and too many in a row end the run. Only a budget of minutes
brings the clock into the results.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from farfield.common import checkpoint, memory_errors, ranks
from farfield.common.log import RunLog
from farfield.common.precision import MIXED, TRAINING_PRECISIONS
from farfield.common.script import user_message
from farfield.common.session import Interrupted, SignalWatch
from farfield.dataloader.commands import called_as
from farfield.dataloader.storage.files import json_checksum
from farfield.train import checkpointing
from farfield.train.bad_steps import BAD_STEP, BadStep
from farfield.train.budget import Budget, Position
from farfield.train.compiled_gradients import check_compiles, compiled_gradients
from farfield.train.data_order import EpochLoader
from farfield.train.monitor import Monitor, Unheard
from farfield.train.optimizers import SCHEDULES, averaged_model, build_optimizer
from farfield.train.run_plots import RunPlots
from farfield.train.step import OptimiserStep, StepResult
from farfield.train.tasks.task import Evaluation, Task, evaluate_model, evaluation_mode
from farfield.train.words import epoch_line

LOGGED_BAD_STEPS = 3  # of a session, each a line of the log
PICTURES = 4  # predictions-vs-targets pictures in tensorboard, evenly spaced over the run


class Trainer:
    """Trains ``model`` on ``task`` as ``config.training`` says.

    Arguments
        model, task    what learns, and what
        train, val     `EpochLoader`s of data sets that have a ``data_hash``
        config         EasyDict with ``task``, ``run``, ``training`` and whatever else the task
                       needs; stored in every checkpoint
        folder         run folder, made by `results.prepare_run_folder`
        device         where the model computes
        log            `RunLog`
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        train: EpochLoader,
        val: EpochLoader,
        config,
        folder: Path,
        device: torch.device,
        log: RunLog,
    ):
        self.options = config.training
        self.task = task
        several = ranks.count() > 1
        self.train_loader = train.shared(ranks.rank(), ranks.count()) if several else train
        self.val_loader = val
        self.config, self.folder, self.device, self.log = config, Path(folder), device, log
        self.dtype = TRAINING_PRECISIONS[self.options.precision]

        # what learns
        self.model = model.to(device=device, dtype=self.dtype)
        if self.options.precision == MIXED:
            check_compiles(config)
            self.model.round_products()  # before averages are copied from it
        decay = self.options.ema_decay
        self.averaged = averaged_model(self.model, decay) if decay > 0 else None
        self.optimizer = build_optimizer(self.model, self.options)
        self.schedule = SCHEDULES[self.options.lr_schedule](self.optimizer, self.options)

        # what is remembered
        self.budget = Budget(self.options, len(train))
        self.history: list[dict] = []
        self.best: dict | None = None
        self.data_hash = json_checksum([train.dataset.data_hash, val.dataset.data_hash])
        self.plots = RunPlots(self.folder / "plots", task) if ranks.is_first() else Unheard()

    @property
    def position(self) -> Position:
        """Where the run stands."""
        return self.budget.position

    def fit(self) -> bool:
        """Train to the end of the plan; False if ``run.pause_after`` ended the session before.

        Raises `Interrupted` after a signal.
        """
        self.budget.start_session()
        if not self._is_open():
            return True

        finished = False
        self.monitor = self._new_monitor()
        # ranks on machines of other kinds may have drawn other first weights
        for network in (self.model, self.averaged):
            if network is not None:
                ranks.copy_first_(network.state_dict().values())
        self.step = self._new_step()
        try:
            with SignalWatch() as self.signals:
                finished = self._fit_epochs()
        finally:
            self._end_session(finished)
        return finished

    def _new_step(self) -> OptimiserStep:
        compiled = compiled_gradients(
            self.model, self.task, self.config, self.train_loader, self.log
        )
        return OptimiserStep(
            self.model, self.task, self.optimizer, self.averaged, self.options.clip_norm, compiled
        )

    def _new_monitor(self) -> Monitor | Unheard:
        if not ranks.is_first():
            return Unheard()
        return Monitor(self.folder, self.position.step, self.config.run.progress)

    def _end_session(self, finished: bool):
        """Close what shows the run, and draw what is known of one that goes on later.

        A failure here is a note: it hides neither a signal nor the error that ended the run.
        """
        try:
            self.monitor.close()
            if not finished:
                self.plots.write(self.history, self.best)
        except Exception as error:
            # on the terminal alone: the disk of log.txt may be full
            RunLog()(f"note: plots or tensorboard could not be written: {user_message(error)}")

    def _fit_epochs(self) -> bool:
        """Epochs until the plan is done; False at the pause that ``run.pause_after`` asks for."""
        first_epoch, pause = self.position.epoch, self.config.run.pause_after
        while self._is_open():
            if pause and self.position.epoch - first_epoch >= pause:
                return False
            self._epoch()
            self._stop_if_signalled()

        # the clock may run out between an epoch and its validation
        is_validated = bool(self.history) and self.history[-1]["epoch"] == self.position.epoch
        if self.position.epoch > first_epoch and not is_validated:
            self._validate({})
            self.save(checkpoint.LAST)
        return True

    def _is_open(self) -> bool:
        """Whether something is left to do; an epoch that was begun is brought to its validation."""
        return self.position.batch > 0 or not self.ended_by()

    def ended_by(self) -> str | None:
        """What has ended the run (``epochs``, ``budget``, ``patience``), None while it goes on."""
        stale = len(self.history) - self.best["validation"] if self.best else 0
        return self.budget.ended_by(stale)

    def _epoch(self):
        position = self.position
        self.model.train()
        batches = self.train_loader.epoch(position.epoch, position.batch)

        while (done := self.budget.progress()) < 1 and (group := self._next_group(batches)):
            self.task.progress = done
            self._step(group)
            every = self.options.checkpoint_every
            if every and position.step % every == 0:
                self.save(checkpoint.LAST)
            self._stop_if_signalled()

        train_means = position.means()
        position.end_epoch()
        if position.epoch % self.options.validate_every == 0 or self.ended_by():
            self._validate(train_means)
        self.save(checkpoint.LAST)

    def _next_group(self, batches) -> list:
        """The batches of the next step; empty at the end of the epoch."""
        start = time.monotonic()
        group = list(islice(batches, self.options.accumulate))
        self.position.waiting += time.monotonic() - start
        return group

    def _step(self, group: list):
        start = time.perf_counter()
        position = self.position
        ranks.seed_draws(self.config.run.seed, position.step)
        own = [batch for batch in group if batch is not None]
        with memory_errors.naming(lambda: memory_errors.words_of(own)):
            result = self.step([batch.to(device=self.device, dtype=self.dtype) for batch in own])
        if result.taken:
            position.skipped_in_row = 0
            position.add_samples(result.scalars, result.samples)
        else:
            self._skipped(result, len(group))

        # the next rate, the bar and, now and then, a row of tensorboard
        position.step += 1
        position.batch += len(group)
        progress = self.budget.progress()
        self.schedule.after_step(progress)
        self.monitor.step(result.scalars["loss"], position.epoch, progress)
        if position.step % self.options.log_every == 0:
            self.monitor.training_row(result, time.perf_counter() - start, position.step)

    def _skipped(self, result: StepResult, batches: int):
        """Count a step that changed nothing; ``ValueError`` when there are too many in a row."""
        position, limit = self.position, self.options.max_bad_steps
        position.skipped += 1
        position.skipped_in_row += 1
        bad = BadStep.of(self, result, batches)

        # the first of several in a row is kept, to be repeated
        if position.skipped_in_row == 1 and ranks.is_first():
            bad.save(self.folder)
            if position.skipped <= LOGGED_BAD_STEPS:
                self.log(f"note: {bad.words}; {self.folder / BAD_STEP} repeats it")
        if position.skipped_in_row >= limit:
            raise ValueError(
                f"training diverged: {position.skipped_in_row} steps in a row with a non-finite "
                f"loss or gradient (the last: {bad.words}; learning rate {result.rate:.3g}, limit "
                f"--max-bad-steps {limit}); continue with --resume --lr {self.options.lr / 3:.2g} "
                f"or a lower --clip-norm, or look at the batch with {called_as('train.bad_steps')} "
                f"{self.folder}"
            )

    def _validate(self, train_means: Mapping[str, float]):
        """Errors of the validation split: history, learning rate, best checkpoint."""
        evaluated = self.averaged.module if self.averaged is not None else self.model
        precision = self.options.precision
        result = evaluate_model(evaluated, self.task, self.val_loader, self.device, precision)
        score = float(self.task.selection(result))
        self.history.append(self._history_row(train_means, result, score))

        is_best = math.isfinite(score) and (self.best is None or score < self.best["selection"])
        if is_best:
            self.best = {
                "validation": len(self.history),
                "epoch": self.position.epoch,
                "selection": score,
                "metrics": result.metrics,
                "baselines": result.baselines,
            }
        self.schedule.after_validation(score)

        # best before last: a kill in between repeats this validation instead of losing the best
        if is_best:
            self.save(checkpoint.BEST)
        self._show(evaluated, result, is_best)

    def _show(self, evaluated: nn.Module, result: Evaluation, is_best: bool):
        """Say what a validation found: log, tensorboard, plots."""
        row, step = self.history[-1], self.position.step
        self.log(epoch_line(row, self.task, self.budget.seconds_left(), is_best))
        scores = {**result.metrics, "selection": row["selection"]}
        self.monitor.validation_row(scores, step)

        # pictures in tensorboard are large: a few of them, evenly spaced
        before = self.history[-2]["progress"] if len(self.history) > 1 else 0.0
        is_due = math.floor(before * PICTURES) < math.floor(row["progress"] * PICTURES)
        if is_due:
            if result.pairs:
                self.monitor.picture(result.pairs, self.task.units, step)
            if ranks.is_first():
                with evaluation_mode(evaluated):
                    dataset = self.val_loader.dataset
                    self.monitor.figures(self.task.pictures(evaluated, dataset, self.device), step)
        self.plots.after_validation(self.history, self.best, result.pairs)

    def _history_row(
        self, train_means: Mapping[str, float], result: Evaluation, score: float
    ) -> dict[str, float]:
        """One line of the history: place, clocks, rate, means of the training, errors."""
        progress = self.budget.progress()
        return {
            "epoch": self.position.epoch,
            "step": self.position.step,
            "cpu_minutes": self.position.cpu_seconds / 60,
            "minutes": self.position.seconds / 60,
            "progress": progress,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **{f"train_{name}": value for name, value in train_means.items()},
            **result.metrics,
            "selection": score,
        }

    def _stop_if_signalled(self):
        stop = self.budget.agree(self.signals.stop)
        if stop is not None:
            self.save(checkpoint.LAST)
            ranks.wait()  # where a rank ends, torchrun ends the one that writes
            place = f"epoch {self.position.epoch}, batch {self.position.batch}"
            path = self.folder / checkpoint.LAST
            raise Interrupted(f"{stop}: saved {path} at {place}")

    def save(self, name: str):
        """Write the checkpoint ``name`` of the run folder, atomically; the first rank does."""
        if ranks.is_first():
            checkpoint.save_checkpoint(self.folder / name, checkpointing.state_of(self))

    def resumable(self) -> dict | None:
        """Content of ``checkpoint_last.pt``, None if there is none; changes nothing.

        ``ValueError`` if it belongs to another configuration or other data.
        """
        return checkpointing.find_resumable(self)

    def restore(self, content: dict):
        """Continue from what :meth:`resumable` has found, and say what is different."""
        checkpointing.restore(self, content)
        for line in checkpointing.notes_on(self, content):
            self.log(line)
