"""The one training loop: steps, validation, selection of the best, checkpoints, budgets, signals.

It knows nothing of any data set: a `Task` says what the loss, the metrics and the table are. One
step is

    g = sum over the accumulated batches of (samples of the batch / samples of the step) * grad loss
    g <- g min(1, clip / |g|),   then the optimiser, then the average of the weights

A step with a non-finite loss or gradient changes no weight; it is counted, and too many in a row
end the run. Everything that decides the next number (weights, averages, optimiser, schedule,
position in the data order, random states) is in ``checkpoint_last.pt``; on the CPU, with the same
seed, machine and thread count, a continued run is bit-identical to an uninterrupted one (sums on a
GPU have no fixed order). Only a CPU- or wall-minute budget brings the clock into the numbers.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from farfield.common import checkpoint
from farfield.common.command_line import plain, saved_config
from farfield.common.precision import PRECISIONS
from farfield.common.run_folder import check_same_run
from farfield.common.session import Interrupted, SignalWatch, cpu_seconds
from farfield.dataloader.storage.files import json_checksum
from farfield.train.data_order import EpochLoader
from farfield.train.former_runs import current_config
from farfield.train.monitor import Monitor
from farfield.train.optimizers import SCHEDULES, averaged_model, build_optimizer
from farfield.train.run_options import FREE_ON_RESUME
from farfield.train.tasks.task import Task, evaluate_model

# options that a resumed run may change, at the price of other numbers
CHANGES_NUMBERS = (
    ("run", "threads"),
    ("training", "epochs"),
    ("training", "max_cpu_minutes"),
    ("training", "max_minutes"),
)
PICTURES = 4  # predictions-vs-targets pictures in tensorboard, evenly spaced over the run


@dataclass
class Position:
    """Where a run stands: finished epochs, batches done in the next one, steps, and the clocks over
    all sessions.

    waiting: seconds of wall time in which training waited for its next batch.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    waiting: float = 0.0
    sums: dict[str, float] = field(
        default_factory=dict
    )  # of this epoch: name -> sum over samples; "samples" -> their number


