"""What the benchmark of the Equiformer runs: clouds of points and both programs.

Both programs get the same tokens and coordinates, find the same nearest neighbours in every call,
and give scalars and vectors.
"""

from __future__ import annotations

import dataclasses

from benchmarks import harness  # before torch: it sets the thread count

import torch  # isort: skip
from torch import Tensor, nn

from benchmarks.installed_equiformer import PACKAGE, public_equiformer
from farfield.models.networks.equiformer import Equiformer

OURS, PAIRWISE = "farfield", "farfield, pairwise kernel"
TOKENS, SPREAD = 24, 3.0  # kinds of points; standard deviation of a coordinate
BYTES = 4  # of a number in float32


@dataclasses.dataclass(frozen=True)
class Clouds:
    """Random points and the size of the network that reads them; all else by default.

    dim: channels of each degree. neighbours: nearest points that a point attends to.
    """

    structures: int
    points: int
    dim: tuple[int, ...]
    depth: int
    neighbours: int = 16
    reversible: bool = False

    def describe(self) -> str:
        """The counts that a reader needs to repeat it."""
        return (
            f"{self.structures} structures of {self.points} points, {self.neighbours} neighbours, "
            f"dim {self.dim}, depth {self.depth}"
        )

    def inputs(self) -> tuple[Tensor, Tensor]:
        """Tokens (structures, points) and coordinates (structures, points, 3)."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.structures, self.points)
        tokens = torch.randint(0, TOKENS, shape, generator=generator)
        return tokens, SPREAD * torch.randn(*shape, 3, generator=generator)

    def options(self) -> dict:
        """Options that both programs take."""
        return {
            "num_tokens": TOKENS,
            "dim": self.dim,
            "num_degrees": len(self.dim),
            "depth": self.depth,
            "num_neighbors": self.neighbours,
            "reversible": self.reversible,
        }


def _network(name: str, clouds: Clouds) -> nn.Module:
    torch.manual_seed(0)
    if name == PACKAGE:
        return public_equiformer(**clouds.options())
    kernel = {"edge_kernel": "pairwise"} if name == PAIRWISE else {}
    return Equiformer(**clouds.options(), **kernel)


def clouds_program(name: str, clouds: Clouds) -> harness.Program:
    """A program on its clouds; its outputs are scalars and vectors, all that both return.

    name: OURS, PAIRWISE (our layers with the kernel of the public program) or the public program.
    """
    network, inputs = _network(name, clouds), clouds.inputs()
    return harness.Program(name, network, lambda: tuple(network(*inputs)[:2]))


def warm_program(clouds: Clouds) -> harness.Program:
    """Our program after a step on few points: libraries are loaded, no gradients are held."""
    few = dataclasses.replace(clouds, structures=1, points=clouds.neighbours + 2)
    program, inputs = clouds_program(OURS, clouds), few.inputs()
    harness.Program(OURS, program.module, lambda: tuple(program.module(*inputs)[:2])).train()
    program.module.zero_grad(set_to_none=True)
    return program
