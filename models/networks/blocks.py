"""One transformer block, the attentions it may hold, and the schedule of a network.

    x <- x + DropPath(attention(norm(x))),      x <- x + DropPath(feed_forward(norm(x)))

Attentions are named as in the publications:

    zero-order, first-order, second-order, all-order
                      near field: over the edges inside the cutoff, with kernels of that degree
    fmm-node          far field: over all atoms of the graph
    hybrid-<order>    both at once: near + far_weight far, far_weight learned

A schedule is ``part + part + ...``, a part is an attention's name and how many layers of it follow
one another: ``hybrid-first-order``, ``first-order6+fmm-node2``. A part without a number is repeated
``layers`` times.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from farfield.models.choices import check_at_least, check_choices, check_positive, nearest
from farfield.models.far_field.attention import FarFieldAttention, FarFieldOptions
from farfield.models.graph_ops import GraphIndex, broadcast_nodes
from farfield.models.layers.feed_forward import FEED_FORWARDS
from farfield.models.layers.norms import NORMS, EquivariantNorm
from farfield.models.near_field.e2former_attention import (
    ORDERS,
    NearFieldAttention,
    NearFieldShape,
)
from farfield.models.near_field.edge_geometry import NearFieldGeometry
from farfield.models.own_draws import own_draws

MAX_LAYERS = 100


@dataclasses.dataclass
class Scene:
    """What all layers of a network share about the geometry of a batch.

    near: edges, harmonics, envelope and invariants. positions (nodes, 3), cell (graphs, 3, 3) and
    periodic (graphs, 3) or None: for the far field.
    """

    near: NearFieldGeometry
    positions: Tensor
    cell: Tensor | None = None
    periodic: Tensor | None = None

    @property
    def graph(self) -> GraphIndex:
        """Topology of the batch."""
        return self.near.graph


@dataclasses.dataclass(frozen=True)
class BlockOptions:
    """Choices and sizes of a :class:`Block`.

    lmax, channels: of the features. near, far: options of the attentions; near is None where the
    block has no near field. typical_atoms: atoms that contribute to a far message. norm,
    feed_forward: names in ``NORMS`` and ``FEED_FORWARDS``. ffn_channels: inside the feed-forward
    network. drop_path: probability that a graph skips a branch while training. Raises ValueError in
    one line for values out of range.
    """

    lmax: int
    channels: int
    near: NearFieldShape | None
    far: FarFieldOptions
    typical_atoms: float
    ffn_channels: int
    norm: str
    norm_epsilon: float
    feed_forward: str
    drop_path: float

    def __post_init__(self):
        check_choices(self, {"norm": NORMS, "feed_forward": FEED_FORWARDS})
        check_at_least(self, 1, ["ffn_channels"])
        check_positive(self, ["norm_epsilon"])
        self.far.degree_of_values(self.lmax)
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be a probability in [0, 1), got {self.drop_path}")


class NearLayer(nn.Module):
    """Attention over edges."""

    def __init__(self, options: BlockOptions):
        super().__init__()
        self.attention = NearFieldAttention(options.near)

    def forward(self, x: Tensor, scene: Scene) -> Tensor:
        return self.attention(x, scene.near)


class FarLayer(nn.Module):
    """Attention over all atoms of each graph."""

    def __init__(self, options: BlockOptions):
        super().__init__()
        self.attention = FarFieldAttention(
            options.channels, options.lmax, options.far, options.typical_atoms
        )

    def forward(self, x: Tensor, scene: Scene, weight: Tensor | None = None) -> Tensor:
        return self.attention(scene.graph, scene.positions, x, scene.cell, scene.periodic, weight)


class HybridLayer(nn.Module):
    """``near + far_weight far`` from the same features.

    What the far field draws for its weights changes no other weight: with the same seed a hybrid
    starts as the near field alone does.
    """

    def __init__(self, options: BlockOptions):
        super().__init__()
        self.near = NearLayer(options)
        with own_draws():
            self.far = FarLayer(options)
        self.far_weight = nn.Parameter(torch.tensor(float(options.far.weight)))

    def forward(self, x: Tensor, scene: Scene) -> Tensor:
        return self.near(x, scene) + self.far(x, scene, self.far_weight)


class Attention(NamedTuple):
    """How an attention is made from ``BlockOptions``, the order of its near field (None: it
    has none), whether it sees far.
    """

    make: Callable[[BlockOptions], nn.Module]
    near_order: str | None
    far: bool


ATTENTIONS = {
    **{order: Attention(NearLayer, order, False) for order in ORDERS},
    "fmm-node": Attention(FarLayer, None, True),
    **{f"hybrid-{order}": Attention(HybridLayer, order, True) for order in ORDERS},
}


def parse_schedule(text: str, layers: int) -> list[str]:
    """Names of the attentions layer by layer: ``"first-order2+fmm-node"``, 1 -> [first-order,
    first-order, fmm-node].

    Raises ValueError in one line for an empty part, an unknown name (with the nearest known one), a
    count of 0 and too many layers.
    """
    names = []
    for part in text.split("+"):
        name, count = re.fullmatch(r"(.*?)(\d*)", part.strip(), re.DOTALL).groups()
        if not name:
            raise ValueError(
                f"schedule {text!r} has a part without a name: write attentions joined by '+', "
                "e.g. first-order6+fmm-node2"
            )
        if name not in ATTENTIONS:
            near = nearest(name, ATTENTIONS)
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(ATTENTIONS)}"
            raise ValueError(f"schedule {text!r} names the unknown attention {name!r}; {hint}")
        number = int(count) if count else layers
        if number < 1:
            raise ValueError(
                f"schedule {text!r}: {name!r} must be repeated at least once, got {number}"
            )
        if number > MAX_LAYERS - len(names):
            raise ValueError(
                f"schedule {text!r} with layers = {layers} has more than {MAX_LAYERS} layers; "
                "ask for fewer"
            )
        names += [name] * number
    return names


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016), graph by graph.

    While training a branch is left out with ``probability``, else divided by the probability to
    stay. ``forward(graph, x (nodes, ...)) -> (nodes, ...)``; nothing happens in evaluation mode.
    """

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, graph: GraphIndex, x: Tensor) -> Tensor:
        """Branch of every node (nodes, ...) -> the same, or zero for a graph that skips it."""
        if not self.training or not self.probability:
            return x
        stay = 1 - self.probability
        shape = (graph.num_graphs, *[1] * (x.dim() - 1))
        kept = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(stay) / stay
        return x * broadcast_nodes(graph, kept)

    def extra_repr(self) -> str:
        return f"{self.probability}"


