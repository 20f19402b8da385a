"""One run of a sampler: what it is asked, which molecules are still in it, and what it found.

Finished molecules leave the batch, so that a step costs only what is left. Cost of the bookkeeping:
linear in the edges of the unfinished molecules, where some have finished.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.choices import check_at_least
from farfield.models.graph_ops import broadcast_nodes, mean_nodes


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How long a sampler runs and what it keeps; ValueError in one line for values out of range.

    max_steps    largest number of steps; None: those of the process
    keep_every   positions after so many steps join the trajectory; None: no trajectory
    generator    of the noise; None: torch's own
    noise        in the place of a generator: called once for a start from noise and once before
                 every step, it gives standard normal values (nodes, 3) for the atoms of all
                 molecules, finished or not
    progress     called after every step with the steps taken and the number of molecules finished
    """

    max_steps: int | None = None
    keep_every: int | None = None
    generator: torch.Generator | None = None
    noise: Callable[[], Tensor] | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self):
        given = [name for name in ("max_steps", "keep_every") if getattr(self, name) is not None]
        check_at_least(self, 1, given)
        if self.generator is not None and self.noise is not None:
            raise ValueError("noise takes the place of a generator; give one of the two")


@dataclasses.dataclass
class SampleResult:
    """What a sampler found.

    Attributes
        batch       the batch with the positions found, all pairs as edges
        steps       (graphs,) int64: steps taken by each molecule
        converged   (graphs,) bool: whether it was finished within the largest number of steps
        trajectory  positions (nodes, 3) at the start, after every k-th step and at the end, or None
    """

    batch: AtomBatch
    steps: Tensor
    converged: Tensor
    trajectory: list[Tensor] | None = None


class SamplingRun:
    """Molecules of a run. Arguments: the batch at its start, times (graphs,) or None, and whether a
    trajectory is kept.

    Attributes
        part   batch of the unfinished molecules, None where all have left
        index  their expected times (graphs of the part,) int64, or None where nothing is known
        nodes  their atoms among those of the whole batch (nodes of the part,)
        finished  number of finished molecules
    """

    def __init__(self, batch: AtomBatch, index: Tensor | None, keep_every: int | None = None):
        self.batch, self.index, self.keep_every = batch, index, keep_every
        self.part: AtomBatch | None = dataclasses.replace(batch, labels={})
        self._positions = batch.positions.clone()
        self._trajectory = [batch.positions] if keep_every else None
        self._step, self._kept_step = 0, 0

        # rows of the part among all
        device = batch.positions.device
        self.nodes = torch.arange(batch.num_nodes, device=device)
        self._graphs = torch.arange(batch.num_graphs, device=device)
        self._steps = torch.zeros_like(self._graphs)
        self._converged = torch.zeros_like(self._graphs, dtype=torch.bool)

        # least time of each molecule of the whole batch, and guesses since then
        self._least = torch.full_like(self._graphs, torch.iinfo(torch.int64).max)
        self._since = torch.zeros_like(self._graphs)

    @property
    def finished(self) -> int:
        """Number of finished molecules."""
        return int(self._converged.sum())

    def guesses_since_least(self, index: Tensor) -> Tensor:
        """Guesses in a row (graphs of the part,) int64 that were no new least; 0 for a new one.

        index (graphs of the part,) int64: the next guess, given once in a step.
        """
        rows = self._graphs
        falls = index < self._least[rows]
        self._least[rows] = torch.minimum(index, self._least[rows])
        self._since[rows] = torch.where(falls, 0, self._since[rows] + 1)
        return self._since[rows]

    def advance(self, positions: Tensor, index: Tensor, finished: Tensor) -> None:
        """A step of the part to ``positions``, taken at times ``index``.

        finished (graphs of the part,) bool: molecules that leave with this step. A molecule whose
        positions are not finite keeps those before the step and leaves, but is not finished.
        """
        part = self.part
        lost = mean_nodes(part.graph, (~torch.isfinite(positions).all(1)).double()) > 0
        lost_nodes = broadcast_nodes(part.graph, lost).unsqueeze(1)
        positions = torch.where(lost_nodes, part.positions, positions)

        self._positions[self.nodes] = positions
        self._steps[self._graphs] += 1
        self._converged[self._graphs] = finished & ~lost
        self.part, self.index = dataclasses.replace(part, positions=positions), index - 1
        self._keep_only(~(finished | lost))

        self._step += 1
        if self.keep_every and self._step % self.keep_every == 0:
            self._keep_positions()

    def _keep_only(self, stay: Tensor) -> None:
        """Go on with the molecules ``stay`` (graphs of the part,) bool."""
        if bool(stay.all()):
            return
        self.nodes = self.nodes[broadcast_nodes(self.part.graph, stay)]
        self._graphs, self.index = self._graphs[stay], self.index[stay]
        self.part = self.part.select(stay) if len(self._graphs) else None

    def _keep_positions(self) -> None:
        self._trajectory.append(self._positions.clone())
        self._kept_step = self._step

    def result(self) -> SampleResult:
        """What was found so far."""
        if self.keep_every and self._kept_step < self._step:
            self._keep_positions()
        found = dataclasses.replace(self.batch, positions=self._positions)
        return SampleResult(found, self._steps, self._converged, self._trajectory)
