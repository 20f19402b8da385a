"""Option sets of the Equiformer's face, and structures in each of the forms that it reads.

Structures are made as lists, one tensor each; ``padded``, ``batched`` put the same numbers into
padded tensors with a mask and into a batch with edges between all points.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.complete_graphs import ragged_complete_edges
from farfield.models.graph_ops import GraphIndex
from farfield.models.networks.equiformer import Equiformer
from farfield.models.so3.irreps import degree_slice
from tests.support.draws import draw
from tests.support.turns import turn_matrix

SMALL = {
    "num_tokens": 5,
    "dim": (8, 4, 2),
    "num_degrees": 3,
    "depth": 1,
    "heads": 2,
    "dim_head": 4,
    "radial_hidden_dim": 8,
    "init_out_zero": False,
}
MLP = {"l2_dist_attention": False}
BONDED = {"attend_sparse_neighbors": True, "num_neighbors": 0}
EMBEDDED = {"num_adj_degrees_embed": 2, "adj_dim": 3}

# name -> options besides SMALL
CASES: dict[str, dict[str, Any]] = {
    "distance": {},
    "mlp": MLP,
    "leaky": MLP | {"attn_activation": "leaky_relu"},
    "single-head": {"single_headed_kv": True},
    "single-head-mlp": MLP | {"single_headed_kv": True},
    "without-self": {"attend_self": False, "valid_radius": 3.0},
    "without-self-mlp": MLP | {"attend_self": False, "valid_radius": 3.0},
    "without-gates": {"gate_attn_head_outputs": False},
    "norms": {"ff_include_htype_norms": True},
    "global-heads": {"num_linear_attn_heads": 2, "linear_attn_dim_head": 3},
    "global-heads-mlp": MLP | {"num_linear_attn_heads": 2, "linear_attn_dim_head": 3},
    "far-field": {"use_far_field": True, "valid_radius": 2.0},
    "pairwise": {"edge_kernel": "pairwise"},
    "pairwise-mlp": MLP | {"edge_kernel": "pairwise"},
    "one-degree": {"num_degrees": 1, "dim": 8},
    "four-degrees": {"num_degrees": 4, "dim": (6, 5, 3, 2), "heads": (3, 2, 1, 2), "dim_head": 2},
    "input-degrees": {"num_tokens": None, "input_degrees": 2, "dim_in": (5, 3)},
    "input-features": {"num_tokens": None, "dim_in": 6},
    "edge-tokens": {"num_edge_tokens": 4, "edge_dim": 3},
    "edge-features": {"edge_dim": 3},
    "bonded": BONDED,
    "bonded-limit": BONDED | {"num_neighbors": 2, "max_sparse_neighbors": 1, "valid_radius": 5.0},
    "bonds-embedded": EMBEDDED | {"valid_radius": 3.0},
    "bonded-embedded": BONDED | EMBEDDED,
    "reduced": {"reduce_dim_out": True},
    "reduced-forward": {"reduce_dim_out": True, "linear_out": False},
    "reversible": {"reversible": True, "depth": 2},
    "two-layers": {"depth": 2},
    "positions": {"num_positions": 9},
    "radius": {"valid_radius": 2.5},
    "radius-jump": {"valid_radius": 2.5, "envelope": "none"},
    "nearest": {"num_neighbors": 3},
    "bessel": {"radial_basis": "bessel", "radial_scale": 4.0, "radial_size": 6},
}
HANDED: dict[str, dict[str, Any]] = {
    "handed": {"handed": True, "depth": 2},
    "handed-mlp": MLP | {"handed": True, "depth": 2},
    "handed-pairwise": {"handed": True, "depth": 2, "edge_kernel": "pairwise"},
}

Given = dict[str, Any]  # feats, coors, adj_mat, edges, each a list or None


def make_face(dtype: torch.dtype = torch.float64, **options) -> Equiformer:
    """A small model in eval mode, all weights random."""
    torch.manual_seed(0)
    model = Equiformer(**(SMALL | options)).to(dtype).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.normal_(std=0.3)
    return model


def structures(model: Equiformer, sizes: list[int], seed: int = 0) -> Given:
    """Random structures as lists in float64, whatever the options read of them."""
    options, parts = model.options, range(len(sizes))
    tokens = torch.Generator().manual_seed(seed)

    def features(l: int) -> list[Tensor]:
        shape = (options.fiber_in[l], 2 * l + 1)
        return [draw(size, *shape, seed=seed + 10 * l + n) for n, size in enumerate(sizes)]

    if options.num_tokens is not None:
        feats = [torch.randint(options.num_tokens, (size,), generator=tokens) for size in sizes]
    elif options.input_degrees == 1:
        feats = [part.squeeze(-1) for part in features(0)]
    else:
        feats = {l: features(l) for l in range(options.input_degrees)}

    edges = None
    if options.num_edge_tokens is not None:
        shapes = [(size, size) for size in sizes]
        edges = [torch.randint(options.num_edge_tokens, s, generator=tokens) for s in shapes]
    elif options.edge_dim is not None:
        edges = [draw(sizes[n], sizes[n], options.edge_dim, seed=seed + 40 + n) for n in parts]
    return {
        "feats": feats,
        "coors": [1.5 * draw(size, 3, seed=seed + 70 + n) for n, size in enumerate(sizes)],
        "adj_mat": [ring(size) for size in sizes] if reads_bonds(model) else None,
        "edges": edges,
    }


def reads_bonds(model: Equiformer) -> bool:
    """Whether the model asks for an adjacency."""
    options = model.options
    return options.attend_sparse_neighbors or options.num_adj_degrees_embed is not None


def ring(size: int) -> Tensor:
    """Adjacency (size, size) of a ring; nobody is adjacent to itself."""
    place = torch.arange(size)
    apart = (place.unsqueeze(1) - place).abs()
    return ((apart == 1) | (apart == size - 1)) & (apart > 0)


def mapped(feats, change):
    """Features, or those of each degree, after ``change(degree, value)``."""
    if isinstance(feats, dict):
        return {l: change(l, value) for l, value in feats.items()}
    return change(0, feats)


def cast(value, dtype: torch.dtype):
    """Floating-point tensors of lists and dictionaries in another type."""
    if isinstance(value, dict):
        return {name: cast(part, dtype) for name, part in value.items()}
    if isinstance(value, list):
        return [cast(part, dtype) for part in value]
    is_real = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if is_real else value


def holed_mask(sizes: list[int], longest: int, *, holes: bool = True) -> Tensor:
    """Mask (graphs, longest) with as many places as sizes, spread at random or the first ones."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(len(sizes), longest, dtype=torch.bool)
    for row, size in zip(mask, sizes, strict=True):
        places = torch.randperm(longest, generator=generator) if holes else torch.arange(longest)
        row[places[:size]] = True
    return mask


