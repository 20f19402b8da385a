"""Options of the Equiformer, by their public names.

What the layers need stands in :class:`EquiformerLayerOptions`, which every network of this family
shares; what tokens, masks and adjacencies need in :class:`EquiformerOptions`. Numbers "one for each
degree" are written 64,32,16, or as one number for all degrees.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

from farfield.models.choices import check_at_least, check_choices, check_positive
from farfield.models.far_field.attention import FarFieldOptions
from farfield.models.layers.radial import (
    ENVELOPES,
    RADIAL_BASES,
    EnvelopeName,
    RadialBasisName,
    RadialSize,
)
from farfield.models.near_field.equiformer_attention import (
    ACTIVATIONS,
    AttentionOptions,
    GlobalHeads,
    HeadSizes,
)
from farfield.models.near_field.fiber_convolution import EDGE_KERNELS, RadialSizes
from farfield.models.option_fields import LISTED, MAIN
from farfield.models.point_graphs import NeighbourRule
from farfield.models.so3.fibers import Fiber

EVERYWHERE = 1e5  # the public default radius: all points are neighbours
MAX_DEGREES = 12  # degrees 0 .. 11, the largest with coupling tables


def per_degree(name: str, text: str, degrees: int) -> Fiber:
    """``"64,32,16"`` -> (64, 32, 16), ``"32"`` -> as many 32 as degrees.

    Raises ValueError in one line for other numbers than one or ``degrees``, and numbers < 1.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(
            f"{name} must be whole numbers > 0 joined by commas, got {text!r}; write e.g. 64,32"
        )
    numbers = tuple(int(part) for part in parts)
    if len(numbers) == 1:
        return numbers * degrees
    if len(numbers) != degrees:
        raise ValueError(
            f"{name} must be one number or one for each of the {degrees} degrees, got {text!r}"
        )
    return numbers


