"""The gradient of a loss by the weights of a potential, as one compiled program.

The whole step but the optimiser (network, forces, loss, and its derivative by every weight) is
written down once and compiled: the loss of a force is differentiated twice in one go. Weights are
arguments of the program, so it serves from the first step to the last.

Cost: two to four minutes of CPU time for a network of the size of the presets, nothing where the
program is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.compiled.library import KeptFiles, places_of, put_in
from farfield.models.compiled.program import shape_of
from farfield.models.compiled.traced_inputs import Inputs
from farfield.models.potential import Potential
from farfield.models.tracing import tracing

if TYPE_CHECKING:
    from farfield.models.compiled.trace import Trace

LOSS = "loss"
GRADIENT = "gradient of "

# (potential, batch with labels, part -> factor of its weight) -> loss, and its parts for the log
LossFunction = Callable[
    [Callable[[AtomBatch], dict[str, Tensor]], AtomBatch, Mapping[str, Tensor]],
    tuple[Tensor, dict[str, Tensor]],
]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a step makes small.

    Arguments
        loss   of a batch, from tensor operations alone
        parts  whose weights may change on the way: names of the factors
        key    all that decides the operations of the loss
    """

    loss: LossFunction
    parts: tuple[str, ...]
    key: str

    def factors(self, values: Mapping[str, float]) -> Tensor:
        """Factors as a program takes them (parts,) float64; those without a value are 1."""
        numbers = [values.get(name, 1.0) for name in self.parts]
        return torch.tensor(numbers, dtype=torch.float64)


@dataclasses.dataclass(frozen=True)
class TrainingProgram:
    """``run(weights, tensors, factors) -> loss, parts, gradient of each weight``.

    inputs: how a batch becomes its tensors. names: of the outputs. weights: names of the weights,
    in their order. max_atoms: of a structure, None for any number.
    """

    inputs: Inputs
    names: tuple[str, ...]
    weights: tuple[str, ...]
    max_atoms: int | None
    runner: object

    def run(
        self, weights: list[Tensor], tensors: list[Tensor], factors: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], list[Tensor | None]]:
        """The loss and what it is made of; None for a weight that the loss does not know."""
        outputs = self.runner.run([*weights, factors, *tensors])
        found = dict(zip(self.names, outputs, strict=True))
        gradients = [found.pop(GRADIENT + name, None) for name in self.weights]
        return found.pop(LOSS), found, gradients


class _WithWeights:
    """A potential with other weights in the place of its own, for the loss of a task."""

    def __init__(self, potential: Potential, weights: Mapping[str, Tensor]):
        self.potential, self.weights = potential, weights

    def __call__(self, batch: AtomBatch) -> dict[str, Tensor]:
        return torch.func.functional_call(self.potential, self.weights, (batch,))

    def reference_energy(self, batch: AtomBatch) -> Tensor:
        """See :meth:`Potential.reference_energy`."""
        return self.potential.reference_energy(batch)


def trainable(potential: Potential) -> dict[str, Tensor]:
    """Weights that learn, by name."""
    return {name: one for name, one in potential.named_parameters() if one.requires_grad}


def loss_and_gradients(
    potential: Potential, objective: Objective, inputs: Inputs, arguments: list[Tensor]
) -> dict[str, Tensor]:
    """What a program computes, by name; the function that is written down.

    arguments: weights, factors, and the tensors of a batch.
    """
    names = list(trainable(potential))
    weights = [one.detach().requires_grad_(True) for one in arguments[: len(names)]]
    factors = dict(zip(objective.parts, arguments[len(names)].unbind(), strict=True))
    batch = inputs.batch(tuple(arguments[len(names) + 1 :]))

    with tracing(), torch.enable_grad():
        model = _WithWeights(potential, dict(zip(names, weights, strict=True)))
        loss, parts = objective.loss(model, batch, factors)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)

    found = {LOSS: loss.detach(), **parts}
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is not None:
            found[GRADIENT + name] = gradient
    return found


def record_gradients(
    potential: Potential, objective: Objective, batch: AtomBatch, inputs: Inputs
) -> Trace:
    """Write down :func:`loss_and_gradients` for labelled batches like this one, of any size.

    inputs: of the batch.

    Raises :class:`NotTraceableError` in one line for a network or a loss that cannot be traced.
    """
    from farfield.models.compiled.trace import fixed_tensors, record, symbolic_tensors

    like = symbolic_tensors(inputs, batch)
    fixed = [one.detach() for one in trainable(potential).values()] + [objective.factors({})]
    example = fixed_tensors(fixed, like[0].fake_mode) + like

    def function(*arguments: Tensor) -> dict[str, Tensor]:
        return loss_and_gradients(potential, objective, inputs, list(arguments))

    return record(function, [*fixed, *inputs.tensors(batch)], example)


def make_training_program(
    potential: Potential, objective: Objective, batch: AtomBatch, inputs: Inputs
) -> TrainingProgram:
    """The program of a loss for labelled batches like this one: from the disk, or compiled.

    The potential is in training mode, on the CPU. inputs: of the batch. Errors: see
    :func:`record_gradients`; also without a C++ compiler, and where compiling fails.
    """

    def make() -> tuple[Trace, dict]:
        """The trace, and what a later session needs to know of it."""
        traced = record_gradients(potential, objective, batch, inputs)
        facts = {"outputs": list(traced.names), "max_atoms": traced.max_atoms}
        return traced, facts | {"weights": places_of(potential, traced)}

    runner, said = files_of_training(potential, objective, inputs).load(make)
    put_in(runner, potential, said["weights"])
    names = tuple(trainable(potential))
    return TrainingProgram(inputs, tuple(said["outputs"]), names, said["max_atoms"], runner)


def files_of_training(potential: Potential, objective: Objective, inputs: Inputs) -> KeptFiles:
    """Files of the program of a loss."""
    decisive = {"inputs": repr(inputs), "objective": objective.key, "parts": objective.parts}
    decisive["learns"] = list(trainable(potential))
    return KeptFiles("training", shape_of(potential) | decisive)
