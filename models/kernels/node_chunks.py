"""Batches cut into chunks of nodes, sums over chunks, and temporaries that all chunks share.

A large temporary tensor leaves the processor's cache. Work over the nodes of a batch therefore goes
chunk by chunk: consecutive graphs of one size share a chunk, a large graph is cut into several.

Cost: cutting is linear in the graphs of a batch and cached by their sizes.
"""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

VALUES_PER_TEMPORARY = 2**22  # largest temporary tensor of a chunk
MAX_ATOMS_PER_CHUNK = 512
CHUNKS_PER_FLOAT32_SUM = 4  # more would lose digits
Sizes = tuple[int, ...]  # nodes of each graph


class GraphRun(NamedTuple):
    """Consecutive graphs of one size, or one large graph.

    graphs: their range in the batch. chunks: ranges of nodes; together they hold all nodes of all
    these graphs. There is more than one chunk only where a single graph is cut.
    """

    graphs: slice
    chunks: tuple[slice, ...]

    @property
    def count(self) -> int:
        """Number of graphs."""
        return self.graphs.stop - self.graphs.start


@functools.lru_cache(maxsize=256)
def graph_runs(sizes: Sizes, most: int) -> tuple[GraphRun, ...]:
    """Cut a batch into runs whose chunks have at most ``most`` nodes.

    sizes: nodes of each graph; graphs without nodes are left out.
    """
    runs, node, graph = [], 0, 0
    while graph < len(sizes):
        size, end = sizes[graph], graph + 1

        # join the graphs that follow while they have the same size and fit one chunk
        while end < len(sizes) and sizes[end] == size and (end + 1 - graph) * size <= most:
            end += 1
        stop = node + (end - graph) * size

        if end > graph + 1 or size <= most:
            chunks = (slice(node, stop),)
        else:
            # one graph that is too large: chunks of nearly equal length
            count = -(-size // most)
            cuts = [node + size * k // count for k in range(count + 1)]
            chunks = tuple(slice(low, high) for low, high in pairwise(cuts))

        if size:
            runs.append(GraphRun(slice(graph, end), chunks))
        node, graph = stop, end
    return tuple(runs)


class ChunkSum:
    """Sum over chunks that keeps its digits.

    Up to ``CHUNKS_PER_FLOAT32_SUM`` parts are added in their own type; these sums are added in
    float64.
    """

    def __init__(self):
        self.recent, self.count, self.total = None, 0, None

    def add(self, part: Tensor) -> None:
        """Add a tensor, which is overwritten."""
        self.recent = part if self.recent is None else self.recent.add_(part)
        self._counted()

    def add_product(self, left: Tensor, right: Tensor) -> None:
        """Add ``left @ right``, both (batch, ., .), without making the product first."""
        self.recent = left @ right if self.recent is None else self.recent.baddbmm_(left, right)
        self._counted()

    def _counted(self) -> None:
        """Move the recent sum into the float64 total when it has enough parts."""
        self.count += 1
        if self.count == CHUNKS_PER_FLOAT32_SUM:
            self.total, self.recent, self.count = self.result(torch.float64), None, 0

    def result(self, dtype: torch.dtype) -> Tensor:
        """The sum of all parts so far, in ``dtype``."""
        if self.total is None:
            return self.recent.to(dtype)
        return (self.total if self.recent is None else self.total + self.recent).to(dtype)


class Scratch:
    """Temporaries that every chunk uses again: new memory costs more than the arithmetic in it.

    like: a tensor whose type and device the temporaries have.
    """

    def __init__(self, like: Tensor):
        self.like, self.flat = like, {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """The temporary ``name`` in this shape; it still holds what the last chunk left there."""
        size = math.prod(shape)
        if name not in self.flat or self.flat[name].numel() < size:
            self.flat[name] = self.like.new_empty(size)
        return self.flat[name][:size].view(shape)
