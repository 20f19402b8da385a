"""Bonds of named shapes, and their graph distances by a search point by point."""

from __future__ import annotations

import numpy as np
import torch


def distances_by_search(pairs: set[tuple[int, int]], nodes: int, most: int) -> dict:
    """(dst, src) -> number of bonds on the shortest path, up to ``most``, by breadth-first search.

    One point, one neighbour at a time.
    """
    near = {i: {j for j, k in pairs | {(b, a) for a, b in pairs} if k == i} for i in range(nodes)}
    found = {}
    for start in range(nodes):
        seen, level = {start}, {start}
        for distance in range(1, most + 1):
            level = {other for point in level for other in near[point]} - seen
            found |= {(start, other): distance for other in level}
            seen |= level
    return found


def shape_bonds(shape: str, nodes: int) -> set[tuple[int, int]]:
    """Bonds of a named shape, each once."""
    if shape == "random":
        generator = np.random.default_rng(nodes)
        return {tuple(sorted(pair)) for pair in generator.integers(nodes, size=(nodes, 2)).tolist()}
    return {
        "ring": {(i, (i + 1) % nodes) for i in range(nodes)},
        "chain": {(i, i + 1) for i in range(nodes - 1)},
        "star": {(0, i) for i in range(1, nodes)},
        "complete": {(i, j) for i in range(nodes) for j in range(i)},
        "none": set(),
    }[shape]


def as_tensors(pairs) -> tuple[torch.Tensor, torch.Tensor]:
    src, dst = torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2).T
    return src, dst