def padded(given: Given, mask: Tensor, garbage: float = float("nan")) -> Given:
    """The structures as padded tensors; padding is ``garbage``, or tokens out of range."""

    def fill(parts: list[Tensor], axes: int) -> Tensor:
        first = parts[0]
        bad = garbage if first.is_floating_point() else True if first.dtype == torch.bool else 99
        shape = (len(mask), *[mask.shape[1]] * axes, *first.shape[axes:])
        out = torch.full(shape, bad, dtype=first.dtype)
        for n, part in enumerate(parts):
            places = mask[n].nonzero().flatten()
            at = (places,) if axes == 1 else (places.unsqueeze(1), places)
            out[(n, *at)] = part
        return out

    pairs = {name: given[name] and fill(given[name], 2) for name in ("adj_mat", "edges")}
    feats = mapped(given["feats"], lambda l, parts: fill(parts, 1))
    return {"feats": feats, "coors": fill(given["coors"], 1), "mask": mask} | pairs


def batched(model: Equiformer, given: Given) -> AtomBatch:
    """The structures as a batch with all pairs as edges, hops counted by powers of matrices."""
    sizes = torch.tensor([len(part) for part in given["coors"]])
    src, dst = ragged_complete_edges(sizes)
    features: dict[str, Tensor] = {}
    numbers = None
    if model.options.num_tokens is not None:
        numbers = torch.cat(given["feats"])
    elif isinstance(given["feats"], dict):
        features = {f"type{l}": torch.cat(parts) for l, parts in given["feats"].items()}
    else:
        features = {"type0": torch.cat(given["feats"])}

    def of_edges(parts: list[Tensor]) -> Tensor:
        """Values [receiver, sender] of every structure, in the order of the edges."""
        start = (sizes.cumsum(0) - sizes).tolist()
        whole = parts[0].new_zeros(int(sizes.sum()), int(sizes.sum()), *parts[0].shape[2:])
        for n, part in zip(start, parts, strict=True):
            whole[n : n + len(part), n : n + len(part)] = part
        return whole[dst, src]

    pairs = {}
    if given["adj_mat"] is not None:
        pairs["hops"] = of_edges([bonds_between(part) for part in given["adj_mat"]])
    if given["edges"] is not None:
        pairs["edges"] = of_edges(given["edges"])
    positions = torch.cat(given["coors"])
    return AtomBatch(GraphIndex(src, dst, sizes), positions, numbers, features, pairs)


def bonds_between(adjacency: Tensor) -> Tensor:
    """Fewest bonds between every two points (n, n), 0 where there is no path."""
    step = adjacency.double()
    found, reach = torch.zeros_like(adjacency, dtype=torch.long), step
    for hops in range(1, len(adjacency)):
        new = (reach > 0) & (found == 0) & ~torch.eye(len(adjacency), dtype=torch.bool)
        found[new] = hops
        reach = reach @ step
    return found


@dataclasses.dataclass(frozen=True)
class Motion:
    """``x -> M x + shift``, M orthogonal (3, 3) in float64."""

    matrix: Tensor
    shift: Tensor

    def of(self, given: Given) -> Given:
        """Structures as lists, moved; what their features stand for turns too."""
        coors = [part @ self.matrix.T + self.shift for part in given["coors"]]

        def turn(l: int, parts: list[Tensor]) -> list[Tensor]:
            return parts if l == 0 else [self.turned(l, part) for part in parts]

        return given | {"coors": coors, "feats": mapped(given["feats"], turn)}

    def turned(self, l: int, values: Tensor) -> Tensor:
        """Values (..., 2l + 1) of degree l, turned; invariants as they are."""
        if l == 0:
            return values
        rows = degree_slice(l)
        turn = turn_matrix(self.matrix, l)[rows, rows].to(values.dtype)
        return values @ turn.T
