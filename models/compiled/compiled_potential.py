"""A potential that computes by a compiled program where it can, and where that pays.

    compiled = CompiledPotential(potential, "auto", evaluations=10_000, report=print)
    prediction = compiled(batch)

| mode | compiles |
|---|---|
| off | never |
| on | at the first batch |
| auto | if the program is kept on the disk, or if it pays |

It pays if the evaluations to come take ``COMPILE_SECONDS`` longer without it, as measured on the
first ones. Where nobody knows how many come, it pays as soon as the evaluations so far have taken
``COMPILE_SECONDS``: such a run never takes more than twice the time that the best choice would.

A program serves batches on the CPU whose structures have one size, of two atoms and two edges or
more. All other batches, and networks that cannot be traced, are computed as without a compiler;
one line says so. A new program is compared with the network on its first batch, and not used where
they differ.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.choices import check_choice
from farfield.models.compiled.costs import cpu_seconds, milliseconds, words_on_compiling
from farfield.models.compiled.program import Program, kept, make_program
from farfield.models.compiled.traced_inputs import Inputs
from farfield.models.potential import Potential
from farfield.models.tracing import NotTraceableError

MODES = {
    "auto": "where it pays: the program is kept from another run, or the run is long",
    "on": "at the start",
    "off": "never",
}
COMPILE_SECONDS = 90.0  # CPU time for a network of the size of the presets
SAVED = 0.75  # part of an evaluation that a program saves, at least
TIMED = 3  # evaluations that say how long one takes; the first of all is slower

# what a program may differ by from the network, relative to the largest value
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


@dataclasses.dataclass
class _Choice:
    """What is known for batches with the same inputs.

    program: None until it is made. refused: it will never be. seconds, calls: of the evaluations
    without a program, the first one left out.
    """

    program: Program | None = None
    refused: bool = False
    seconds: float = 0.0
    calls: int = -1


class CompiledPotential:
    """``compiled(batch)`` gives what ``potential(batch)`` gives.

    Arguments
        potential    in evaluation mode, its weights ask for no gradient
        mode         name in :data:`MODES`
        report       called with every line for the user
        evaluations  number of evaluations to come, None where nobody knows
    """

    def __init__(
        self,
        potential: Potential,
        mode: str = "auto",
        report: Callable[[str], object] = lambda line: None,
        evaluations: int | None = None,
    ):
        check_choice("compile", mode, MODES)
        self.potential, self.mode, self.report = potential, mode, report
        self.evaluations = evaluations
        self._choices: dict[Inputs, _Choice] = {}
        self._checked: Tensor | None = None  # atomic numbers of the last batch

    def __call__(self, batch: AtomBatch) -> dict[str, Tensor]:
        """Predictions for a batch."""
        if self.mode == "off" or not self._suits(batch):
            return self.potential(batch)

        inputs = Inputs.of(batch)
        choice = self._choices.setdefault(inputs, _Choice())
        if choice.program is None and not choice.refused and self._pays(choice, inputs):
            self.prepare(batch)
        program = choice.program
        if program is None or batch.graph.sizes[0] > (program.max_atoms or batch.num_nodes):
            return self._timed(choice, batch)
        self._check(batch)
        return program.run(inputs.tensors(batch))

    def prepare(self, batch: AtomBatch) -> bool:
        """Make the program for batches like this one now; False where there is none."""
        inputs = Inputs.of(batch)
        choice = self._choices.setdefault(inputs, _Choice())
        if choice.program is not None or choice.refused or not self._suits(batch):
            return choice.program is not None

        # a reason not to compile is said once
        ready = kept(self.potential, inputs)
        if not ready:
            self.report("compiling the potential: a minute or two, kept for later runs")
        start = cpu_seconds()
        try:
            choice.program = self._compared(batch)
        except NotTraceableError as reason:
            choice.refused = True
            self.report(f"computing without compiled code: {reason}")
            return False
        self._say(choice.program, batch, 0.0 if ready else cpu_seconds() - start)
        return True

    def is_worth(self, batch: AtomBatch) -> bool:
        """Whether a run of ``evaluations`` batches like this one should use a program."""
        if self.mode != "auto" or not self._suits(batch):
            return self.mode == "on"
        inputs = Inputs.of(batch)
        choice = self._choices.setdefault(inputs, _Choice())
        while not kept(self.potential, inputs) and choice.calls < TIMED:
            self._timed(choice, batch)
        return self._pays(choice, inputs)

    def settle(self, batch: AtomBatch, compiled: bool) -> bool:
        """Compute from now on with a program, or always without; what it came to.

        batch: like those to come.
        """
        ready = compiled and self.prepare(batch)
        self.mode = "on" if ready else "off"
        return ready

    def _suits(self, batch: AtomBatch) -> bool:
        """Whether a program could serve a batch."""
        graph, positions = batch.graph, batch.positions
        plain = positions.device.type == "cpu" and not positions.requires_grad
        like = not self.potential.training and len(set(graph.sizes)) == 1
        return plain and like and graph.sizes[0] > 1 and graph.num_edges > 1

    def _pays(self, choice: _Choice, inputs: Inputs) -> bool:
        if self.mode == "on" or (choice.calls < 1 and kept(self.potential, inputs)):
            return True
        if self.evaluations is None:
            return choice.seconds > COMPILE_SECONDS
        if choice.calls < TIMED:
            return False
        left = self.evaluations - choice.calls
        return SAVED * left * choice.seconds / choice.calls > COMPILE_SECONDS

    def _timed(self, choice: _Choice, batch: AtomBatch) -> dict[str, Tensor]:
        """Predictions without a program, and how long they took."""
        start = time.process_time()
        found = self.potential(batch)
        if choice.calls >= 0:
            choice.seconds += time.process_time() - start
        choice.calls += 1
        return found

    def _check(self, batch: AtomBatch) -> None:
        """Refuse values that the network refuses; elements need a look when they change."""
        numbers = batch.atomic_numbers
        same = self._checked is not None and torch.equal(numbers, self._checked)
        if not same or self.potential.stress:
            self.potential.check(batch)
            self._checked = numbers

    def _compared(self, batch: AtomBatch) -> Program:
        """A program that gives what the network gives for this batch."""
        expected = self.potential(batch)
        program = make_program(self.potential, batch)
        found = program.run(program.inputs.tensors(batch))
        limit = TOLERANCE[batch.positions.dtype]
        for name, values in expected.items():
            allowed = limit * max(1e-3, float(values.abs().max()))
            error = float((found[name] - values).abs().max())
            if not error <= allowed:
                raise NotTraceableError(f"compiled {name} differ by {error:.1e} from the network")
        return program

    def _say(self, program: Program, batch: AtomBatch, spent: float) -> None:
        """Report what an evaluation costs now and before, and after how many compiling paid."""
        tensors = program.inputs.tensors(batch)
        now = milliseconds(lambda: program.run(tensors))
        before = milliseconds(lambda: self.potential(batch))
        line = f"compiled potential: {now:.3g} ms an evaluation instead of {before:.3g}"
        self.report(line + words_on_compiling(spent, now, before, "evaluations"))
