"""E2Former's attention inside a cutoff: invariant weights, equivariant values of several orders.

    w_ij[c] = a_ij,h(c) g(e_ij)[c],        a_ij = u(r_ij) softmax_j(score_ij; u),

with u the envelope, g linear in the edge invariants and channels divided evenly over heads. What is
summed depends on the order:

    zero-order      out_i = Lin( sum_j w_ij (.) x_j )
    first-order     out_i = convolution of order 1 of V x with weights w
                    (``wigner_convolution.py``)
    second-order    the same of order 2, values V x of half as many channels
    all-order       all three, with C, C/2 and C/4 channels from the same a, gated:
                    G_1 zero + G_2 first + (1 - G_2) second

The envelope enters the softmax as a factor of every exponential and once more on the weight, so
energy and forces are continuous when a neighbour crosses the cutoff, even the only one. Weights
"softplus": ``u softplus(score) / typical_neighbours``, no sum over neighbours.

Cost: linear in edges; channels are mixed on nodes only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn

from farfield.models.choices import Registry, check_at_least, check_choices, check_positive
from farfield.models.graph_ops import edge_softmax
from farfield.models.kernels.harmonic_sum import KERNELS
from farfield.models.kernels.recomputation import recomputed, runs_again
from farfield.models.layers.linear import EquivariantLinear
from farfield.models.near_field.edge_geometry import NearFieldGeometry
from farfield.models.near_field.scores import SCORES
from farfield.models.near_field.wigner_convolution import (
    FORMS,
    NODE_FORM_CANCELS,
    WignerConvolution,
)
from farfield.models.option_fields import Alias
from farfield.models.published_words import published_implementation, published_score

# name -> (logits (edges, heads), geometry, typical_neighbours) -> weights (edges, heads)
WEIGHTS: Registry[Callable[[Tensor, NearFieldGeometry, float], Tensor]] = Registry("weights")

# name -> branch of a NearFieldShape; its attribute ``narrowest`` divides the channels
ORDERS: Registry[type[nn.Module]] = Registry("attention order")


@WEIGHTS.register("softmax")
def softmax_weights(
    logits: Tensor, geometry: NearFieldGeometry, typical_neighbours: float
) -> Tensor:
    """Smooth softmax over the neighbours of each node."""
    return edge_softmax(geometry.graph, logits, geometry.envelope) * geometry.envelope


@WEIGHTS.register("softplus")
def softplus_weights(
    logits: Tensor, geometry: NearFieldGeometry, typical_neighbours: float
) -> Tensor:
    """Weights that do not depend on other neighbours."""
    return nn.functional.softplus(logits) * geometry.envelope / typical_neighbours


@dataclasses.dataclass(frozen=True)
class NearFieldOptions:
    """Choices of a :class:`NearFieldAttention`.

    score, weights, convolution_form, kernel_implementation: names in ``SCORES``, ``WEIGHTS``,
    ``FORMS``, ``KERNELS``. dropout: of the weights, while training. Raises ValueError in one line
    for sizes < 1, unknown names and a dropout that is no probability below 1.
    """

    heads: Annotated[
        int, "attention heads of the near field", Alias("heads"), Alias("num_attn_heads")
    ] = 4
    score: Annotated[
        str,
        "what the weight of an edge is computed from",
        SCORES,
        Alias("score"),
        Alias("tp_type", str, published_score, published_implementation),
    ] = "QK_alpha"
    score_width: Annotated[
        int,
        "width of a query and a key in a head of the near field",
        Alias("score_width"),
        Alias("attn_scalar_head"),
    ] = 8
    weights: Annotated[
        str,
        "function from scores to weights: normalised over the neighbours, or each on its own",
        WEIGHTS,
        Alias("attention_weights"),
    ] = "softplus"
    convolution_form: Annotated[
        str, "tensor products on edges or on nodes, same result", FORMS, Alias("convolution_form")
    ] = "edge"
    kernel_implementation: Annotated[
        str,
        "implementation of the sum over neighbours; flash not with conservative forces",
        KERNELS,
        Alias("kernel_implementation"),
    ] = "memory_efficient"
    dropout: Annotated[
        float,
        "probability that a head does not hear a neighbour while training",
        Alias("alpha_drop"),
    ] = 0.0

    def __post_init__(self):
        of = "of the near field"
        check_at_least(self, 1, ["heads", "score_width"], of)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {of} must be a probability in [0, 1), got {self.dropout}")
        check_choices(
            self,
            {
                "score": SCORES,
                "weights": WEIGHTS,
                "convolution_form": FORMS,
                "kernel_implementation": KERNELS,
            },
            of,
        )

        if self.convolution_form == "node" and self.kernel_implementation == "flash":
            raise ValueError(NODE_FORM_CANCELS)


@dataclasses.dataclass(frozen=True)
class NearFieldShape(NearFieldOptions):
    """Choices and sizes of one :class:`NearFieldAttention`.

    attention_order: name in ``ORDERS``. lmax, channels: of the features in and out; the heads
    divide the channels of every branch. hidden: width of the edge invariants. typical_neighbours:
    divisor of the weights "softplus". Raises ValueError in one line for sizes < 1, heads that do
    not divide, unknown names.
    """

    attention_order: str = "first-order"
    lmax: int = 2
    channels: int = 32
    hidden: int = 64
    typical_neighbours: float = 16.0

    def __post_init__(self):
        super().__post_init__()
        of = "of the near field"
        check_at_least(self, 1, ["lmax", "channels", "hidden"], of)
        check_choices(self, {"attention_order": ORDERS}, of)
        check_positive(self, ["typical_neighbours"], of)

        divisor = ORDERS[self.attention_order].narrowest
        if self.channels % (divisor * self.heads):
            raise ValueError(
                f"{self.attention_order} attention divides {self.channels} channels by {divisor} "
                f"and over {self.heads} heads; "
                f"choose channels that are a multiple of {divisor * self.heads}"
            )


class EdgeWeights(nn.Module):
    """``w_ij[c] = a_ij,h(c) g(e_ij)[c]`` with g linear in the edge invariants.

    recompute: make g again while training.
    """

    recompute = False

    def __init__(self, hidden: int, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.radial = nn.Linear(hidden, channels)
        nn.init.ones_(self.radial.bias)

    def forward(self, attention: Tensor, geometry: NearFieldGeometry) -> Tensor:
        """(edges, heads) -> (edges, channels)."""
        weight, bias = self.radial.weight, self.radial.bias
        if not runs_again(self):
            return self._product(attention, geometry.invariants, weight, bias)
        views = weight.view_as(weight), bias.view_as(bias)
        return recomputed(self._product, attention, geometry.invariants, *views)

    def _product(
        self, attention: Tensor, invariants: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        """``a (invariants W + b)``, W as (channels, hidden)."""
        radial = nn.functional.linear(invariants, weight, bias)
        return (radial.unflatten(-1, (self.heads, -1)) * attention.unsqueeze(-1)).flatten(1)


@ORDERS.register("zero-order")
class ZeroOrder(nn.Module):
    """Weighted sum of the neighbours' features, then a linear map: no direction in the message."""

    narrowest = 1

    def __init__(self, options: NearFieldShape):
        super().__init__()
        self.kernel = KERNELS[options.kernel_implementation]
        self.weights = EdgeWeights(options.hidden, options.channels, options.heads)
        self.out = EquivariantLinear(options.lmax, options.channels, options.channels, bias=True)

    def forward(self, x: Tensor, attention: Tensor, geometry: NearFieldGeometry) -> Tensor:
        """x (nodes, rows, channels), attention (edges, heads) -> (nodes, rows, channels)."""
        weights = self.weights(attention, geometry)
        sums = self.kernel(geometry.edge_slots, geometry.harmonics(0), weights, x)
        return self.out(sums.squeeze(1))


