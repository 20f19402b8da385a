"""What stands for a compiled program where nothing is to be compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.compiled.traced_inputs import Inputs, run_traced
from farfield.models.compiled.training_program import (
    Objective,
    TrainingProgram,
    loss_and_gradients,
    trainable,
)
from farfield.models.potential import Potential


@dataclasses.dataclass
class StandIn:
    """A program that computes by a function of the tensors of a batch."""

    inputs: Inputs
    function: Callable[[list[Tensor]], dict[str, Tensor]]
    max_atoms: int | None = None

    def run(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        """Predictions of a batch."""
        return {name: value.detach() for name, value in self.function(tensors).items()}


def make_traced(potential: Potential, batch: AtomBatch) -> StandIn:
    """The forms of a trace on numbers; takes the place of ``program.make_program``."""
    inputs = Inputs.of(batch)
    return StandIn(inputs, lambda tensors: run_traced(potential, inputs, tensors))


def make_recorded(potential: Potential, batch: AtomBatch) -> StandIn:
    """The recorded and rewritten graph, operation by operation: all but the compiler."""
    from farfield.models.compiled.trace import trace

    traced = trace(potential, batch)

    def run(tensors: list[Tensor]) -> dict[str, Tensor]:
        return dict(zip(traced.names, traced.graph(*tensors), strict=True))

    return StandIn(Inputs.of(batch), run, traced.max_atoms)


class StepForms:
    """The forms of a traced training step on numbers, as a runner of a program."""

    def __init__(self, *fixed):
        self.fixed = fixed  # potential, objective and inputs of ``loss_and_gradients``

    def run(self, tensors: list[Tensor]) -> list[Tensor]:
        """Outputs in the order of their names."""
        return list(loss_and_gradients(*self.fixed, tensors).values())


def make_traced_step(
    potential: Potential, objective: Objective, batch: AtomBatch, inputs: Inputs
) -> TrainingProgram:
    """Takes the place of ``training_program.make_training_program``."""
    weights = [one.detach() for one in trainable(potential).values()]
    arguments = [*weights, objective.factors({}), *inputs.tensors(batch)]
    names = tuple(loss_and_gradients(potential, objective, inputs, arguments))
    forms = StepForms(potential, objective, inputs)
    return TrainingProgram(inputs, names, tuple(trainable(potential)), None, forms)
