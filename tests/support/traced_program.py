"""What stands for a compiled program where nothing is to be compiled."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.compiled.traced_inputs import Inputs, run_traced
from farfield.models.potential import Potential


@dataclasses.dataclass
class TracedProgram:
    """The forms of a trace, run on numbers."""

    potential: Potential
    inputs: Inputs
    max_atoms: int | None = None

    def run(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        """Predictions of a batch."""
        found = run_traced(self.potential, self.inputs, tensors)
        return {name: value.detach() for name, value in found.items()}


def make_traced(potential: Potential, batch: AtomBatch) -> TracedProgram:
    """Takes the place of ``program.make_program``."""
    return TracedProgram(potential, Inputs.of(batch))
