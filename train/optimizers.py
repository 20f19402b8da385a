"""Optimisers, learning-rate schedules, weight averaging, by name.

The learning rate is a pure function of the step and of the *progress* p in [0, 1] of the planned
run (p = largest of epochs done / epochs planned, CPU minutes used / allowed, wall minutes used /
allowed), both of which a checkpoint holds:

    lr(step, p) = lr_max * min(1, (step + 1) / warmup) * shape(p),
    shape(p) = m + (1 - m) (1 + cos(pi p)) / 2   for ``cosine``

with m = lr_min / lr_max; ``constant`` has shape 1. ``plateau`` halves the rate when the validation
stops improving. Averaged weights follow

    w_avg <- d w_avg + (1 - d) w,    d = min(decay, (1 + n) / (10 + n)) at step n,

so that the early average forgets the initial weights as fast as training leaves them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from farfield.models.choices import Registry

SCHEDULES: Registry[type] = Registry("lr_schedule")

# name -> (groups of weights, lr, betas) -> optimiser
OPTIMIZERS: Registry[Callable[..., torch.optim.Optimizer]] = Registry("optimizer")

# fused: one call for all weights instead of several for each of a hundred small ones
OPTIMIZERS.register("adam")(functools.partial(torch.optim.Adam, fused=True))
OPTIMIZERS.register("adamw")(functools.partial(torch.optim.AdamW, fused=True))
OPTIMIZERS.register("radam")(torch.optim.RAdam)
OPTIMIZERS.register("nadam")(torch.optim.NAdam)


def build_optimizer(model: nn.Module, options) -> torch.optim.Optimizer:
    """The optimiser ``options.optimizer`` over all trainable weights.

    Weight decay acts on weights of two and more dimensions: matrices, and scales and shifts of
    norms with one number for every degree (or query and key) and channel. It does not act on lists,
    such as biases. ``ValueError`` for a model without trainable weights.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise ValueError("the model has no trainable weights")
    matrices = [weight for weight in weights if weight.ndim > 1]
    lists = [weight for weight in weights if weight.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": lists, "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    return OPTIMIZERS[options.optimizer](filled, lr=options.lr, betas=(0.9, options.beta2))


@SCHEDULES.register("constant")
class ProgressSchedule:
    """Learning rate from step and progress; the base class of all shapes, itself constant."""

    def __init__(self, optimizer: torch.optim.Optimizer, options):
        self.progress = 0.0
        self.floor = min(1.0, options.min_lr / options.lr)
        self.warmup = options.warmup_steps
        self.scheduler = LambdaLR(optimizer, self._factor)  # torch does the bookkeeping

    def _factor(self, step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        return warm * self.shape(self.progress)

    def shape(self, progress: float) -> float:
        """Factor of the largest learning rate at ``progress`` in [0, 1]."""
        return 1.0

    def after_step(self, progress: float):
        """Set the rate of the next step."""
        self.progress = min(1.0, progress)
        self.scheduler.step()

    def after_validation(self, metric: float):
        """Nothing: the rate depends on step and progress alone."""

    def state_dict(self) -> dict:
        """All that the schedule remembers."""
        return {"progress": self.progress, "scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state: dict):
        """Continue from ``state``."""
        self.progress = state["progress"]
        self.scheduler.load_state_dict(state["scheduler"])

    def rescale(self, factor: float):
        """Multiply all rates, past the state that was loaded: another ``--lr``."""
        self.scheduler.base_lrs = [factor * rate for rate in self.scheduler.base_lrs]
        for group in self.scheduler.optimizer.param_groups:
            group["lr"] *= factor
            group["initial_lr"] *= factor


@SCHEDULES.register("cosine")
class CosineSchedule(ProgressSchedule):
    """Half a cosine from the largest to the smallest rate."""

    def shape(self, progress: float) -> float:
        """m + (1 - m)(1 + cos(pi p)) / 2."""
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))


@SCHEDULES.register("plateau")
class PlateauSchedule:
    """Linear warm-up, then half the rate whenever validations stop to improve."""

    def __init__(self, optimizer: torch.optim.Optimizer, options):
        self.optimizer, self.largest, self.warmup = optimizer, options.lr, options.warmup_steps
        self.steps = 0
        self.scheduler = ReduceLROnPlateau(
            optimizer, factor=0.5, patience=options.plateau_patience, min_lr=options.min_lr
        )
        self._warm()

    def _warm(self):
        if self.steps < self.warmup:
            for group in self.optimizer.param_groups:
                group["lr"] = self.largest * (self.steps + 1) / self.warmup

    def after_step(self, progress: float):
        """Count the step; during the warm-up, raise the rate."""
        self.steps += 1
        self._warm()

    def after_validation(self, metric: float):
        """Hand the metric to torch's ``ReduceLROnPlateau``."""
        if self.steps >= self.warmup:
            self.scheduler.step(metric)

    def state_dict(self) -> dict:
        """All that the schedule remembers."""
        return {"steps": self.steps, "scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state: dict):
        """Continue from ``state``."""
        self.steps = state["steps"]
        self.scheduler.load_state_dict(state["scheduler"])

    def rescale(self, factor: float):
        """Multiply the present rate, past the state that was loaded: another ``--lr``."""
        for group in self.optimizer.param_groups:
            group["lr"] *= factor


def averaged_model(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights, with the decay given above.

    Buffers are copied, not averaged.
    """

    def update(averaged, current, count):
        """One step of the average; torch calls it with the number of steps so far."""
        steps = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averaged, current, count)

    return AveragedModel(model, multi_avg_fn=update)