class ResidualBlock(nn.Module):
    """Attention and feed-forward network, each after a norm and inside a residual connection.

    make: of the attention, which is called with features and with what ``forward`` is given as the
    scene; a scene has a ``graph``.
    """

    def __init__(self, make: Callable[[BlockOptions], nn.Module], options: BlockOptions):
        super().__init__()
        lmax, channels = options.lmax, options.channels
        norm = (options.norm, lmax, channels, options.norm_epsilon)
        self.attention_norm = EquivariantNorm(*norm)
        self.attention = make(options)
        self.feed_forward_norm = EquivariantNorm(*norm)
        self.feed_forward = FEED_FORWARDS[options.feed_forward](
            lmax, channels, options.ffn_channels
        )
        self.drop_path = DropPath(options.drop_path)

    def forward(self, x: Tensor, scene) -> Tensor:
        """Features (nodes, rows, channels) -> the same shape."""
        x = x + self.drop_path(scene.graph, self.attention(self.attention_norm(x), scene))
        return x + self.drop_path(scene.graph, self.feed_forward(self.feed_forward_norm(x)))


class Block(ResidualBlock):
    """A block with the attention that a schedule names; it reads a :class:`Scene`."""

    def __init__(self, attention: str, options: BlockOptions):
        super().__init__(ATTENTIONS[attention].make, options)
