"""What the benchmark of the Equiformer runs: clouds of points, both programs, steps under watch.

Both programs get the same tokens and coordinates, find the same nearest neighbours in every call,
and give scalars and vectors.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import pathlib
import time
from collections.abc import Callable

from benchmarks import harness  # before torch: it sets the thread count

import torch  # isort: skip
from torch import Tensor, nn

from benchmarks.installed_equiformer import PACKAGE, public_equiformer
from farfield.models.networks.equiformer import Equiformer

OURS, PAIRWISE = "farfield", "farfield, pairwise kernel"
TOKENS, SPREAD = 24, 3.0  # kinds of points; standard deviation of a coordinate
BYTES = 4  # of a number in float32
DOING = ("building", "stepping")  # what a watched program does, by the number of its reports


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


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a step in a process of its own.

    said: "done", or the limit that ended it and what it was doing then. build_s, step_s: CPU
    seconds. peak_mb: largest resident set of the process, loaded libraries included.
    """

    said: str
    build_s: float | None
    step_s: float | None
    peak_mb: float


def watched_step(
    build: Callable[..., harness.Program],
    arguments: tuple,
    step: str,
    limit_mb: float,
    limit_s: float,
) -> Outcome:
    """Run one step in a fresh process that is ended beyond a limit of memory or of wall time.

    build: a function at the top of a module. arguments: its arguments, picklable. step: "forward"
    or "train".
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_report, args=(theirs, build, arguments, step))
    process.start()
    theirs.close()
    end = time.perf_counter() + limit_s
    told, peak, said = [], 0.0, "done"

    try:
        while len(told) < 2:
            peak = max(peak, _peak_mb(process.pid))
            if peak > limit_mb:
                said = f"more than {limit_mb / 1e3:g} GB, {DOING[len(told)]}"
                break
            if time.perf_counter() > end:
                said = f"longer than {limit_s:g} s, {DOING[len(told)]}"
                break
            if ours.poll(0.02):
                told.append(ours.recv())
    except EOFError:
        said = f"failed, {DOING[len(told)]}"
    finally:
        process.kill()
        process.join()
        ours.close()
    seconds = [*told, None, None]
    return Outcome(said, seconds[0], seconds[1], peak)


def _report(pipe, build: Callable[..., harness.Program], arguments: tuple, step: str) -> None:
    """CPU seconds of building, then those of the step; waits to be ended, so that memory shows."""
    torch.set_num_threads(1)
    start = time.process_time()
    program = build(*arguments)
    pipe.send(time.process_time() - start)
    pipe.send(harness.seconds(getattr(program, step)))
    time.sleep(60)


def _peak_mb(process: int) -> float:
    """Largest resident set of a process so far, MB; 0 once it has ended."""
    try:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(found[0].split()[1]) * 1024 / 1e6 if found else 0.0
