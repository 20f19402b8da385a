"""What an Equiformer is given, in any of four forms, as points laid end to end.

    padded tensors   feats [b, n] or [b, n, d] or {degree: [b, n, d, 2l + 1]}, coors [b, n, 3],
                     mask [b, n], adj_mat [n, n] or [b, n, n], edges [b, n, n] or [b, n, n, d]
    lists            the same without b, one tensor for each structure
    AtomBatch        node_features "type0", "type1", ... (nodes, d, 2l + 1), else atomic_numbers as
                     tokens; edge_features "edges" and "hops"; its edges are the neighbours
    DGL graph        ndata and edata of these names, and ndata "positions"

Padding is dropped here, so that it has no way to change a number. Neighbours are searched among
points (``models/point_graphs.py``); tensors of pairs are read at edges only. Cost: that of the
search; the caller's tensors are never changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.bonded_pairs import bonds_of_adjacency
from farfield.models.edges import batch_vectors, edge_vectors, safe_length
from farfield.models.graph_ops import GraphIndex
from farfield.models.kernels.padding import Padding
from farfield.models.networks.equiformer_options import EquiformerOptions
from farfield.models.point_graphs import (
    PointEdges,
    nearest_incoming,
    point_edges,
)


@dataclasses.dataclass
class Points:
    """Points of several structures, and the edges between neighbours.

    Attributes
        features     degree -> (nodes, d, 2l + 1); of degree 0 (nodes, d), or tokens (nodes,)
        positions    (nodes, 3)
        places       (nodes,) int64: place in its sequence
        graph        topology of the neighbours
        vectors      (edges, 3), x_dst - x_src
        hops         (edges,) int64: bonds between the ends, 0 where they are not bonded
        bonded       (edges,) bool: neighbours by their bonds, at any distance
        edge_values  tokens (edges,) or features (edges, d) of the edges, or None
        restore      values of nodes (nodes, ...) -> the form in which the points came
        cell, periodic  of a batch, or None
    """

    features: dict[int, Tensor]
    positions: Tensor
    places: Tensor
    graph: GraphIndex
    vectors: Tensor
    hops: Tensor
    bonded: Tensor
    edge_values: Tensor | None
    restore: Callable[[Tensor], Tensor | list[Tensor]]
    cell: Tensor | None = None
    periodic: Tensor | None = None


def read_points(options: EquiformerOptions, feats, coors, mask, adj_mat, edges) -> Points:
    """Points in any of the four forms; ValueError in one line for what does not fit."""
    if hasattr(feats, "ndata"):
        feats = AtomBatch.from_dgl(feats)
    if isinstance(feats, AtomBatch):
        if any(given is not None for given in (coors, mask, adj_mat, edges)):
            raise ValueError("a batch has its positions and edges: give nothing besides it")
        return _of_batch(options, feats)
    if coors is None:
        raise ValueError("coors is missing: give positions [b, n, 3]")
    given = _by_degree(options, feats)

    # lists, or padded tensors
    if isinstance(coors, (list, tuple)):
        if mask is not None:
            raise ValueError("lists have no padding: leave mask out")
        return _of_lists(options, given, coors, adj_mat, edges)
    return _of_dense(options, given, coors, mask, adj_mat, edges)


def _by_degree(options: EquiformerOptions, feats) -> dict[int, object]:
    """The features by degree, in a dictionary of our own; ValueError for other degrees."""
    found = dict(feats) if isinstance(feats, Mapping) else {0: feats}
    degrees = sorted(int(degree) for degree in found)
    if degrees != list(range(options.input_degrees)):
        raise ValueError(
            f"feats must have the degrees 0 .. {options.input_degrees - 1} (input_degrees = "
            f"{options.input_degrees}), got {degrees}; give {{degree: tensor}}"
        )
    return {int(degree): value for degree, value in found.items()}


def _of_dense(options, given, coors: Tensor, mask, adj_mat, edges) -> Points:
    """Padded tensors."""
    named = {f"feats of degree {degree}": value for degree, value in given.items()}
    for name, value in (named | {"mask": mask, "adj_mat": adj_mat, "edges": edges}).items():
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a tensor, as coors is; got {type(value).__name__}")
    if coors.dim() != 3 or coors.shape[-1] != 3:
        raise ValueError(f"coors must be [b, n, 3], got the shape {list(coors.shape)}")
    shape = coors.shape[:2]
    if mask is None:
        mask = torch.ones(shape, dtype=torch.bool, device=coors.device)
    if mask.shape != shape or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be bool {list(shape)} as coors, got {mask.dtype} {list(mask.shape)}"
        )
    for degree, value in given.items():
        if value.shape[:2] != shape:
            raise ValueError(
                f"feats of degree {degree} must start with {list(shape)} as coors, got the shape "
                f"{list(value.shape)}"
            )

    # a place of padding may hold anything: from here on it is gone
    padding = Padding.of(mask)
    places = torch.arange(shape[1], device=coors.device).expand(shape)
    positions, places = padding.ragged(coors), padding.ragged(places)
    bonds = None if adj_mat is None else bonds_of_adjacency(adj_mat, padding)
    found = _neighbours(options, positions, padding.counts, bonds)

    # values of pairs are read at edges: [graph, receiver, sender]
    values = None
    if edges is not None:
        if edges.shape[:3] != (shape[0], shape[1], shape[1]):
            raise ValueError(
                f"edges must start with [b, n, n] = {[shape[0], shape[1], shape[1]]}, got the "
                f"shape {list(edges.shape)}"
            )
        graph = found.graph
        values = edges[graph.graph_of_node[graph.dst], places[graph.dst], places[graph.src]]
    features = {degree: padding.ragged(value) for degree, value in given.items()}
    return _points(features, positions, places, found, values, padding.padded)


def _of_lists(options, given, coors: Sequence[Tensor], adj_mat, edges) -> Points:
    """One tensor for each structure."""
    if not coors or any(part.dim() != 2 or part.shape[1] != 3 for part in coors):
        shapes = [list(part.shape) for part in coors]
        raise ValueError(f"coors must be a list of tensors [n, 3], got the shapes {shapes}")
    sizes = [len(part) for part in coors]
    for degree, value in given.items():
        _check_rows(f"feats of degree {degree}", value, sizes)
    for name, value in (("adj_mat", adj_mat), ("edges", edges)):
        if value is not None:
            _check_rows(name, value, sizes, pairs=True)

    positions = torch.cat(list(coors))
    device = positions.device
    counts = torch.tensor(sizes, device=device)
    places = torch.cat([torch.arange(size, device=device) for size in sizes])
    bonds = None
    if adj_mat is not None:
        starts = (counts.cumsum(0) - counts).tolist()
        pairs = [
            bonds_of_adjacency(part, Padding.of_counts(torch.tensor([size], device=device)))
            for part, size in zip(adj_mat, sizes, strict=True)
        ]
        bonds = tuple(
            torch.cat([pair[end] + start for pair, start in zip(pairs, starts, strict=True)])
            for end in (0, 1)
        )
    found = _neighbours(options, positions, counts, bonds)

    values = None
    if edges is not None:
        graph = found.graph
        receivers = places[graph.dst].split(graph.edges_per_graph.tolist())
        senders = places[graph.src].split(graph.edges_per_graph.tolist())
        values = torch.cat(
            [part[i, j] for part, i, j in zip(edges, receivers, senders, strict=True)]
        )
    features = {degree: torch.cat(list(value)) for degree, value in given.items()}
    return _points(features, positions, places, found, values, lambda rows: list(rows.split(sizes)))


def _points(
    features: dict[int, Tensor],
    positions: Tensor,
    places: Tensor,
    found: PointEdges,
    values: Tensor | None,
    restore: Callable[[Tensor], Tensor | list[Tensor]],
) -> Points:
    """Points with the edges that were found between them."""
    return Points(
        features=features,
        positions=positions,
        places=places,
        graph=found.graph,
        vectors=edge_vectors(positions, found.graph),
        hops=found.hops,
        bonded=found.always,
        edge_values=values,
        restore=restore,
    )


def _check_rows(name: str, value, sizes: list[int], pairs: bool = False) -> None:
    """ValueError unless ``value`` is a list of tensors [n, ...], or of ``pairs`` [n, n, ...]."""
    axes = 2 if pairs else 1
    expected = [[size] * axes for size in sizes]
    if isinstance(value, (list, tuple)):
        got = [list(part.shape[:axes]) for part in value]
    else:
        got = type(value).__name__
    if got != expected:
        raise ValueError(
            f"{name} must be a list of tensors that start with {expected}, as coors; got {got}"
        )


def _neighbours(options: EquiformerOptions, positions: Tensor, counts: Tensor, bonds):
    """Edges between the points, by the options."""
    if bonds is None and (options.attend_sparse_neighbors or options.num_adj_degrees_embed):
        raise ValueError(
            "adj_mat is missing: attend_sparse_neighbors and num_adj_degrees_embed read it"
        )
    return point_edges(positions, counts, options.neighbours, bonds)


def _bonded_edges(
    options: EquiformerOptions, graph: GraphIndex, hops: Tensor, length: Tensor
) -> Tensor:
    """Edges of a batch that count at any distance (edges,) bool, as ``point_edges`` finds them.

    At each point those of the fewest hops, of equal hops the shortest.
    """
    bonded = hops > 0 if options.attend_sparse_neighbors else torch.zeros_like(hops, dtype=bool)
    if options.max_sparse_neighbors is None:
        return bonded

    # places in the order of hops, then of length
    by_length = length.argsort(stable=True)
    order = by_length[hops[by_length].argsort(stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    (chosen,) = bonded.nonzero(as_tuple=True)
    among = GraphIndex(graph.src[chosen], graph.dst[chosen], graph.nodes_per_graph)
    kept = nearest_incoming(among, rank[chosen], options.max_sparse_neighbors)
    return torch.zeros_like(bonded).index_fill(0, chosen[kept], True)


def _of_batch(options: EquiformerOptions, batch: AtomBatch) -> Points:
    """A batch; of its edges those within the radius and among the nearest, if there is a limit."""
    graph, held = batch.graph, batch.node_features
    features = {l: held[f"type{l}"] for l in range(options.input_degrees) if f"type{l}" in held}
    if 0 not in features and batch.atomic_numbers is not None:
        features[0] = batch.atomic_numbers
    features = _by_degree(options, features)

    vectors = batch_vectors(batch)
    length = safe_length(vectors.detach())
    hops = _hops_of_batch(options, batch)
    values = batch.edge_features.get("edges")

    # bonded edges stay, whatever their length, and take no place among the nearest
    bonded = _bonded_edges(options, graph, hops, length)
    near = ~bonded & (length < options.neighbours.valid_radius)
    if options.num_neighbors is not None:
        (chosen,) = near.nonzero(as_tuple=True)
        among = GraphIndex(graph.src[chosen], graph.dst[chosen], graph.nodes_per_graph)
        nearest = nearest_incoming(among, length[chosen], options.num_neighbors)
        near = torch.zeros_like(near).index_fill(0, chosen[nearest], True)
    (kept,) = (bonded | near).nonzero(as_tuple=True)
    return Points(
        features=features,
        positions=batch.positions,
        places=torch.arange(batch.num_nodes, device=graph.src.device)
        - graph.node_offsets[graph.graph_of_node],
        graph=GraphIndex(graph.src[kept], graph.dst[kept], graph.nodes_per_graph),
        vectors=vectors[kept],
        hops=hops[kept],
        bonded=bonded[kept],
        edge_values=None if values is None else values[kept],
        restore=lambda rows: rows,
        cell=batch.cell,
        periodic=batch.periodic,
    )


def _hops_of_batch(options: EquiformerOptions, batch: AtomBatch) -> Tensor:
    """Bonds between the ends of every edge (edges,), 0 beyond num_adj_degrees_embed."""
    hops, most = batch.edge_features.get("hops"), options.num_adj_degrees_embed
    if hops is None:
        if options.attend_sparse_neighbors or most:
            raise ValueError(
                "edge_features['hops'] is missing: attend_sparse_neighbors and "
                "num_adj_degrees_embed read it"
            )
        return torch.zeros_like(batch.graph.src)
    return torch.where((hops > 0) & (hops <= (most or 1)), hops, 0)
