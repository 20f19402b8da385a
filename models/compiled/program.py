"""A traced potential as a program on the disk.

Weights are put in when a program is loaded, so that networks of one shape share it; what follows
from the weights alone is computed once, then.

Cost: a minute of CPU time for a network of the size of the presets, nothing where it is kept.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.compiled.library import KeptFiles, places_of, put_in
from farfield.models.compiled.traced_inputs import Inputs
from farfield.models.potential import Potential

if TYPE_CHECKING:
    from farfield.models.compiled.trace import Trace


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled potential with its weights: ``run(tensors) -> predictions by name``.

    inputs: how a batch becomes its tensors. max_atoms: of a structure, None for any number.
    """

    inputs: Inputs
    names: tuple[str, ...]
    max_atoms: int | None
    runner: object

    def run(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        """Predictions of a batch, given its tensors in the order of ``inputs``."""
        return dict(zip(self.names, self.runner.run(tensors), strict=True))


def kept(potential: Potential, inputs: Inputs) -> bool:
    """Whether the disk has the program of a potential for batches with these inputs."""
    return files_of(potential, inputs).facts.exists()


def make_program(potential: Potential, batch: AtomBatch) -> Program:
    """The program of a potential for batches like this one: from the disk, or compiled and kept.

    The potential is in evaluation mode, on the CPU, and its weights ask for no gradient. Raises
    :class:`NotTraceableError` in one line for a network that cannot be traced, without a C++
    compiler, and where compiling fails.
    """
    inputs = Inputs.of(batch)

    def make() -> tuple[Trace, dict]:
        """The trace, and what a later session needs to know of it."""
        # what traces costs a second that runs without a new program do not wait for
        from farfield.models.compiled.trace import trace

        traced = trace(potential, batch)
        facts = {"outputs": list(traced.names), "max_atoms": traced.max_atoms}
        return traced, facts | {"weights": places_of(potential, traced)}

    runner, said = files_of(potential, inputs).load(make)
    put_in(runner, potential, said["weights"])
    return Program(inputs, tuple(said["outputs"]), said["max_atoms"], runner)


def files_of(potential: Potential, inputs: Inputs) -> KeptFiles:
    """Files of the program of a potential for these inputs."""
    return KeptFiles("potential", shape_of(potential) | {"inputs": repr(inputs)})


def shape_of(potential: Potential) -> dict[str, object]:
    """What decides the operations of a potential: its kind, options and sizes of weights."""
    sizes = {name: list(tensor.shape) for name, tensor in potential.state_dict().items()}
    return {
        "network": f"{type(potential.network).__qualname__} {potential.options!r}",
        "potential": [potential.forces, potential.stress],
        "shapes": sizes,
    }
