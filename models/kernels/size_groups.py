"""Structures of like size, padded together: no small one pays for the largest of the batch.

A padded tensor of pairs has (graphs, n, n) places with n the largest structure in it. Structures
are taken in the order of their sizes and cut into groups of at most so many places; a structure
that has more stands alone.

Cost: linear in the structures of a batch, and cached by their sizes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

Sizes = tuple[int, ...]  # nodes of each graph


@dataclasses.dataclass(frozen=True)
class SizeGroups:
    """Graphs of a batch in groups of like size; made by :func:`size_groups`.

    groups   for each group the sizes of its graphs, ascending
    order    (nodes,) int64: the nodes, group after group; None where that is how they stand
    """

    groups: tuple[Sizes, ...]
    order: Tensor | None

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Rows of the nodes (nodes, ...) -> those of each group."""
        if self.order is not None:
            rows = rows.index_select(0, self.order.to(rows.device))
        return rows.split([sum(sizes) for sizes in self.groups])

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse of :meth:`split`."""
        rows = torch.cat(list(parts))
        if self.order is None:
            return rows
        return rows.index_select(0, self.order.argsort().to(rows.device))

    @property
    def places(self) -> int:
        """Pairs in all groups, padding included."""
        return sum(len(sizes) * sizes[-1] ** 2 for sizes in self.groups)


@functools.lru_cache(maxsize=256)
def size_groups(sizes: Sizes, most: int) -> SizeGroups:
    """Groups of at most ``most`` pairs, padding included; graphs without nodes are left out."""
    ranks = sorted((graph for graph in range(len(sizes)) if sizes[graph]), key=sizes.__getitem__)

    groups: list[list[int]] = []
    for graph in ranks:
        size = sizes[graph]
        if not groups or (len(groups[-1]) + 1) * size**2 > most:
            groups.append([])
        groups[-1].append(size)

    order = None
    if ranks != sorted(ranks):
        starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
        order = torch.cat([torch.arange(starts[k], starts[k] + sizes[k]) for k in ranks])
    return SizeGroups(tuple(map(tuple, groups)), order)
