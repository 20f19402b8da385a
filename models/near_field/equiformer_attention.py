"""Attention of the Equiformer: every degree has an attention map of its own.

    out_i,l = Lin( g_i,hl [ sum_j a_ij,hl v_ij,l + a_ii,hl v_ii,l ] )

with values v from one convolution over edges (``fiber_convolution.py``), weights a normalised over
the neighbours and, with ``attend_self``, the node itself, and gates g = sigmoid(Lin(scalars)) for
each head of each degree. Two logits:

    distance   - d^(-1/2) sum_c | q_i,lc - k_ij,lc |      (one distance over c for scalars);
               keys come with the values out of one convolution
    mlp        d^(-1/2) Lin(act(scalars of the message))  (Liao & Smidt 2023, eq. 4)

The envelope u is a factor of every exponential of the softmax, so a neighbour fades out at the
cutoff; without the node itself in the softmax it is one more factor of the weight. Distances are
softened, ``sqrt(x^2 + s^2) - s``, so that all derivatives exist. Scalars may further hear the whole
structure through global heads (``layers/global_attention.py``) or a far field, whose channels stand
next to those of the heads.

Cost: the convolution; linear in edges.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from farfield.models.choices import Registry
from farfield.models.far_field.attention import FarFieldAttention, FarFieldOptions
from farfield.models.graph_ops import (
    GraphIndex,
    edge_softmax,
    gather_dst,
    incoming_max,
    sum_edges,
)
from farfield.models.layers.fiber_layers import FiberGate, FiberLinear, FiberNorm, soft_root
from farfield.models.layers.global_attention import TaylorAttention
from farfield.models.near_field.fiber_convolution import (
    EDGE_KERNELS,
    FactorisedConvolution,
    PointGeometry,
    RadialSizes,
)
from farfield.models.near_field.frame_sums import squared_distances, weighted_messages
from farfield.models.so3.fibers import Fiber, join_fiber, split_fiber, widened

DISTANCE_EPSILON = 1e-2  # largest smoothing of squared distances of queries and keys

# name -> (values, slope far below zero) -> values
ACTIVATIONS: Registry[Callable[[Tensor, float], Tensor]] = Registry("attention activation")


@ACTIVATIONS.register("smooth")
def smooth_leaky(x: Tensor, slope: float) -> Tensor:
    """``slope x + (1 - slope) SiLU(x)``: all derivatives."""
    return slope * x + (1 - slope) * nn.functional.silu(x)


@ACTIVATIONS.register("leaky_relu")
def sharp_leaky(x: Tensor, slope: float) -> Tensor:
    """Leaky ReLU, as published: forces jump where a value crosses zero."""
    return nn.functional.leaky_relu(x, slope)


@dataclasses.dataclass(frozen=True)
class HeadSizes:
    """Heads of each degree, their widths, and what they share.

    heads, widths: one for each degree. single_headed: keys and values have one head that all
    queries share. attend_self: the node itself is a key and a value. gated: a gate for each head.
    """

    heads: tuple[int, ...]
    widths: tuple[int, ...]
    single_headed: bool = False
    attend_self: bool = True
    gated: bool = True

    @property
    def queries(self) -> Fiber:
        """Channels of all heads."""
        return tuple(h * width for h, width in zip(self.heads, self.widths, strict=True))

    @property
    def values(self) -> Fiber:
        """Channels of keys, and of values."""
        return self.widths if self.single_headed else self.queries

    @property
    def value_heads(self) -> tuple[int, ...]:
        """Heads of keys and values."""
        return (1,) * len(self.heads) if self.single_headed else self.heads


@dataclasses.dataclass(frozen=True)
class GlobalHeads:
    """What scalars hear of the whole structure: linear attention heads or a far field, or nothing.

    heads, width: of the linear attention (0 heads: none). gated: whether its heads are gated. far:
    options of a far field, or None. typical_atoms: atoms that contribute to a far message.
    """

    heads: int = 0
    width: int = 8
    gated: bool = True
    far: FarFieldOptions | None = None
    typical_atoms: float = 20.0


@dataclasses.dataclass(frozen=True)
class AttentionOptions:
    """Sizes and choices of one attention layer.

    kernel, handed: of the convolution. activation, slope, hidden_multiple: of the logits "mlp".
    zero: the last map starts at zero. epsilon: smoothing of norms and squared distances.
    """

    fiber: Fiber
    sizes: HeadSizes
    radial: RadialSizes
    everywhere: GlobalHeads = GlobalHeads()
    kernel: str = "factorised"
    handed: bool = False
    activation: str = "smooth"
    slope: float = 0.1
    hidden_multiple: int = 4
    zero: bool = True
    epsilon: float = 1e-4


Parts = list[Tensor]  # (rows, 2l + 1, C_l) for each degree
Sums = Callable[[Tensor], Parts]  # weights (edges, all heads) -> weighted sums at the nodes


class Heard(NamedTuple):
    """What edges and nodes say to a node.

    logits (edges, all heads). sums: how weights make sums of the values of the edges. own_logits
    (nodes, all heads), own_values: of the nodes themselves, or None.
    """

    logits: Tensor
    sums: Sums
    own_logits: Tensor | None = None
    own_values: Parts | None = None


class EdgeReading(abc.ABC, nn.Module):
    """Reads logits and values from the features of both ends of an edge."""

    @abc.abstractmethod
    def forward(self, x: Tensor, geometry: PointGeometry) -> Heard: ...


# name -> class of AttentionOptions
LOGITS: Registry[type[EdgeReading]] = Registry("logits")


def head_weighted(values: Parts, weights: Tensor, sizes: HeadSizes, groups: Fiber) -> Parts:
    """Values (rows, 2l + 1, C_l) times the weight of their head (rows, all heads).

    groups: heads of the values, for each degree.
    """
    by_degree = zip(values, weights.split(sizes.heads, -1), groups, strict=True)
    # (rows, 2l + 1, heads, width) times (rows, 1, heads, 1)
    return [
        (part.unflatten(-1, (group, -1)) * weight.unsqueeze(1).unsqueeze(-1)).flatten(2)
        for part, weight, group in by_degree
    ]


def sums_of_messages(graph: GraphIndex, values: Parts, sizes: HeadSizes) -> Sums:
    """Weighted sums of values that are there for every edge."""

    def sums(weights: Tensor) -> Parts:
        weighted = head_weighted(values, weights, sizes, sizes.value_heads)
        return [sum_edges(graph, part) for part in weighted]

    return sums


@LOGITS.register("distance")
class DistanceReading(EdgeReading):
    """Keys and values of one convolution; a logit is minus the distance of query and key."""

    def __init__(self, options: AttentionOptions):
        super().__init__()
        sizes = options.sizes
        self.sizes = sizes
        self.softening = math.sqrt(min(options.epsilon, DISTANCE_EPSILON))
        self.both = tuple(2 * channels for channels in sizes.values)  # all keys, then all values
        self.query = FiberLinear(options.fiber, sizes.queries)
        self.convolution = EDGE_KERNELS.find(options.kernel)(
            options.fiber, self.both, options.handed, options.radial
        )
        self.own = FiberLinear(options.fiber, self.both) if sizes.attend_self else None

    def forward(self, x: Tensor, geometry: PointGeometry) -> Heard:
        """Features (nodes, width) -> logits, and the way to sums of values."""
        queries = split_fiber(self.query(x), self.sizes.queries)
        if isinstance(self.convolution, FactorisedConvolution):
            logits, sums = self._in_frames(queries, x, geometry)
        else:
            keys, values = _halves(self.convolution(x, geometry))
            here = [gather_dst(geometry.graph, query) for query in queries]
            logits = self._logits(self._squares(here, keys))
            sums = sums_of_messages(geometry.graph, values, self.sizes)
        if self.own is None:
            return Heard(logits, sums)
        keys, values = _halves(split_fiber(self.own(x), self.both))
        return Heard(logits, sums, self._logits(self._squares(queries, keys)), values)

    def _in_frames(
        self, queries: Sequence[Tensor], x: Tensor, geometry: PointGeometry
    ) -> tuple[Tensor, Sums]:
        """Logits and sums of values without a message in space (``frame_sums.py``)."""
        sizes, convolution = self.sizes, self.convolution
        inputs = convolution.inputs(x, geometry)
        matrices = [_halves(convolution.matrices(m)) for m in range(convolution.orders)]
        keys, values = zip(*matrices, strict=True)

        squares = squared_distances(geometry, inputs, keys, queries, sizes.heads, sizes.value_heads)

        def sums(weights: Tensor) -> Parts:
            by_degree = weights.split(sizes.heads, -1)
            return weighted_messages(geometry, inputs, values, by_degree, sizes.value_heads)

        return self._logits(squares), sums

    def _squares(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> list[Tensor]:
        """Squared distances (rows, heads, width) of queries and keys (rows, 2l + 1, channels)."""
        by_degree = zip(queries, keys, self.sizes.heads, self.sizes.value_heads, strict=True)
        return [
            (query.unflatten(-1, (heads, -1)) - key.unflatten(-1, (told, -1))).square().sum(1)
            for query, key, heads, told in by_degree
        ]

    def _logits(self, squares: Sequence[Tensor]) -> Tensor:
        """Squared distances (rows, heads, width) of all degrees -> logits (rows, all heads).

        Scalars have one distance over the width of a head, higher degrees one for each channel.
        """
        distances = [soft_root(squares[0].sum(-1), self.softening)]
        distances += [soft_root(square, self.softening).sum(-1) for square in squares[1:]]
        return torch.cat(
            [
                -distance / math.sqrt(width)
                for distance, width in zip(distances, self.sizes.widths, strict=True)
            ],
            -1,
        )


def _halves(parts: Sequence[Tensor]) -> tuple[Parts, Parts]:
    """First and second half of the channels of every part."""
    first, second = zip(*(part.chunk(2, -1) for part in parts), strict=True)
    return list(first), list(second)


@LOGITS.register("mlp")
class MLPReading(EdgeReading):
    """Logits from further scalars of the message; values through a gate and a linear map."""

    def __init__(self, options: AttentionOptions):
        super().__init__()
        sizes = options.sizes
        self.sizes, self.slope = sizes, options.slope
        self.activation = ACTIVATIONS[options.activation]
        self.hidden = [options.hidden_multiple * heads for heads in sizes.heads]
        self.gate = FiberGate(sizes.values)
        self.message = widened(self.gate.fiber_in, sum(self.hidden))

        self.convolution = EDGE_KERNELS.find(options.kernel)(
            options.fiber, self.message, options.handed, options.radial
        )
        self.own = FiberLinear(options.fiber, self.message) if sizes.attend_self else None
        self.score = nn.ModuleList(
            nn.Linear(hidden, heads, bias=False)
            for hidden, heads in zip(self.hidden, sizes.heads, strict=True)
        )
        self.value = FiberLinear(sizes.values, sizes.values)

    def forward(self, x: Tensor, geometry: PointGeometry) -> Heard:
        logits, values = self._read(self.convolution(x, geometry))
        sums = sums_of_messages(geometry.graph, values, self.sizes)
        if self.own is None:
            return Heard(logits, sums)
        return Heard(logits, sums, *self._read(split_fiber(self.own(x), self.message)))

    def _read(self, message: Sequence[Tensor]) -> tuple[Tensor, Parts]:
        """Messages -> logits (rows, all heads) and values."""
        hidden = sum(self.hidden)
        seen, scalars = message[0].split([hidden, message[0].shape[-1] - hidden], -1)
        scores = self.activation(seen.squeeze(1), self.slope).split(self.hidden, -1)
        logits = [
            score(part) / math.sqrt(width)
            for score, part, width in zip(self.score, scores, self.sizes.widths, strict=True)
        ]
        return torch.cat(logits, -1), self.value.parts(self.gate.parts([scalars, *message[1:]]))


class EquiformerAttention(nn.Module):
    """Norm, attention over edges, gates, global heads and a linear map.

    logits: name in ``LOGITS``. ``forward(x (nodes, width), geometry) -> (nodes, width)``; the
    residual connection belongs to the network.
    """

    def __init__(self, logits: str, options: AttentionOptions):
        super().__init__()
        sizes, everywhere, scalars = options.sizes, options.everywhere, options.fiber[0]
        self.sizes, self.fiber = sizes, options.fiber
        self.norm = FiberNorm(options.fiber, options.epsilon)
        self.reading = LOGITS.find(logits)(options)
        self.gates = nn.Linear(scalars, sum(sizes.heads)) if sizes.gated else None

        # what scalars hear of the whole structure
        heard = 0
        self.everywhere = self.far = None
        if everywhere.heads:
            self.everywhere = TaylorAttention(
                scalars, everywhere.heads, everywhere.width, gate_values=everywhere.gated
            )
            heard += everywhere.heads * everywhere.width
        if everywhere.far is not None:
            self.far = FarFieldAttention(scalars, 0, everywhere.far, everywhere.typical_atoms)
            heard += scalars
        self.out = FiberLinear(widened(sizes.queries, heard), options.fiber, zero=options.zero)

    def forward(self, x: Tensor, geometry: PointGeometry) -> Tensor:
        """(nodes, width) -> (nodes, width)."""
        x = self.norm(x)
        scalars = x[:, : self.fiber[0]]
        said = self.reading(x, geometry)
        weights, own = self_softmax(geometry.graph, said.logits, said.own_logits, geometry.envelope)

        heard, sizes = said.sums(weights), self.sizes
        if own is not None:
            ours = head_weighted(said.own_values, own, sizes, sizes.value_heads)
            heard = [a + b for a, b in zip(heard, ours, strict=True)]
        if self.gates is not None:
            heard = head_weighted(heard, torch.sigmoid(self.gates(scalars)), sizes, sizes.heads)
        return self.out(join_fiber([*self._with_far(heard[0], scalars, geometry), *heard[1:]]))

    def _with_far(self, heard: Tensor, scalars: Tensor, geometry: PointGeometry) -> Parts:
        """Scalars of the heads (nodes, 1, C_0), with those of the whole structure behind."""
        graph = geometry.graph
        parts = [heard]
        if self.everywhere is not None:
            parts.append(self.everywhere(graph, scalars).unsqueeze(1))
        if self.far is not None:
            where = (geometry.positions, scalars.unsqueeze(1), geometry.cell, geometry.periodic)
            parts.append(self.far(graph, *where))
        return [torch.cat(parts, -1)]


def self_softmax(
    graph: GraphIndex, logits: Tensor, own: Tensor | None, envelope: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Softmax over the incoming edges of each node and the node itself.

        a_ij = u_ij exp(s_ij) / Z_i,     a_ii = exp(s_ii) / Z_i,     Z_i = exp(s_ii) + sum_j ...

    logits s (edges, heads), own (nodes, heads) or None, envelope u (edges, 1) -> weights of the
    edges (edges, heads) and of the nodes (nodes, heads) or None. Without ``own`` the weights of the
    edges have the envelope as one more factor, so that the only neighbour fades out as well.
    """
    if own is None:
        return edge_softmax(graph, logits, envelope) * envelope, None

    # the largest logit is a constant shift; an edge that is out sets no maximum
    level = logits.detach() + envelope.detach().log()
    largest = own.detach()
    if graph.num_edges:
        heard = incoming_max(graph, level)
        alone = torch.bincount(graph.dst, minlength=graph.num_nodes).unsqueeze(1) == 0
        largest = torch.where(alone, largest, torch.maximum(largest, heard))

    weights = torch.exp((logits - gather_dst(graph, largest)).clamp_max(80.0)) * envelope
    own_weights = torch.exp(own - largest)
    total = own_weights + sum_edges(graph, weights)
    return weights / gather_dst(graph, total), own_weights / total
