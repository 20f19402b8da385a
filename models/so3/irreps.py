"""Feature layout: one tensor (nodes, (lmax + 1)^2, channels).

Degree l has the rows ``l^2 .. (l + 1)^2 - 1``, in the order of e3nn: real harmonics with polar axis
y, m = -l .. l. So l = 1 is (x, y, z), and vectors need no reordering. Parity is the true O(3)
parity (-1)^l of each degree; *pseudo* channels carry the opposite parity (-1)^(l + 1). They stand
behind the true ones on the channel axis, and a layer never mixes the two kinds except through a
kernel of odd parity.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def table(function):
    """Decorator that caches a function which makes small constant tensors.

    They are ordinary tensors even if the first call comes in inference mode.
    """
    return functools.cache(torch.inference_mode(False)(function))


def num_rows(lmax: int) -> int:
    """Number of components of all degrees 0 .. lmax."""
    return (lmax + 1) ** 2


def degree_slice(l: int) -> slice:
    """Rows of degree l."""
    return slice(l * l, (l + 1) ** 2)


def split_degrees(x: Tensor) -> tuple[Tensor, ...]:
    """Features (nodes, (lmax + 1)^2, channels) by degree: views (nodes, 2l + 1, channels).

    The gradient is one concatenation.
    """
    lmax = round(x.shape[1] ** 0.5) - 1
    return x.split([2 * l + 1 for l in range(lmax + 1)], 1)


@table
def degree_of_row(lmax: int) -> Tensor:
    """Degree of each row: ((lmax + 1)^2,) int64, e.g. [0, 1, 1, 1] for lmax = 1."""
    degrees = torch.arange(lmax + 1)
    return torch.repeat_interleave(degrees, 2 * degrees + 1)


@table
def rows_by_order(lmax: int) -> Tensor:
    """Permutation of the rows that puts equal |m| together: ((lmax + 1)^2,) int64.

    First m = 0 of l = 0 .. lmax, then for each m = 1 .. lmax the rows +m of l = m .. lmax and the
    rows -m of l = m .. lmax.
    """
    rows = [l * l + l for l in range(lmax + 1)]
    for m in range(1, lmax + 1):
        rows += [l * l + l + m for l in range(m, lmax + 1)]
        rows += [l * l + l - m for l in range(m, lmax + 1)]
    return torch.tensor(rows)


def channel_parity(channels: int, pseudo: int) -> Tensor:
    """Kind of each channel (channels,) bool: True for the last ``pseudo`` ones, pseudo tensors.

    Raises ValueError unless 0 <= pseudo < channels.
    """
    if not 0 <= pseudo < channels:
        raise ValueError(
            f"pseudo channels must be in 0 .. {channels - 1} (of {channels} channels), got {pseudo}"
        )
    return torch.arange(channels) >= channels - pseudo
