"""Gradients of a training step by a compiled program, where that pays.

| mode | compiles |
|---|---|
| off | never |
| on | at the first step |
| auto | where the plan is long: ``AUTO_CPU_MINUTES``, or ``AUTO_STEPS`` where no time is set |

The choice depends on the command alone, never on a clock or on what the disk keeps: a run repeats
bit for bit, and so does one that goes on after an interruption. Compiled and eager steps differ by
rounding.

A program serves batches on the CPU that are open or periodic in three directions: of a set whose
structures have one size whole batches, of other sets all but single structures. Other batches,
such as the last ones of an epoch, and tasks and networks that cannot be traced are computed as
without a compiler; one line says so. A new program is compared with the network on its first batch,
and not used where they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from farfield.common.precision import MIXED
from farfield.common.quantities import counted
from farfield.models.batch import AtomBatch
from farfield.models.compiled.compiled_potential import TOLERANCE
from farfield.models.compiled.costs import cpu_seconds, milliseconds, words_on_compiling
from farfield.models.compiled.traced_inputs import Inputs
from farfield.models.compiled.training_program import (
    Objective,
    TrainingProgram,
    files_of_training,
    make_training_program,
    trainable,
)
from farfield.models.potential import Potential
from farfield.models.tracing import NotTraceableError
from farfield.train.compile_modes import AUTO_CPU_MINUTES, AUTO_STEPS

Gradients = tuple[Tensor, dict[str, Tensor], list[Tensor | None]]


def pays(options: Mapping, batches: int) -> bool:
    """Whether a run with these options of the training is long enough to compile its step.

    batches: of an epoch.
    """
    minutes = [options["max_cpu_minutes"], options["max_minutes"]]
    if any(minutes):
        return min(one for one in minutes if one) >= AUTO_CPU_MINUTES
    return options["epochs"] * batches // options["accumulate"] >= AUTO_STEPS


class CompiledGradients:
    """``gradients(batch)``: loss, parts and gradient of each weight; None where no program serves.

    Arguments
        model      the potential that learns
        objective  what a step makes small
        ragged     structures of the training split have several sizes
        graphs     number of structures in a whole batch
        report     called with every line for the user
    """

    def __init__(
        self,
        model: Potential,
        objective: Objective,
        ragged: bool,
        graphs: int,
        report: Callable[[str], object],
    ):
        self.model, self.objective, self.report = model, objective, report
        self.ragged, self.graphs = ragged, graphs
        self._programs: dict[Inputs, TrainingProgram | None] = {}

    def __call__(self, batch: AtomBatch, factors: Mapping[str, float]) -> Gradients | None:
        if not self._suits(batch):
            return None
        inputs = Inputs.of_training(batch, self.ragged)
        if inputs not in self._programs:
            self._programs[inputs] = self._prepared(inputs, batch, factors)
        program = self._programs[inputs]
        if program is None or max(batch.graph.sizes) > (program.max_atoms or batch.num_nodes):
            return None
        self.model.check(batch)
        return program.run(self._weights(), inputs.tensors(batch), self.objective.factors(factors))

    def _suits(self, batch: AtomBatch) -> bool:
        """Whether a program could serve a batch."""
        on_cpu = batch.positions.device.type == "cpu"
        repeats = batch.cell is None or batch.periodic is None or bool(batch.periodic.all())
        whole = batch.num_graphs == self.graphs
        if self.ragged and self.graphs > 1:
            whole = batch.num_graphs > 1
        return on_cpu and repeats and whole and batch.num_edges > 1 and batch.num_nodes > 1

    def _weights(self) -> list[Tensor]:
        return [weight.detach() for weight in trainable(self.model).values()]

    def _prepared(
        self, inputs: Inputs, batch: AtomBatch, factors: Mapping[str, float]
    ) -> TrainingProgram | None:
        """A program that gives what the network gives for this batch; None where there is none."""
        ready = files_of_training(self.model, self.objective, inputs).facts.exists()
        if not ready:
            self.report("compiling the training step: some minutes, kept for later runs")
        start = cpu_seconds()
        try:
            program = make_training_program(self.model, self.objective, batch, inputs)
            self._compare(program, batch, factors)
        except NotTraceableError as reason:
            self.report(f"training without compiled code: {reason}")
            return None
        self._say(program, batch, 0.0 if ready else cpu_seconds() - start)
        return program

    def _eager(self, batch: AtomBatch, factors: Mapping[str, float]) -> Gradients:
        """The same without a program."""
        loss, parts = self.objective.loss(self.model, batch, factors)
        weights = list(trainable(self.model).values())
        return loss.detach(), parts, list(torch.autograd.grad(loss, weights, allow_unused=True))

    def _compare(
        self, program: TrainingProgram, batch: AtomBatch, factors: Mapping[str, float]
    ) -> None:
        """Raise :class:`NotTraceableError` where a program does not give what the network gives."""
        loss, _, gradients = self._eager(batch, factors)
        found, _, others = program.run(
            self._weights(), program.inputs.tensors(batch), self.objective.factors(factors)
        )
        limit = TOLERANCE[batch.positions.dtype]
        pairs = [(loss.reshape(1), found.reshape(1))]
        if [one is None for one in gradients] != [one is None for one in others]:
            raise NotTraceableError("the compiled step has gradients of other weights")
        known = [one for one in zip(gradients, others, strict=True) if one[0] is not None]
        pairs.append(
            tuple(torch.cat([one.flatten() for one in side]) for side in zip(*known, strict=True))
        )

        for name, (expected, got) in zip(("loss", "gradients"), pairs, strict=True):
            error = float((got - expected).abs().max())
            if not error <= limit * float(expected.abs().max()):
                raise NotTraceableError(f"the compiled {name} differ by {error:.1e}")

    def _say(self, program: TrainingProgram, batch: AtomBatch, spent: float) -> None:
        """Report what a step costs now and before, and after how many compiling has paid."""
        tensors, factors = program.inputs.tensors(batch), self.objective.factors({})
        now = milliseconds(lambda: program.run(self._weights(), tensors, factors))
        before = milliseconds(lambda: self._eager(batch, {}))
        line = (
            f"compiled training step: {now:.3g} ms instead of {before:.3g} for "
            f"{counted(batch.num_graphs, 'structure')}"
        )
        self.report(line + words_on_compiling(spent, now, before, "steps"))


def check_compiles(config) -> None:
    """``ValueError`` where a step is to be compiled whose products are rounded."""
    if config.run.get("compile", "off") == "on":
        raise ValueError(
            f"--compile on: a step with --precision {MIXED} is not compiled; type --compile off, "
            "or --precision float32"
        )


def compiled_gradients(
    model: nn.Module,
    task,
    config,
    loader,
    report: Callable[[str], object],
) -> CompiledGradients | None:
    """The gradients of a run as its options say; None where they say, or need, no compiler.

    task: of the run. loader: of the training split.
    """
    mode = config.run.get("compile", "off")
    objective = task.compiled_objective()
    compiles = mode == "on" or (mode == "auto" and pays(config.training, len(loader)))
    if not compiles or objective is None or not isinstance(model, Potential):
        return None
    if config.training.precision == MIXED:
        report(f"training without compiled code: --precision {MIXED} rounds products")
        return None
    if config.run.get("recompute", False):
        report("training without compiled code: it keeps what --recompute makes again")
        return None

    ragged = len(np.unique(loader.dataset.atoms_per_structure)) > 1
    graphs = loader.whole_batch() * config.training.augment_copies
    return CompiledGradients(model, objective, ragged, graphs, report)
