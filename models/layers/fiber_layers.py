"""Layers of one node for features with a number of channels for each degree (``so3/fibers.py``).

    linear        out_l = x_l W_l
    norm          out_l = gamma_l x_l / sqrt(mean_c sum_m x_lmc^2 + epsilon)
    gate          SiLU of the scalars, sigmoid gates on all higher degrees, from further scalars
    feed-forward  norm, linear to four times the channels, gate, linear

Source of gate and feed-forward: Liao & Smidt 2023, Equiformer (arXiv:2206.11990), sec. 4. Cost:
nodes x sum_l (2l + 1) C_l C'_l multiply-adds for a linear map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from farfield.models.layers.norms import SCALAR_EPSILON
from farfield.models.so3.fibers import Fiber, join_fiber, split_fiber, widened

HIDDEN_MULTIPLE = 4  # hidden channels of a feed-forward network for each channel


class FiberLinear(nn.Module):
    """Channel mixing with one matrix for each degree; degrees that do not come in leave as zeros.

    (nodes, width of fiber_in) -> (nodes, width of fiber_out). Weights start at variance
    1 / channels in, or with ``zero`` at zero.
    """

    def __init__(self, fiber_in: Fiber, fiber_out: Fiber, zero: bool = False):
        super().__init__()
        self.fiber_in, self.fiber_out = fiber_in, fiber_out
        scale = [0.0 if zero else channels**-0.5 for channels in fiber_in]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(channels_in, channels_out) * scale[l])
            for l, (channels_in, channels_out) in enumerate(
                zip(fiber_in, fiber_out, strict=False)  # degrees of both
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return join_fiber(self.parts(split_fiber(x, self.fiber_in)))

    def parts(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The same on the parts (nodes, 2l + 1, C_l) of all degrees."""
        mixed = [part @ weight for part, weight in zip(parts, self.weights, strict=False)]
        for l in range(len(mixed), len(self.fiber_out)):
            mixed.append(parts[0].new_zeros(len(parts[0]), 2 * l + 1, self.fiber_out[l]))
        return mixed


class FiberNorm(nn.Module):
    """Root mean square norm of each degree with a learned scale for each channel, no shift.

    epsilon: smoothing of degrees above 0. In a symmetric structure their features vanish, and what
    is left is rounding: a norm makes it 1 / sqrt(epsilon) times larger, every time. Scalars are
    smoothed by at most ``SCALAR_EPSILON``.
    """

    def __init__(self, fiber: Fiber, epsilon: float):
        super().__init__()
        self.fiber, self.epsilon = fiber, epsilon
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(channels)) for channels in fiber)

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, width) -> (nodes, width)."""
        normed = []
        for l, part in enumerate(split_fiber(x, self.fiber)):
            size = part.square().sum((1, 2), keepdim=True) / part.shape[2]
            epsilon = self.epsilon if l else min(self.epsilon, SCALAR_EPSILON)
            normed.append(part * ((size + epsilon).rsqrt() * self.scales[l]))
        return join_fiber(normed)


class FiberGate(nn.Module):
    """SiLU on scalars; a sigmoid gate of its own for each channel of the higher degrees.

    ``fiber_in``, what comes in, has sum_(l > 0) C_l more scalars than ``fiber``, what goes out:
    the gates, which stand first.
    """

    def __init__(self, fiber: Fiber):
        super().__init__()
        self.fiber = fiber
        self.fiber_in = widened(fiber, sum(fiber[1:]))

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, width of fiber_in) -> (nodes, width of fiber)."""
        return join_fiber(self.parts(split_fiber(x, self.fiber_in)))

    def parts(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The same on the parts (nodes, 2l + 1, C_l) of all degrees."""
        first, *higher = parts
        *gates, scalars = first.split([*self.fiber[1:], self.fiber[0]], -1)
        gated = [part * gate.sigmoid() for part, gate in zip(higher, gates, strict=True)]
        return [nn.functional.silu(scalars), *gated]


class FiberFeedForward(nn.Module):
    """Norm, linear to four times the channels, gate, linear.

    fiber_out: channels that go out (None: those that come in). include_norms: the lengths of all
    channels of higher degrees join the scalars that go into the first linear map. zero: the last
    map starts at zero. ``forward(x (nodes, width)) -> (nodes, width of fiber_out)``.
    """

    def __init__(
        self,
        fiber: Fiber,
        fiber_out: Fiber | None = None,
        *,
        include_norms: bool = False,
        zero: bool = True,
        epsilon: float = 1e-4,
    ):
        super().__init__()
        self.fiber, self.include_norms, self.epsilon = fiber, include_norms, epsilon
        hidden = tuple(HIDDEN_MULTIPLE * channels for channels in fiber)
        read = widened(fiber, sum(fiber[1:])) if include_norms else fiber

        self.norm = FiberNorm(fiber, epsilon)
        self.gate = FiberGate(hidden)
        self.expand = FiberLinear(read, self.gate.fiber_in)
        self.reduce = FiberLinear(hidden, fiber_out or fiber, zero=zero)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        if self.include_norms:
            scalars, *higher = split_fiber(x, self.fiber)
            x = join_fiber([torch.cat([scalars, *map(self._lengths, higher)], -1), *higher])
        return self.reduce(self.gate(self.expand(x)))

    def _lengths(self, part: Tensor) -> Tensor:
        """Lengths of the channels of one degree (nodes, 2l + 1, C) -> (nodes, 1, C).

        Softened more than the norm: the norm has made small features a hundred times larger.
        """
        return soft_length(part, 1, min(self.epsilon, SCALAR_EPSILON) ** 0.25).unsqueeze(1)


def soft_length(x: Tensor, dim: int, softening: float) -> Tensor:
    """``sqrt(sum x^2 + s^2) - s`` over ``dim``: a length with all derivatives at zero."""
    return soft_root(x.square().sum(dim), softening)


def soft_root(square: Tensor, softening: float) -> Tensor:
    """``sqrt(x + s^2) - s``: the root with all derivatives at zero."""
    return (square + softening**2).sqrt() - softening
