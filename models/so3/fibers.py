"""Features with a number of channels of its own for each degree: one tensor (nodes, width).

A fiber lists the channels C_0 .. C_L of degrees 0 .. L. Degree l takes (2l + 1) C_l values, laid
out (2l + 1, C_l) in e3nn's order, one degree after the other:

    x = [ x_0 (1, C_0) | x_1 (3, C_1) | x_2 (5, C_2) | ... ],     width = sum_l (2l + 1) C_l

With equal channels C this is the layout (nodes, (L + 1)^2, C) of ``irreps.py``, flattened. One
tensor instead of one for each degree makes every residual, gather and sum a single operation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Fiber = tuple[int, ...]


def degree_widths(fiber: Fiber) -> list[int]:
    """Values of each degree, (2l + 1) C_l."""
    return [(2 * l + 1) * channels for l, channels in enumerate(fiber)]


def fiber_width(fiber: Fiber) -> int:
    """Values of all degrees."""
    return sum(degree_widths(fiber))


def split_fiber(x: Tensor, fiber: Fiber) -> tuple[Tensor, ...]:
    """Features (nodes, width) by degree: views (nodes, 2l + 1, C_l)."""
    parts = x.split(degree_widths(fiber), -1)
    return tuple(
        part.unflatten(-1, (2 * l + 1, channels))
        for l, (part, channels) in enumerate(zip(parts, fiber, strict=True))
    )


def join_fiber(parts: Sequence[Tensor]) -> Tensor:
    """Parts (nodes, 2l + 1, C_l) of degrees 0 .. L -> features (nodes, width)."""
    return torch.cat([part.flatten(1) for part in parts], -1)


def widened(fiber: Fiber, scalars: int) -> Fiber:
    """The fiber with further channels of degree 0."""
    return (fiber[0] + scalars, *fiber[1:])
