"""Encoder in front of a backbone: tokens of atoms, made by full attention over their structure.

    t_i = W_in s_i,      s_i the scalars of atom i: element, and what ``condition`` names
    t   = block(t), depth times
    s_i <- s_i + W_out norm(t_i),      the l = 0 rows that the backbone starts from

Blocks (``ENCODERS``), with attention over all atoms j of the structure of i, i among them:

    transformer   t += A(norm t),   t += MLP(norm t)
    dit           t += g_1 A((1 + c_1) norm t + b_1),   t += g_2 MLP((1 + c_2) norm t + b_2),
                  (b_1, c_1, g_1, b_2, c_2, g_2) = W SiLU(t^0), t^0 the token before the first block

Sources: Vaswani et al. 2017; Peebles & Xie 2023, "Scalable diffusion models with transformers",
adaLN-Zero (W starts at zero, so a block starts as the identity).

No derivatives by positions flow through it. Tokens are made of elements and of numbers of the
structure (charge, spin), never of positions: dE/dr holds the tokens fixed, and a loss on forces
takes only the first derivative of the attention, by its weights. Therefore every implementation of
torch serves (``ATTENTION_KERNELS``), also those that have no second derivative.

Not extensive. The weights do not know distances, so an atom hears the elements of its whole
structure: a molecule far away changes the tokens of another one. (Copies of one molecule do not:
the softmax is a mean, and the mean over twice the same is the same.)

Structures of equal size are computed together, others one after the other: nothing is padded and
nothing has to be masked. Cost: atoms x atoms of a structure x width, no edges.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from farfield.models.choices import Registry, check_at_least, check_choices
from farfield.models.far_field.coulomb import groups_of_one_size
from farfield.models.graph_ops import GraphIndex
from farfield.models.layers.layer_norm import LayerNorm, layer_norm
from farfield.models.option_fields import LEADS
from farfield.models.own_draws import own_draws

MLP_RATIO = 4  # width of the feed-forward network in units of the width of a token
MODULATIONS = 6  # shift, scale and gate of each of the two branches of a block of "dit"

# name -> block: made of (width, heads, attention), forward(tokens, first tokens, Atoms) -> tokens
ENCODERS: Registry[type[nn.Module] | None] = Registry("encoder")
ENCODERS.register("none")(None)

# name -> kernels of torch that may serve, on a CPU and elsewhere; None: torch chooses
ATTENTION_KERNELS: dict[str, tuple[SDPBackend, SDPBackend] | None] = {
    "auto": None,
    "math": (SDPBackend.MATH, SDPBackend.MATH),
    # of linear memory; on a CPU torch has one such kernel
    "memory_efficient": (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION),
    "flash": (SDPBackend.FLASH_ATTENTION, SDPBackend.FLASH_ATTENTION),
}


@dataclasses.dataclass(frozen=True)
class EncoderOptions:
    """Choices of an :class:`Encoder`.

    kind, attention: names in ``ENCODERS`` and ``ATTENTION_KERNELS``. Raises ValueError in one line
    for sizes < 1, heads that do not divide the width, and unknown names.
    """

    kind: Annotated[
        str,
        "attention over the elements of a whole structure before the first layer: none, blocks of "
        "a transformer, or of a diffusion transformer",
        ENCODERS,
        LEADS,
    ] = "none"
    width: Annotated[int, "width of a token of the encoder"] = 64
    heads: Annotated[int, "attention heads of the encoder"] = 4
    depth: Annotated[int, "number of blocks of the encoder"] = 2
    attention: Annotated[
        str,
        "implementation of the attention of the encoder; auto: torch chooses",
        ATTENTION_KERNELS,
    ] = "auto"

    def __post_init__(self):
        of = "of the encoder"
        check_at_least(self, 1, ["width", "heads", "depth"], of)
        check_choices(self, {"kind": ENCODERS, "attention": ATTENTION_KERNELS}, of)
        if self.width % self.heads:
            raise ValueError(
                f"width {of} must be a multiple of its {self.heads} heads, got {self.width}; "
                f"choose e.g. {self.heads * (self.width // self.heads + 1)}"
            )

    def unextensive(self) -> list[str]:
        """Why energies of pieces far apart do not add up, a line or none."""
        if self.kind == "none":
            return []
        return [
            f"encoder {self.kind}: every atom hears the elements of its whole structure at any "
            "distance, so energies of different pieces far apart do not add up"
        ]


class Atoms:
    """Atoms of a batch by the size of their structures.

    groups: for each size the nodes (graphs, size) of the structures that have it. back (nodes,):
    place of each node in the groups end to end.
    """

    def __init__(self, graph: GraphIndex):
        every = [True] * graph.num_graphs
        self.groups = [nodes for _, nodes in groups_of_one_size(graph, every)]
        order = [nodes.flatten() for nodes in self.groups]
        self.back = torch.cat([graph.node_offsets.new_zeros(0), *order]).argsort()


class TokenAttention(nn.Module):
    """Softmax attention among the tokens of each structure: ``forward(tokens, atoms) -> tokens``.

    Both are (nodes, width). ValueError where torch has no such implementation for the device and
    the type of the tokens.
    """

    def __init__(self, width: int, heads: int, attention: str):
        super().__init__()
        self.heads, self.attention = heads, attention
        self.project = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor, atoms: Atoms) -> Tensor:
        """(nodes, width) -> (nodes, width)."""
        projected = self.project(tokens).unflatten(1, (3, self.heads, -1))
        heard = [
            # (3, graphs, heads, size, width of a head)
            self._attend(projected[nodes].permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(0, 1)
            for nodes in atoms.groups
        ]
        joined = torch.cat([projected.new_zeros(0, *projected.shape[2:]), *heard])
        return self.output(joined.index_select(0, atoms.back).flatten(1))

    def _attend(self, parts: Tensor) -> Tensor:
        """Queries, keys and values (3, graphs, heads, size, width of a head) -> values."""
        kernels = ATTENTION_KERNELS[self.attention]
        attend = nn.functional.scaled_dot_product_attention
        if kernels is None:
            return attend(*parts)

        # torch says only while it computes what a device does not have
        try:
            with sdpa_kernel(kernels[parts.device.type != "cpu"]):
                return attend(*parts)
        except RuntimeError as error:
            if "backend" not in str(error) and "kernel" not in str(error):
                raise
            kind = str(parts.dtype).removeprefix("torch.")
            raise ValueError(
                f"encoder_attention {self.attention!r}: torch has no such attention for {kind} on "
                f"the device {parts.device}; give --encoder-attention auto"
            ) from None

    def extra_repr(self) -> str:
        """Heads and implementation."""
        return f"heads={self.heads}, {self.attention}"


def feed_forward(width: int) -> nn.Sequential:
    """Two layers with GELU between, ``MLP_RATIO`` times as wide inside."""
    return nn.Sequential(
        nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width)
    )


@ENCODERS.register("dit")
class ModulatedBlock(nn.Module):
    """A block whose norms and branches the first token of each atom modulates (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, attention: str):
        super().__init__()
        self.attention = TokenAttention(width, heads, attention)
        self.feed_forward = feed_forward(width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, MODULATIONS * width))
        nn.init.zeros_(self.modulation[1].weight)
        nn.init.zeros_(self.modulation[1].bias)

    def forward(self, tokens: Tensor, first: Tensor, atoms: Atoms) -> Tensor:
        """Tokens and tokens before the first block, both (nodes, width) -> (nodes, width)."""
        shift, scale, gate, shift_2, scale_2, gate_2 = self.modulation(first).chunk(MODULATIONS, 1)
        seen = (1 + scale) * layer_norm(tokens) + shift
        tokens = tokens + gate * self.attention(seen, atoms)
        seen = (1 + scale_2) * layer_norm(tokens) + shift_2
        return tokens + gate_2 * self.feed_forward(seen)