@dataclasses.dataclass(frozen=True)
class EquiformerLayerOptions:
    """What the layers of an Equiformer need; names and defaults of the public package.

    edge_kernel, handed: see ``near_field/fiber_convolution.py``. norm_epsilon: smoothing of norms
    and of squared distances. Raises ValueError in one line for values out of range.
    """

    dim: Annotated[str, "channels, or one number for each degree", LISTED, MAIN] = "32"
    num_degrees: Annotated[int, "degrees of the features, 0 .. num_degrees - 1", MAIN] = 2
    depth: Annotated[int, "layers of attention and feed-forward network", MAIN] = 2
    heads: Annotated[str, "attention heads, or one number for each degree", LISTED, MAIN] = "8"
    dim_head: Annotated[str, "width of a head, or one number for each degree", LISTED] = "24"
    l2_dist_attention: Annotated[
        bool, "attend by the distance of query and key; false: by a network of the message"
    ] = True
    attend_self: Annotated[bool, "let a node attend to itself besides its neighbours"] = True
    single_headed_kv: Annotated[bool, "share one key and value head among all queries"] = False
    gate_attn_head_outputs: Annotated[bool, "gate each head by the scalars of the node"] = True
    attn_activation: Annotated[str, "activation of the attention network", ACTIVATIONS] = "smooth"
    attn_leakyrelu_slope: Annotated[float, "slope of this activation far below zero"] = 0.1
    attn_hidden_dim_mult: Annotated[int, "hidden width of the attention network per head"] = 4
    num_linear_attn_heads: Annotated[
        int, "heads of linear attention over the whole structure, on scalars"
    ] = 0
    linear_attn_dim_head: Annotated[int, "width of a head of this linear attention"] = 8
    use_far_field: Annotated[
        bool, "let scalars hear the far field, in place of linear attention", MAIN
    ] = False
    far: FarFieldOptions = FarFieldOptions()
    avg_atoms: Annotated[float, "mean number of atoms in the training data"] = 20.0
    ff_include_htype_norms: Annotated[
        bool, "let the feed-forward network read the lengths of higher degrees"
    ] = False
    init_out_zero: Annotated[bool, "start the last map of each branch at zero"] = True
    edge_kernel: Annotated[
        str, "kernel of the convolution: factorised, or pairwise as published", EDGE_KERNELS
    ] = "factorised"
    handed: Annotated[
        bool, "add kernels of odd parity, which tell mirror images apart; rotations stay exact"
    ] = False
    radial_basis: RadialBasisName = "raw"
    radial_size: RadialSize = 16
    radial_hidden_dim: Annotated[int, "hidden width of the radial networks"] = 64
    envelope: EnvelopeName = "polynomial"
    drop_path: Annotated[float, "probability that a structure skips a branch while training"] = 0.0
    reversible: Annotated[
        bool, "recompute activations from the output, so that memory does not grow with depth"
    ] = False
    norm_epsilon: Annotated[
        float, "smoothing of norms: rounding of features that vanish grows by 1 / sqrt of it"
    ] = 0.3

    def __post_init__(self):
        check_at_least(
            self, 1, ["num_degrees", "depth", "attn_hidden_dim_mult", "linear_attn_dim_head"]
        )
        check_at_least(self, 1, ["radial_size", "radial_hidden_dim"])
        check_at_least(self, 0, ["num_linear_attn_heads", "attn_leakyrelu_slope"])
        check_positive(self, ["norm_epsilon", "avg_atoms"])
        check_choices(
            self,
            {
                "attn_activation": ACTIVATIONS,
                "edge_kernel": EDGE_KERNELS,
                "radial_basis": RADIAL_BASES,
                "envelope": ENVELOPES,
            },
        )

        if self.num_degrees > MAX_DEGREES:
            raise ValueError(f"num_degrees must be <= {MAX_DEGREES}, got {self.num_degrees}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be a probability in [0, 1), got {self.drop_path}")
        if self.use_far_field and self.num_linear_attn_heads:
            raise ValueError(
                "use_far_field takes the place of linear attention; set num_linear_attn_heads to 0"
            )
        _ = self.fiber, self.head_sizes  # refuses lists of another length

    @property
    def fiber(self) -> Fiber:
        """Channels of each degree."""
        return per_degree("dim", self.dim, self.num_degrees)

    @property
    def head_sizes(self) -> HeadSizes:
        """Heads of each degree."""
        return HeadSizes(
            heads=per_degree("heads", self.heads, self.num_degrees),
            widths=per_degree("dim_head", self.dim_head, self.num_degrees),
            single_headed=self.single_headed_kv,
            attend_self=self.attend_self,
            gated=self.gate_attn_head_outputs,
        )

    @property
    def logits(self) -> str:
        """Kind of the attention logits."""
        return "distance" if self.l2_dist_attention else "mlp"

    def attention(self, radial: RadialSizes) -> AttentionOptions:
        """Options of one attention layer."""
        everywhere = GlobalHeads(
            heads=self.num_linear_attn_heads,
            width=self.linear_attn_dim_head,
            gated=self.l2_dist_attention,  # as published
            far=self.far if self.use_far_field else None,
            typical_atoms=self.avg_atoms,
        )

        # sizes, then choices
        return AttentionOptions(
            fiber=self.fiber,
            sizes=self.head_sizes,
            radial=radial,
            everywhere=everywhere,
            kernel=self.edge_kernel,
            handed=self.handed,
            activation=self.attn_activation,
            slope=self.attn_leakyrelu_slope,
            hidden_multiple=self.attn_hidden_dim_mult,
            zero=self.init_out_zero,
            epsilon=self.norm_epsilon,
        )

    def remarks(self) -> list[str]:
        """What a user of these choices should know, a line each."""
        found = []
        if self.envelope == "none":
            found.append(
                "envelope none: energies jump where a neighbour crosses the radius; envelope "
                "polynomial fades it out"
            )
        if self.handed:
            found.append("handed: mirror images get different predictions")
        if not self.l2_dist_attention and self.attn_activation == "leaky_relu":
            found.append("attn_activation leaky_relu: forces jump; smooth has all derivatives")

        # what reaches beyond the cutoff
        if self.num_linear_attn_heads:
            found.append(
                "num_linear_attn_heads: every atom hears all others at any distance, so energies "
                "of pieces far apart do not add up; use_far_field ends at its range"
            )
        if self.use_far_field:
            found += self.far.unextensive()
        return found


