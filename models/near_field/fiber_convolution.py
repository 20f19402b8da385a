"""Convolution over edges with a number of channels for each degree, in the frame of the edge.

    m_ij = D_ij^T K_ij D_ij (S x_j + T x_i),        D_ij into the frame whose polar axis is the edge

with linear maps S and T of sender and receiver. In the frame a kernel mixes only components of
equal |m| (Passaro & Zitnick 2023), see ``frame_convolution.py``:

    y_(l,+m) = sum_l' A_m x_(l',+m) + B_m x_(l',-m),
    y_(l,-m) = sum_l' A_m x_(l',-m) - B_m x_(l',+m).

B, the kernels of odd parity, are there with ``handed`` only: they make tensors of pseudo-tensors,
so a network with them turns with its input but tells mirror images apart. Two kinds of kernels:

    factorised   A_m[l' c', l c] = R_m[l' c'](edge) W_m[l' c', l c]: all pairs of degrees and
                 channels, radial functions for inputs only
    pairwise     A_m[l' c', l c] = a_m[l', l] R[l' c', l c](edge), each output channel from one
                 input degree: the depthwise product of the public Equiformer

Cost per edge: factorised (L + 1)(L + 2) / 2 C radial values and sum_m (2 - [m=0]) (L + 1 - m)^2 C^2
multiply-adds, O(L^3); pairwise (L + 1)^2 C C' / (L + 1) radial values, which is what it costs.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from farfield.models.choices import Registry
from farfield.models.graph_ops import GraphIndex, gather_dst, gather_src
from farfield.models.kernels.edge_slots import EdgeSlots
from farfield.models.layers.fiber_layers import FiberLinear
from farfield.models.layers.layer_norm import LayerNorm
from farfield.models.so3.fibers import Fiber, split_fiber

# name -> (fiber_in, fiber_out, handed, widths of what is read of an edge) -> convolution
EDGE_KERNELS: Registry[type[FiberConvolution]] = Registry("edge kernel")

Mixing = Sequence[Sequence[Tensor]]  # [m][l - m]: (inputs of order m, channels of degree l)

PUBLIC_NORM_EPSILON = 1e-5  # of the layer norms of the public radial networks


@dataclasses.dataclass
class PointGeometry:
    """What all layers of an Equiformer share about the edges of a batch.

    Attributes
        graph       topology
        slots       the edges grouped by receiver
        frames      Wigner matrices into the frame of each edge, (edges, 2l + 1, 2l + 1) for
                    l = 1 .. L, rows m = 0, -1, 1, -2, 2, ...
        envelope    (edges, 1)
        invariants  (edges, k): radial basis of the length and invariant edge features
        hidden      (edges, radial width) from the radial trunk, or None: no layer reads it
        positions   (nodes, 3), for a far field
        cell, periodic  (graphs, 3, 3) and (graphs, 3) of periodic structures, or None
    """

    graph: GraphIndex
    slots: EdgeSlots
    frames: tuple[Tensor, ...]
    envelope: Tensor
    invariants: Tensor
    hidden: Tensor | None
    positions: Tensor
    cell: Tensor | None = None
    periodic: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class RadialSizes:
    """Widths of what a kernel reads of an edge.

    invariants: of ``PointGeometry.invariants``. hidden: of the radial trunk, and inside the radial
    networks of pairwise kernels.
    """

    invariants: int
    hidden: int


class FiberConvolution(nn.Module, abc.ABC):
    """Messages of all edges from features (nodes, width of fiber_in).

    ``forward(x, geometry)`` gives a part (edges, 2l + 1, C_l) for each degree of fiber_out.
    """

    def __init__(self, fiber_in: Fiber, fiber_out: Fiber):
        super().__init__()
        self.fiber_in, self.fiber_out = fiber_in, fiber_out
        self.sender = FiberLinear(fiber_in, fiber_in)
        self.receiver = FiberLinear(fiber_in, fiber_in)

    def framed(self, x: Tensor, geometry: PointGeometry) -> list[Tensor]:
        """Features of both ends in the frame of the edge, (edges, 2l + 1, C_l) for each degree."""
        graph = geometry.graph
        ends = gather_src(graph, self.sender(x)) + gather_dst(graph, self.receiver(x))
        scalars, *higher = split_fiber(ends, self.fiber_in)
        turned = zip(geometry.frames, higher, strict=False)
        return [scalars, *(torch.bmm(turn, part) for turn, part in turned)]

    def turned_back(self, framed: list[Tensor], geometry: PointGeometry) -> list[Tensor]:
        """Parts in the frame -> parts in space.

        A degree above those that came in has only the rows |m| <= L_in, the first ones.
        """
        scalars, *higher = framed
        return [
            scalars,
            *(
                torch.bmm(turn[:, : part.shape[1]].transpose(1, 2), part)
                for turn, part in zip(geometry.frames, higher, strict=False)
            ),
        ]

    @abc.abstractmethod
    def forward(self, x: Tensor, geometry: PointGeometry) -> list[Tensor]: ...


@EDGE_KERNELS.register("factorised")
class FactorisedConvolution(FiberConvolution):
    """One product for each order |m| on all degrees and channels, radial functions on its inputs.

    Reads ``geometry.hidden``, the trunk that all layers share. The inputs are much narrower than
    the messages: who sums messages with weights may sum the inputs and mix afterwards
    (``frame_sums.py``).
    """

    def __init__(self, fiber_in: Fiber, fiber_out: Fiber, handed: bool, radial: RadialSizes):
        super().__init__(fiber_in, fiber_out)
        self.handed = handed
        self.orders = min(len(fiber_in), len(fiber_out))
        self.widths = [sum(fiber_in[m:]) for m in range(self.orders)]
        self.radial = nn.Linear(radial.hidden, sum(self.widths))
        nn.init.ones_(self.radial.bias)

        # (inputs of order m, channels out of all degrees l >= m)
        self.mixing = nn.ParameterList()
        for m, width in enumerate(self.widths):
            inputs = 2 * width if handed and m else width
            outputs = sum(fiber_out[m:])
            self.mixing.append(nn.Parameter(torch.randn(inputs, outputs) / math.sqrt(inputs)))

    def inputs(self, x: Tensor, geometry: PointGeometry) -> list[Tensor]:
        """What order m mixes, for each m: rows -m, m of all degrees, (edges, 1 or 2, inputs)."""
        radial = self.radial(geometry.hidden).split(self.widths, -1)
        orders = [
            part.split([1] + [2] * (part.shape[1] // 2), 1) for part in self.framed(x, geometry)
        ]
        found = []
        for m in range(self.orders):
            part = torch.cat([rows[m] for rows in orders[m:]], -1) * radial[m].unsqueeze(1)
            if m and self.handed:
                minus, plus = part.unbind(1)
                part = torch.cat([part, torch.stack([-plus, minus], 1)], -1)
            found.append(part)
        return found

    def matrices(self, m: int) -> tuple[Tensor, ...]:
        """Mixing of order m by output degree l = m, m + 1, ...: (inputs, C_l)."""
        return self.mixing[m].split(self.fiber_out[m:], -1)

    def forward(self, x: Tensor, geometry: PointGeometry) -> list[Tensor]:
        """Messages, a part (edges, 2l + 1, C_l) for each degree."""
        by_degree: list[list[Tensor]] = [[] for _ in self.fiber_out]
        for m, part in enumerate(self.inputs(x, geometry)):
            mixed = (part @ self.mixing[m]).split(self.fiber_out[m:], -1)
            for l, rows in enumerate(mixed, m):
                by_degree[l].append(rows)
        return self.turned_back([torch.cat(rows, 1) for rows in by_degree], geometry)


@EDGE_KERNELS.register("pairwise")
class PairwiseConvolution(FiberConvolution):
    """Radial weights for each pair of channels, depthwise in degrees, then a linear map.

    The channels of every output degree are divided as evenly as possible over the input degrees.
    Reads ``geometry.invariants`` through a network of its own for each pair of degrees.
    """

    def __init__(self, fiber_in: Fiber, fiber_out: Fiber, handed: bool, radial: RadialSizes):
        super().__init__(fiber_in, fiber_out)

        # [output degree][input degree]
        self.pairs = nn.ModuleList(
            nn.ModuleList(
                DegreePair(source, target, channels_in, channels_out, handed, radial)
                for source, (channels_in, channels_out) in enumerate(
                    zip(fiber_in, _shares(channels, len(fiber_in)), strict=True)
                )
            )
            for target, channels in enumerate(fiber_out)
        )

        # mixes the groups of every output degree
        self.out = nn.ParameterList(
            nn.Parameter(torch.randn(channels, channels) / math.sqrt(channels))
            for channels in fiber_out
        )

    def forward(self, x: Tensor, geometry: PointGeometry) -> list[Tensor]:
        """Messages, a part (edges, 2l + 1, C_l) for each degree."""
        framed, mixed = self.framed(x, geometry), []
        for target, (pairs, weight) in enumerate(zip(self.pairs, self.out, strict=True)):
            order = min(target, len(framed) - 1)
            groups = [
                pair(part, geometry.invariants, order)
                for pair, part in zip(pairs, framed, strict=True)
            ]
            mixed.append(torch.cat(groups, -1) @ weight)
        return self.turned_back(mixed, geometry)


def _shares(channels: int, groups: int) -> list[int]:
    """Channels divided as evenly as possible, larger groups first."""
    small, larger = divmod(channels, groups)
    return [small + 1] * larger + [small] * (groups - larger)


class DegreePair(nn.Module):
    """From one input degree to some channels of one output degree.

    ``y_m = R (a_|m| x_m + b_m x_-m)``, R (C', C) from a radial network of the edge, a and b learned
    (b: with ``handed``).
    """

    def __init__(
        self,
        source: int,
        target: int,
        channels_in: int,
        channels_out: int,
        handed: bool,
        sizes: RadialSizes,
    ):
        super().__init__()
        self.order = min(source, target)
        self.shape = (channels_out, channels_in)
        hidden = sizes.hidden

        # of the public package, layer by layer
        self.radial = nn.Sequential(
            nn.Linear(sizes.invariants, hidden),
            nn.SiLU(),
            LayerNorm(hidden, PUBLIC_NORM_EPSILON),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            LayerNorm(hidden, PUBLIC_NORM_EPSILON),
            nn.Linear(hidden, channels_in * channels_out),
        )

        # a and b of every order
        self.even = nn.Parameter(torch.ones(self.order + 1))
        self.odd = None
        if handed and self.order:
            self.odd = nn.Parameter(torch.ones(self.order))

    def forward(self, part: Tensor, invariants: Tensor, order: int) -> Tensor:
        """Part (edges, 2l + 1, C) -> (edges, 2 order + 1, C'), zero beyond |m| = min(l, l')."""
        m = self.order
        first, pairs = part[:, :1], part[:, 1 : 2 * m + 1].unflatten(1, (m, 2))
        turned = pairs * self.even[1:].view(m, 1, 1)
        if self.odd is not None:
            minus, plus = pairs.unbind(2)
            turned = turned + torch.stack([-plus, minus], 2) * self.odd.view(m, 1, 1)
        central = torch.cat([first * self.even[0], turned.flatten(1, 2)], 1)

        weight = self.radial(invariants).unflatten(-1, self.shape)
        mixed = torch.bmm(central, weight.transpose(1, 2))
        return nn.functional.pad(mixed, (0, 0, 0, 2 * (order - m)))
