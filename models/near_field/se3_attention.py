"""Attention of the SE(3)-Transformer over edges, with one fused key/value convolution.

    a_ij = softmax_j( <k_ij, q_i> / sqrt(d) ),        out_i = sum_j a_ij v_ij,
    (k_ij, v_ij) = conv(x_j; r_ij),                   q_i = W x_i

(Fuchs et al. 2020, eqs. 10-11.) One convolution gives keys and values together: one gather, one
rotation, one radial network. Heads are blocks of channels; keys and values have ``channels //
value_divisor`` channels. An envelope u(r) enters the softmax as a factor of every exponential and
once more on the weight, so that a neighbour which crosses the cutoff neither appears nor vanishes
abruptly, even when it is the only one.

Cost: the convolution (``frame_convolution.py``), linear in edges. Memory: no tensor larger than
(edges, rows, 2 channels // value_divisor) and the rotations of the edges.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from farfield.models.choices import check_choice
from farfield.models.graph_ops import GraphIndex, edge_softmax, gather_dst, gather_src, sum_edges
from farfield.models.layers.linear import EquivariantLinear
from farfield.models.layers.self_interaction import SELF_INTERACTIONS
from farfield.models.near_field.frame_convolution import EdgeFrameConvolution
from farfield.models.so3.irreps import num_rows

SKIPS = ("cat", "sum")


@dataclasses.dataclass
class FrameGeometry:
    """What all layers of an SE(3)-Transformer share about the edges of a batch, and their frames.

    Attributes
        graph      topology
        rotation   (edges, rows, rows) into the frame of the edge
        length     (edges,)
        envelope   (edges, 1)
        hidden     (edges, radial_hidden), from the radial trunk
        vectors    (edges, k, 3) vector edge features that join the source features, or None
    """

    graph: GraphIndex
    rotation: Tensor
    length: Tensor
    envelope: Tensor
    hidden: Tensor
    vectors: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class AttentionShape:
    """Sizes of an attention layer.

    value_divisor: keys and values have ``channels_out // value_divisor`` channels each. heads:
    divide these channels. edge_vectors: number of vector edge features. relative_position: None,
    "add" (the edge vector is added to the first degree-1 source channel) or "cat" (it joins as a
    further channel). pseudo: pseudo channels in and out. Raises ValueError for sizes that do not
    divide, and for other relative positions.
    """

    lmax: int
    channels_in: int
    channels_out: int
    heads: int
    value_divisor: int = 1
    radial_hidden: int = 32
    edge_vectors: int = 0
    relative_position: str | None = "add"
    pseudo: int = 0

    def __post_init__(self):
        if self.relative_position not in (None, "add", "cat"):
            raise ValueError(
                f"relative_position must be None, 'add' or 'cat', got {self.relative_position!r}"
            )

        # heads are blocks of the channels of keys and values
        if self.channels_out % self.value_divisor:
            raise ValueError(
                f"value_divisor must divide channels: {self.channels_out} channels, "
                f"value_divisor {self.value_divisor}; choose a divisor"
            )
        if self.values % self.heads:
            raise ValueError(
                f"heads must divide channels // value_divisor = {self.values}, got {self.heads}; "
                f"choose one of {_divisors(self.values)}"
            )

    @property
    def values(self) -> int:
        """Channels of keys and of values."""
        return self.channels_out // self.value_divisor

    @property
    def pseudo_values(self) -> int:
        """Pseudo channels of keys, and of values."""
        return self.pseudo // self.value_divisor


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


class EdgeAttention(nn.Module):
    """One attention block: convolution, softmax over edges, skip connection, self-interaction.

    self_interaction: a name in ``SELF_INTERACTIONS``, how channels are mixed. skip: "cat" mixes
    [messages, x], "sum" adds mixed messages to x. Raises ValueError for other names, and for "sum"
    with unequal channels in and out.
    """

    def __init__(
        self, shape: AttentionShape, *, self_interaction: str = "linear", skip: str = "cat"
    ):
        super().__init__()
        check_choice("self_interaction", self_interaction, SELF_INTERACTIONS)
        check_choice("skip", skip, SKIPS)
        if skip == "sum" and shape.channels_in != shape.channels_out:
            raise ValueError(
                f"skip 'sum' needs equal channels in and out, got {shape.channels_in} and "
                f"{shape.channels_out}; use skip 'cat'"
            )
        self.shape, self.skip = shape, skip
        pseudo, values, pseudo_values = shape.pseudo, shape.values, shape.pseudo_values

        # keys and values of one convolution; vectors of the edge join its input
        extra = shape.edge_vectors + (shape.relative_position == "cat")
        self.query = EquivariantLinear(
            shape.lmax, shape.channels_in, values, pseudo_in=pseudo, pseudo_out=pseudo_values
        )
        self.convolution = EdgeFrameConvolution(
            shape.lmax,
            shape.channels_in + extra,
            2 * values,
            shape.radial_hidden,
            pseudo_in=pseudo,
            pseudo_out=2 * pseudo_values,
        )

        # the skip connection "cat" widens the input of the self-interaction
        mix_in = values + (shape.channels_in if skip == "cat" else 0)
        pseudo_mix = pseudo_values + (pseudo if skip == "cat" else 0)
        self.mix = SELF_INTERACTIONS[self_interaction](
            shape.lmax, mix_in, shape.channels_out, pseudo_in=pseudo_mix, pseudo_out=pseudo
        )

        # (rows values, heads): sums products of keys and queries into the logits of each head
        rows = num_rows(shape.lmax)
        head = torch.arange(values) // (values // shape.heads)
        belongs = nn.functional.one_hot(head, shape.heads).to(torch.get_default_dtype())
        head_sum = belongs.repeat(rows, 1) / math.sqrt(values * rows)
        self.register_buffer("head_sum", head_sum, persistent=False)

    def forward(self, x: Tensor, geometry: FrameGeometry) -> Tensor:
        """(nodes, rows, channels_in) -> (nodes, rows, channels_out)."""
        graph, values = geometry.graph, self.shape.values
        source, along = self._source(x, geometry), self._along(geometry)
        messages = self.convolution(source, geometry.rotation, geometry.hidden, along)
        keys, value = self._split(messages)

        agreement = keys * gather_dst(graph, self.query(x))  # (edges, rows, values)
        logits = agreement.flatten(1) @ self.head_sum  # (edges, heads)
        weights = edge_softmax(graph, logits, geometry.envelope) * geometry.envelope

        weighted = value * weights.repeat_interleave(values // self.shape.heads, -1).unsqueeze(1)
        received = sum_edges(graph, weighted)

        if self.skip == "sum":
            return x + self.mix(received)
        return self.mix(self._join(received, x))

    def _source(self, x: Tensor, geometry: FrameGeometry) -> Tensor:
        """Source features with the vectors of the edge: (edges, rows, extra + channels_in).

        The vectors stand in front, so that the pseudo channels stay last.
        """
        source = gather_src(geometry.graph, x)
        extra = []
        if self.shape.relative_position == "cat":
            extra.append(geometry.rotation[:, 1, 1:4].unsqueeze(1) * geometry.length.view(-1, 1, 1))
        if geometry.vectors is not None:
            extra.append(geometry.vectors)
        if not extra:
            return source

        # degree 1 of extra channels; all their other rows are zero
        vectors = torch.cat(extra, 1).transpose(1, 2)  # (edges, 3, extra)
        above = num_rows(self.shape.lmax) - 4
        return torch.cat([nn.functional.pad(vectors, (0, 0, 1, above)), source], -1)

    def _along(self, geometry: FrameGeometry) -> Tensor | None:
        """Length of the edge vector that is added to the source: (edges,), or None."""
        return geometry.length if self.shape.relative_position == "add" else None

    def _split(self, messages: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the fused convolution, each with its pseudo channels last."""
        values, pseudo = self.shape.values, self.shape.pseudo_values
        if not pseudo:
            return messages.chunk(2, -1)

        # the convolution puts all pseudo channels last
        true = values - pseudo
        key_true, value_true, key_pseudo, value_pseudo = messages.split(
            [true, true, pseudo, pseudo], -1
        )
        return torch.cat([key_true, key_pseudo], -1), torch.cat([value_true, value_pseudo], -1)

    def _join(self, received: Tensor, x: Tensor) -> Tensor:
        """Messages and features in one tensor, true channels of both first."""
        pseudo = self.shape.pseudo
        if not pseudo:
            return torch.cat([received, x], -1)
        true_received = received.shape[-1] - self.shape.pseudo_values
        true_x = x.shape[-1] - pseudo
        parts = [
            received[..., :true_received],
            x[..., :true_x],
            received[..., true_received:],
            x[..., true_x:],
        ]
        return torch.cat(parts, -1)