class Trainer:
    """Trains ``model`` on ``task`` as ``config.training`` says.

    Arguments
        model, task    what learns, and what
        train, val     `EpochLoader`s of data sets that have a ``data_hash``
        config         EasyDict with ``task``, ``run``, ``training`` and whatever else the task
                       needs; stored in every checkpoint
        folder         run folder, made by `run_folder.prepare_run_folder`
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
        log,
    ):
        self.options = config.training
        self.task, self.train_loader, self.val_loader = task, train, val
        self.config, self.folder, self.device, self.log = config, Path(folder), device, log
        self.dtype = PRECISIONS[self.options.precision]
        self.model = model.to(device=device, dtype=self.dtype)
        self.averaged = (
            averaged_model(self.model, self.options.ema_decay)
            if self.options.ema_decay > 0
            else None
        )
        self.optimizer = build_optimizer(self.model, self.options)
        self.weights = [
            weight for group in self.optimizer.param_groups for weight in group["params"]
        ]
        self.schedule = SCHEDULES[self.options.lr_schedule](self.optimizer, self.options)
        self.position = Position()
        self.history: list[dict] = []
        self.best: dict | None = None
        self.data_hash = json_checksum([train.dataset.data_hash, val.dataset.data_hash])
        self.total_steps = self.options.epochs * math.ceil(
            len(train) / self.options.accumulate
        )  # of ragged epochs about as many
        self._clock = (time.monotonic(), cpu_seconds())

    def fit(self) -> bool:
        """Train to the end of the plan; False if ``run.pause_after`` ended the session before.
        Raises `Interrupted` after a signal.
        """
        self._clock = (time.monotonic(), cpu_seconds())
        if not self._open():
            return True
        timed = self.options.max_cpu_minutes or self.options.max_minutes
        total = (
            None if timed else self.total_steps
        )  # the bar foretells the end only where steps decide it
        self.monitor = Monitor(self.folder, total, self.position.step, self.config.run.progress)
        first_epoch, pause = self.position.epoch, self.config.run.pause_after
        try:
            with SignalWatch() as self.signals:
                while self._open():
                    if pause and self.position.epoch - first_epoch >= pause:
                        return False
                    self._epoch()
                    self._stop_if_signalled()
                if self.position.epoch > first_epoch and not (
                    self.history and self.history[-1]["epoch"] == self.position.epoch
                ):
                    self._validate({})  # the clock ran out between an epoch and its validation
                    self.save(checkpoint.LAST)
        finally:
            self.monitor.close()
        return True

    def _open(self) -> bool:
        """Whether something is left to do; an epoch that was begun is always brought to its
        validation.
        """
        return self.position.batch > 0 or not self.ended_by()

    def ended_by(self) -> str | None:
        """What has ended the run (``epochs``, ``budget``, ``patience``), or None while it goes
        on.
        """
        stale = len(self.history) - self.best["validation"] if self.best else 0
        if self.options.patience and stale >= self.options.patience:
            return "patience"
        if self.position.epoch >= self.options.epochs:
            return "epochs"
        return "budget" if self.progress() >= 1 else None

    def progress(self) -> float:
        """Fraction of the plan that is done: the largest of epochs, CPU minutes and wall
        minutes.
        """
        self._read_clocks()
        parts = [
            (self.position.epoch + self.position.batch / max(1, len(self.train_loader)))
            / self.options.epochs
        ]
        if self.options.max_cpu_minutes:
            parts.append(self.position.cpu_seconds / 60 / self.options.max_cpu_minutes)
        if self.options.max_minutes:
            parts.append(self.position.seconds / 60 / self.options.max_minutes)
        return max(parts)

    def _read_clocks(self):
        now = (time.monotonic(), cpu_seconds())
        self.position.seconds += now[0] - self._clock[0]
        self.position.cpu_seconds += now[1] - self._clock[1]
        self._clock = now

    def _epoch(self):
        position = self.position
        self.model.train()
        batches = self.train_loader.epoch(position.epoch, position.batch)
        while (done := self.progress()) < 1 and (group := self._next_group(batches)):
            self.task.progress = done
            self._step([batch.to(device=self.device, dtype=self.dtype) for batch in group])
            if self.options.checkpoint_every and position.step % self.options.checkpoint_every == 0:
                self.save(checkpoint.LAST)
            self._stop_if_signalled()
        train_means = {
            name: total / position.sums["samples"]
            for name, total in position.sums.items()
            if name != "samples"
        }
        position.epoch, position.batch, position.sums = position.epoch + 1, 0, {}
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
        rate = self.optimizer.param_groups[0]["lr"]
        samples = [self.task.samples(batch) for batch in group]
        scalars, finite = self._gradient(group, samples)
        norm = (
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
            if finite
            else torch.tensor(math.nan)
        )
        if finite and bool(torch.isfinite(norm)):
            self.optimizer.step()
            if self.averaged is not None:
                self.averaged.update_parameters(self.model)
            self.position.skipped_in_row = 0
            for name, value in {**scalars, "samples": 1.0}.items():
                self.position.sums[name] = self.position.sums.get(name, 0.0) + value * sum(samples)
        else:
            self._skipped(scalars["loss"], rate)
        self.optimizer.zero_grad()
        self.position.step += 1
        self.position.batch += len(group)
        progress = self.progress()
        self.schedule.after_step(progress)
        self.monitor.step(scalars["loss"], self.position.epoch, progress)
        if self.position.step % self.options.log_every == 0:
            values = {f"train/{name}": value for name, value in scalars.items()}
            seconds = time.perf_counter() - start
            values |= {
                "train/learning_rate": rate,
                "train/gradient_norm": float(norm),
                "train/seconds_per_step": seconds,
            }
            self.monitor.scalars(values, self.position.step)

    def _gradient(self, group: list, samples: list[int]) -> tuple[dict[str, float], bool]:
        """Accumulate the gradient of the mean over all samples of the group -> (logged means,
        whether every loss was finite).
        """
        scalars: dict[str, float] = {}
        for batch, count in zip(group, samples, strict=True):
            share = count / sum(samples)
            loss, parts = self.task.loss(self.model, batch)
            for name, value in {"loss": loss.detach(), **parts}.items():
                scalars[name] = scalars.get(name, 0.0) + share * float(value)
            if not math.isfinite(scalars["loss"]):
                return scalars, False
            (share * loss).backward(inputs=self.weights)  # not by the positions
        return scalars, True

    def _skipped(self, loss: float, rate: float):
        self.position.skipped += 1
        self.position.skipped_in_row += 1
        if self.position.skipped_in_row >= self.options.max_bad_steps:
            raise ValueError(
                f"training diverged: {self.position.skipped_in_row} steps in a row with a "
                "non-finite loss or gradient "
                f"(step {self.position.step}, loss {loss:.4g}, learning rate {rate:.3g}, limit "
                "--max-bad-steps "
                f"{self.options.max_bad_steps}); lower --lr or --clip-norm"
            )

    def _validate(self, train_means: Mapping[str, float]):
        evaluated = self.averaged.module if self.averaged is not None else self.model
        result = evaluate_model(
            evaluated, self.task, self.val_loader, self.device, self.options.precision
        )
        score = float(self.task.selection(result))
        before, now = self.history[-1]["progress"] if self.history else 0.0, self.progress()
        row = {
            "epoch": self.position.epoch,
            "step": self.position.step,
            "cpu_minutes": self.position.cpu_seconds / 60,
            "minutes": self.position.seconds / 60,
            "progress": now,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **{f"train_{name}": value for name, value in train_means.items()},
            **result.metrics,
            "selection": score,
        }
        self.history.append(row)
        better = math.isfinite(score) and (self.best is None or score < self.best["selection"])
        if better:
            self.best = {
                "validation": len(self.history),
                "epoch": self.position.epoch,
                "selection": score,
            }
            self.best |= {"metrics": result.metrics, "baselines": result.baselines}
        self.schedule.after_validation(score)
        if better:
            self.save(
                checkpoint.BEST
            )  # before `last`: a kill in between repeats this validation instead of losing the best
        values = {**result.metrics, "selection": score}
        self.monitor.scalars(
            {f"validation/{name}": value for name, value in values.items()}, self.position.step
        )
        if result.pairs and math.floor(before * PICTURES) < math.floor(now * PICTURES):
            self.monitor.picture(result.pairs, self.position.step)
        shown = "  ".join(f"{name} {result.metrics[name]:.4g}" for name in self.task.curves)
        self.log(
            f"epoch {row['epoch']:4d}  step {row['step']:6d}  cpu {row['cpu_minutes']:.2f} min  "
            f"train {train_means.get('loss', math.nan):.4g}  validation: {shown}  selection "
            f"{score:.4g}{' *' if better else ''}"
        )

    def _stop_if_signalled(self):
        if self.signals.stop is not None:
            self.save(checkpoint.LAST)
            place = f"epoch {self.position.epoch}, batch {self.position.batch}"
            raise Interrupted(
                f"{self.signals.stop}: saved {self.folder / checkpoint.LAST} at {place}"
            )

    def state(self) -> dict:
        """Content of a checkpoint."""
        self._read_clocks()
        return {
            "config": saved_config(self.config),
            "weights": self.model.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "position": asdict(self.position),
            "random": checkpoint.random_states(self.device),
            "history": self.history,
            "best": self.best,
            "units": dict(self.task.units),
            "versions": checkpoint.package_versions(),
            "data": self.data_hash,
        }

    def save(self, name: str):
        """Write the checkpoint ``name`` of the run folder, atomically."""
        checkpoint.save_checkpoint(self.folder / name, self.state())

    def _newer_best(self, best: dict | None) -> dict | None:
        """``best``, or what ``checkpoint_best.pt`` says if a kill came between the two checkpoints
        of a validation.
        """
        path = self.folder / checkpoint.BEST
        written = checkpoint.read_run(path, self.device)["best"] if path.exists() else None
        return (
            written
            if written and (best is None or written["selection"] < best["selection"])
            else best
        )

    def resumable(self) -> dict | None:
        """Content of ``checkpoint_last.pt``, None if there is none; ``ValueError`` if it is of
        another configuration or other data.
        """
        path = self.folder / checkpoint.LAST
        if not path.exists():
            return None
        content = checkpoint.read_run(path, self.device)
        saved = current_config(content["config"])
        check_same_run(path, saved, plain(self.config), FREE_ON_RESUME)
        if content["data"] != self.data_hash:
            reason = "it was trained and validated on other structures or labels than these"
            raise ValueError(
                f"cannot resume {path}: {reason}; give the data it began with, or start another "
                "run with --run-dir"
            )
        return content

    def restore(self, content: dict):
        """Continue from what :meth:`resumable` has found; ``ValueError`` if it is of another model,
        or not whole.
        """
        path = self.folder / checkpoint.LAST
        checkpoint.load_weights(self.model, content["weights"], path)
        if self.averaged is not None:
            checkpoint.load_weights(self.averaged, content["averaged"] or {}, path)
        try:
            self.optimizer.load_state_dict(content["optimizer"])
            self.schedule.load_state_dict(content["schedule"])
            self.position = Position(**content["position"])
            checkpoint.restore_random_states(
                {name: _on_cpu(state) for name, state in content["random"].items()}, self.device
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"checkpoint {path} is not whole ({error}); start another run with --run-dir"
            ) from None
        self.history, self.best = content["history"], self._newer_best(content["best"])
        self.log(
            f"goes on from {path}: epoch {self.position.epoch}, batch {self.position.batch}, "
            f"step {self.position.step}"
        )
        for name, version in checkpoint.package_versions().items():
            if content["versions"].get(name) != version:
                self.log(
                    f"note: {name} was {content['versions'].get(name)} and is {version} now; the "
                    "run may not continue bit-identically"
                )
        then, now = content["config"], self.config
        changed = [
            key for section, key in CHANGES_NUMBERS if then[section][key] != now[section][key]
        ]
        if changed:
            self.log(
                f"note: changed since the run began: {', '.join(changed)}; it does not continue "
                "bit-identically"
            )


def _on_cpu(state):
    if isinstance(state, Tensor):
        return state.cpu()
    return [_on_cpu(item) for item in state] if isinstance(state, list) else state