class ConvolutionOrder(nn.Module):
    """Values narrowed by ``divisor``, then the Wigner convolution of ``order``."""

    def __init__(self, options: NearFieldShape, order: int, divisor: int):
        super().__init__()
        narrow = options.channels // divisor
        self.weights = EdgeWeights(options.hidden, narrow, options.heads)
        self.value = EquivariantLinear(options.lmax, options.channels, narrow)
        self.convolution = WignerConvolution(
            order,
            options.lmax,
            narrow,
            options.channels,
            options.convolution_form,
            options.kernel_implementation,
        )
        self.bias = nn.Parameter(torch.zeros(options.channels))

    def forward(self, x: Tensor, attention: Tensor, geometry: NearFieldGeometry) -> Tensor:
        """x (nodes, rows, channels), attention (edges, heads) -> (nodes, rows, channels)."""
        out = self.convolution(self.value(x), self.weights(attention, geometry), geometry)
        return torch.cat([out[:, :1] + self.bias, out[:, 1:]], 1)


@ORDERS.register("first-order")
class FirstOrder(ConvolutionOrder):
    """Convolution of order 1 with all channels."""

    narrowest = 1

    def __init__(self, options: NearFieldShape):
        super().__init__(options, 1, self.narrowest)


@ORDERS.register("second-order")
class SecondOrder(ConvolutionOrder):
    """Convolution of order 2 with half the channels."""

    narrowest = 2

    def __init__(self, options: NearFieldShape):
        super().__init__(options, 2, self.narrowest)


@ORDERS.register("all-order")
class AllOrder(nn.Module):
    """``G_1 zero + G_2 first + (1 - G_2) second`` with gates G of each node and channel.

    ``G = sigmoid(Lin(sum_j u_ij e_ij) + Lin(x_i, l = 0))``.
    """

    narrowest = 4

    def __init__(self, options: NearFieldShape):
        super().__init__()
        self.zero = ZeroOrder(options)
        self.first = ConvolutionOrder(options, 1, 2)
        self.second = ConvolutionOrder(options, 2, 4)
        self.gate = nn.Linear(options.channels + options.hidden, 2 * options.channels)

    def forward(self, x: Tensor, attention: Tensor, geometry: NearFieldGeometry) -> Tensor:
        """x (nodes, rows, channels), attention (edges, heads) -> (nodes, rows, channels)."""
        gates = torch.sigmoid(self.gate(torch.cat([x[:, 0], geometry.surroundings], -1)))
        gate_zero, gate_first = gates.unsqueeze(1).chunk(2, -1)

        first, second = self.first(x, attention, geometry), self.second(x, attention, geometry)
        zero = self.zero(x, attention, geometry)
        return gate_zero * zero + second + gate_first * (first - second)


class NearFieldAttention(nn.Module):
    """Attention over the edges inside the cutoff.

    The residual connection and the norm belong to the block (``networks/blocks.py``).
    """

    def __init__(self, options: NearFieldShape):
        super().__init__()
        self.options = options
        sizes = (options.lmax, options.channels, options.heads, options.hidden, options.score_width)
        self.score = SCORES[options.score](*sizes, chunked=options.kernel_implementation != "math")
        self.branch = ORDERS[options.attention_order](options)

    def forward(self, x: Tensor, geometry: NearFieldGeometry) -> Tensor:
        """(nodes, rows, channels) -> (nodes, rows, channels)."""
        logits = self.score(x, geometry)
        attention = WEIGHTS[self.options.weights](logits, geometry, self.options.typical_neighbours)
        attention = nn.functional.dropout(attention, self.options.dropout, self.training)
        return self.branch(x, attention, geometry)