@ENCODERS.register("transformer")
class PlainBlock(nn.Module):
    """A block of a transformer, norms first."""

    def __init__(self, width: int, heads: int, attention: str):
        super().__init__()
        self.attention_norm = LayerNorm(width)
        self.attention = TokenAttention(width, heads, attention)
        self.feed_forward_norm = LayerNorm(width)
        self.feed_forward = feed_forward(width)

    def forward(self, tokens: Tensor, first: Tensor, atoms: Atoms) -> Tensor:
        """Tokens (nodes, width) -> (nodes, width); ``first`` is not read."""
        tokens = tokens + self.attention(self.attention_norm(tokens), atoms)
        return tokens + self.feed_forward(self.feed_forward_norm(tokens))


class Encoder(nn.Module):
    """What full attention adds to the scalars of atoms: ``forward(graph, scalars)``.

    Formula: see the module. scalars: (nodes, channels), without positions in them; the result has
    the same shape. Invariant; structures of a batch do not hear each other.
    """

    def __init__(self, channels: int, options: EncoderOptions):
        super().__init__()
        block, width = ENCODERS[options.kind], options.width
        self.tokens = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(
            block(width, options.heads, options.attention) for _ in range(options.depth)
        )
        self.norm = LayerNorm(width)
        self.output = nn.Linear(width, channels)

    def forward(self, graph: GraphIndex, scalars: Tensor) -> Tensor:
        """(nodes, channels) -> (nodes, channels)."""
        atoms = Atoms(graph)
        first = tokens = self.tokens(scalars)
        for block in self.blocks:
            tokens = block(tokens, first, atoms)
        return self.output(self.norm(tokens))


def encoder(channels: int, options: EncoderOptions) -> Encoder | None:
    """The encoder of the options, None for "none"; it changes the first weights of nothing else."""
    if options.kind == "none":
        return None
    with own_draws():
        return Encoder(channels, options)
