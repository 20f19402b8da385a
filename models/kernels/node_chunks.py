"""Batches cut into pieces: ranges of nodes, sums over them, and temporaries that all of them
share.
"""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

BUDGET = 2**22  # numbers in a temporary of one piece
MOST_ATOMS = 512  # atoms in one piece
TOGETHER = 4  # pieces in one float32 sum
Sizes = tuple[int, ...]  # nodes of each graph


class Run(NamedTuple):
    """Consecutive graphs of one size, or one graph that is cut: ``pieces`` are ranges of nodes, the
    same ``graphs`` in all of them.
    """

    graphs: slice
    pieces: tuple[slice, ...]

    @property
    def count(self) -> int:
        return self.graphs.stop - self.graphs.start


@functools.lru_cache(maxsize=256)
def graph_runs(sizes: tuple[int, ...], most: int) -> tuple[Run, ...]:
    """Cut a batch of graphs with ``sizes`` nodes into runs of at most ``most`` nodes a piece; empty
    graphs are left out.
    """
    runs, node, graph = [], 0, 0
    while graph < len(sizes):
        size, end = sizes[graph], graph + 1
        while end < len(sizes) and sizes[end] == size and (end + 1 - graph) * size <= most:
            end += 1
        stop = node + (end - graph) * size
        if end > graph + 1 or size <= most:
            pieces = (slice(node, stop),)
        else:
            count = -(-size // most)
            cuts = [node + size * k // count for k in range(count + 1)]
            pieces = tuple(slice(low, high) for low, high in pairwise(cuts))
        if size:
            runs.append(Run(slice(graph, end), pieces))
        node, graph = stop, end
    return tuple(runs)


class PieceSum:
    """Sum of parts: up to ``TOGETHER`` in the dtype of the parts, those sums in float64."""

    def __init__(self):
        self.recent, self.count, self.total = None, 0, None

    def add(self, part: Tensor) -> None:
        """Add a tensor that nobody else holds."""
        self.recent = part if self.recent is None else self.recent.add_(part)
        self._counted()

    def add_product(self, left: Tensor, right: Tensor) -> None:
        """Add ``left @ right``, both (batch, ., .), without making it first."""
        self.recent = left @ right if self.recent is None else self.recent.baddbmm_(left, right)
        self._counted()

    def _counted(self) -> None:
        self.count += 1
        if self.count == TOGETHER:
            self.total, self.recent, self.count = self.result(torch.float64), None, 0

    def result(self, dtype: torch.dtype) -> Tensor:
        if self.total is None:
            return self.recent.to(dtype)
        return (self.total if self.recent is None else self.total + self.recent).to(dtype)


class Scratch:
    """Temporaries that are used again in every piece: fresh memory costs more than the arithmetic
    in it.
    """

    def __init__(self, like: Tensor):
        self.like, self.flat = like, {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """The temporary ``name`` in this shape, with whatever was in it."""
        size = math.prod(shape)
        if name not in self.flat or self.flat[name].numel() < size:
            self.flat[name] = self.like.new_empty(size)
        return self.flat[name][:size].view(shape)
