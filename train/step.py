"""One optimiser step over the batches of a group:

    g = sum over the batches of (samples of the batch / samples of the step) * grad loss
    g <- g min(1, clip / |g|),   then the optimiser, then the average of the weights

A step with a non-finite loss or gradient changes no weight. Several ranks take the step together,
each with its share of the batches: see ``gradient_sum.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from farfield.common import ranks
from farfield.train.compiled_gradients import CompiledGradients
from farfield.train.gradient_sum import GradientSum
from farfield.train.tasks.task import Task


@dataclass(frozen=True)
class StepResult:
    """What a step has done.

    Arguments
        scalars        loss and its parts, means over the samples of the step
        gradient_norm  before clipping; nan where the loss was not finite
        rate           learning rate of the step
        samples        samples of all batches of all ranks
        taken          whether weights changed
    """

    scalars: dict[str, float]
    gradient_norm: Tensor
    rate: float
    samples: int
    taken: bool


class OptimiserStep:
    """``step(batches)``: one step with the gradient over all ``batches``.

    Arguments
        model, task  what learns, and what
        optimizer    over all trainable weights of the model
        averaged     moving average of the weights, or None
        clip_norm    largest norm of the gradient
        compiled     gradients by a compiled program, or None
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        optimizer: torch.optim.Optimizer,
        averaged: AveragedModel | None,
        clip_norm: float,
        compiled: CompiledGradients | None = None,
    ):
        self.model, self.task, self.compiled = model, task, compiled
        self.optimizer, self.averaged, self.clip_norm = optimizer, averaged, clip_norm
        self._weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self._sum_over_ranks = GradientSum(self._weights)

    def __call__(self, batches: Sequence) -> StepResult:
        rate = self.optimizer.param_groups[0]["lr"]
        samples = [self.task.samples(batch) for batch in batches]

        scalars, finite = self._gradient(batches, samples)
        count = sum(samples)
        if ranks.count() > 1:
            scalars, finite, count = self._sum_over_ranks(scalars, finite, count)
        norm = torch.tensor(math.nan)
        if finite:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)

        taken = finite and bool(torch.isfinite(norm))
        if taken:
            self.optimizer.step()
            if self.averaged is not None:
                self.averaged.update_parameters(self.model)
        self.optimizer.zero_grad()
        return StepResult(scalars, norm, rate, count, taken)

    def _gradient(self, batches: Sequence, samples: Sequence[int]) -> tuple[dict[str, float], bool]:
        """Accumulate the gradient of the mean over all samples.

        Returns the means for the log, and whether every loss was finite.
        """
        scalars: dict[str, float] = {}
        for batch, count in zip(batches, samples, strict=True):
            share = count / sum(samples)
            loss, parts, add_gradients = self._loss(batch)
            for name, value in {"loss": loss.detach(), **parts}.items():
                scalars[name] = scalars.get(name, 0.0) + share * float(value)
            if not math.isfinite(scalars["loss"]):
                return scalars, False
            add_gradients(share)
        return scalars, True

    def _loss(self, batch) -> tuple[Tensor, dict[str, Tensor], Callable[[float], None]]:
        """Loss and parts, and what adds a share of the gradients to those of the weights."""
        compiled = self.compiled
        found = compiled(batch, self.task.loss_factors()) if compiled is not None else None
        if found is not None:
            loss, parts, gradients = found
            return loss, parts, lambda share: self._add(share, gradients)

        # positions may ask for a gradient too, which no step needs
        loss, parts = self.task.loss(self.model, batch)
        return loss, parts, lambda share: (share * loss).backward(inputs=self._weights)

    def _add(self, share: float, gradients: Sequence[Tensor | None]) -> None:
        """Add a share of gradients, in the order of the model's weights."""
        learning = [weight for weight in self.model.parameters() if weight.requires_grad]
        for weight, gradient in zip(learning, gradients, strict=True):
            if gradient is not None:
                # in the layout of the weight, which fused optimisers do not look at
                part = torch.mul(gradient, share, out=torch.empty_like(weight))
                weight.grad = part if weight.grad is None else weight.grad + part