@dataclasses.dataclass(frozen=True)
class EquiformerOptions(EquiformerLayerOptions):
    """Options of :class:`farfield.models.networks.equiformer.Equiformer`.

    valid_radius, num_neighbors, attend_sparse_neighbors, max_sparse_neighbors,
    num_adj_degrees_embed: which points are neighbours, see ``models/point_graphs.py``.
    """

    dim_in: Annotated[str | None, "channels that come in, or one for each degree", LISTED] = None
    input_degrees: Annotated[int, "degrees that come in"] = 1
    num_tokens: Annotated[int | None, "number of tokens, where tokens come in"] = None
    num_positions: Annotated[int | None, "longest sequence, where places have embeddings"] = None
    num_edge_tokens: Annotated[int | None, "number of edge tokens"] = None
    edge_dim: Annotated[int | None, "features of an edge, or width of an edge token"] = None
    valid_radius: Annotated[float, "distance beyond which points are no neighbours"] = 1e5
    num_neighbors: Annotated[int | None, "nearest neighbours of a point; none: all"] = None
    attend_sparse_neighbors: Annotated[bool, "attend to adjacent points at any distance"] = False
    max_sparse_neighbors: Annotated[int | None, "most adjacent points of a point"] = None
    num_adj_degrees_embed: Annotated[int | None, "bonds up to which points count as adjacent"] = (
        None
    )
    adj_dim: Annotated[int, "width of the embedding of the number of bonds between points"] = 0
    embedding_grad_frac: Annotated[float, "share of the gradient that reaches the inputs"] = 0.5
    reduce_dim_out: Annotated[bool, "one channel of each degree leaves"] = False
    linear_out: Annotated[bool, "by a linear map; false: by a feed-forward network"] = True
    radial_scale: Annotated[float, "length to which the radial basis is scaled"] = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 1, ["input_degrees"])
        check_at_least(self, 0, ["adj_dim"])
        check_positive(self, ["radial_scale"])
        counts = ["num_tokens", "num_positions", "num_edge_tokens", "edge_dim"]
        counts += ["num_adj_degrees_embed"]
        check_at_least(self, 1, [name for name in counts if getattr(self, name) is not None])

        if self.input_degrees > self.num_degrees:
            raise ValueError(
                f"input_degrees must be <= num_degrees = {self.num_degrees}, got "
                f"{self.input_degrees}"
            )
        if self.num_edge_tokens is not None and self.edge_dim is None:
            raise ValueError("num_edge_tokens needs edge_dim, the width of their embedding")
        if self.num_neighbors == 0 and not self.attend_sparse_neighbors:
            raise ValueError(
                "num_neighbors 0 leaves no neighbours; set attend_sparse_neighbors, or ask for more"
            )
        if self.max_sparse_neighbors is not None and not self.attend_sparse_neighbors:
            raise ValueError(
                f"max_sparse_neighbors {self.max_sparse_neighbors} limits adjacent points; set "
                "attend_sparse_neighbors, or leave it out"
            )
        if not 0 <= self.embedding_grad_frac <= 1:
            raise ValueError(
                f"embedding_grad_frac must be in [0, 1], got {self.embedding_grad_frac}"
            )
        if self.adj_dim and self.num_adj_degrees_embed is None:
            raise ValueError("adj_dim needs num_adj_degrees_embed, the bonds that are told apart")
        _ = self.fiber_in, self.neighbours  # refuse what makes no sense

    @property
    def neighbours(self) -> NeighbourRule:
        """Which points are neighbours."""
        return NeighbourRule(
            valid_radius=math.inf if self.valid_radius >= EVERYWHERE else self.valid_radius,
            num_neighbors=self.num_neighbors,
            sparse=self.attend_sparse_neighbors,
            max_sparse_neighbors=self.max_sparse_neighbors,
            hops=self.num_adj_degrees_embed or 1,
        )

    @property
    def fiber_in(self) -> Fiber:
        """Channels of each degree that comes in."""
        if self.dim_in is None:
            return (self.fiber[0],) * self.input_degrees
        return per_degree("dim_in", self.dim_in, self.input_degrees)

    def remarks(self) -> list[str]:
        """What a user of these choices should know, a line each."""
        found = super().remarks()
        if self.num_neighbors:
            found.append(
                "num_neighbors: energies jump where the k-th neighbour changes; num_neighbors none "
                "with a finite valid_radius is smooth"
            )
        return found
