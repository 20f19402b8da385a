"""Graphs of points: who is a neighbour of whom, by distance and by bonds.

Point j is a neighbour of i, edge j -> i, by a :class:`NeighbourRule`:

    |x_i - x_j| < valid_radius, and j is among the num_neighbors nearest of i,
    or a bonded pair, at most max_sparse_neighbors of i, that counts whatever its distance.

Points at one distance come in the order of their index, and points at one place are neighbours of
each other. The k nearest are a hard choice: an energy jumps where two points change their rank.

All graphs of a batch share one k-d tree (scipy), in four dimensions: the fourth coordinate of a
point is its graph's number times a length that no search spans. It cancels exactly inside a graph,
so a graph finds the same neighbours in any batch.

Cost: N log N + edges, on one core. vesin, which finds the graphs of data sets, knows no k nearest,
and its time grows as the cube of a radius beyond the structure; users of point sets give large
radii to say "all".
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor

from farfield.models.bonded_pairs import BondedPairs, Bonds, pairs_within
from farfield.models.complete_graphs import ragged_complete_edges
from farfield.models.graph_ops import GraphIndex

MAX_VALUES_PER_QUERY = 2**22
MAX_COORDINATE = 1e150  # the square of a larger distance is no number


@dataclasses.dataclass(frozen=True)
class NeighbourRule:
    """Which points are neighbours; ValueError in one line for limits that make no sense.

    valid_radius: in the unit of the positions; at this distance a pair is no neighbour any more.
    num_neighbors: of each receiver, those bonded not counted; 0 leaves bonded pairs alone.
    sparse: bonded pairs, up to ``hops`` bonds apart, are always neighbours. max_sparse_neighbors:
    of each receiver, fewest hops first, then the closest; those beyond count as all others do.
    """

    valid_radius: Annotated[float, "largest distance of two neighbours"] = math.inf
    num_neighbors: Annotated[
        int | None, "number of nearest neighbours of a point; none: all inside the radius"
    ] = None
    sparse: Annotated[bool, "bonded pairs are neighbours at any distance"] = False
    max_sparse_neighbors: Annotated[
        int | None, "largest number of bonded neighbours of a point; none: all"
    ] = None
    hops: Annotated[int, "number of bonds up to which a pair counts as bonded"] = 1

    def __post_init__(self):
        if not self.valid_radius > 0:
            raise ValueError(f"valid_radius must be > 0 (inf: no limit), got {self.valid_radius}")

        limits = {"num_neighbors": 0, "max_sparse_neighbors": 1, "hops": 1}
        for name, least in limits.items():
            count, optional = getattr(self, name), name != "hops"
            if not ((count is None and optional) or (type(count) is int and count >= least)):
                none = " or None (all)" if optional else ""
                raise ValueError(f"{name} must be a whole number >= {least}{none}, got {count!r}")

        if self.sparse:
            return
        if self.num_neighbors == 0:
            raise ValueError(
                "num_neighbors = 0 leaves bonded neighbours alone, but sparse is off; "
                "give num_neighbors >= 1, or turn sparse on and give bonds"
            )
        if self.max_sparse_neighbors is not None:
            raise ValueError(
                f"max_sparse_neighbors = {self.max_sparse_neighbors} limits bonded neighbours, but "
                "sparse is off; turn sparse on, or leave max_sparse_neighbors out"
            )


class PointEdges(NamedTuple):
    """Neighbours of points.

    graph: edges sorted by (dst, src), without self loops. hops (edges,) int64: graph distance
    1 .. hops of a bonded pair, 0 of another. always (edges,) bool: neighbours by their bonds, at
    any distance.
    """

    graph: GraphIndex
    hops: Tensor
    always: Tensor


def point_edges(
    positions: Tensor, counts: Tensor, rule: NeighbourRule, bonds: Bonds | None = None
) -> PointEdges:
    """Edges between neighbours, found on the CPU, without gradient.

    positions (nodes, 3), graph after graph, on any device, where the edges are put. counts
    (graphs,) int64: points of each graph. bonds: ``src`` and ``dst`` (k,) over all nodes, each bond
    in one direction or both; see models.bonded_pairs. ValueError in one line for positions that do
    not fit the counts or are not finite, for bad bonds, and for a sparse rule without bonds.

    Example: the two nearest of each point of a cloud, and the points before and after it.

        counts = torch.tensor([50])
        rule = NeighbourRule(num_neighbors=2, sparse=True)
        graph, hops, always = point_edges(torch.randn(50, 3), counts, rule, chain_bonds(counts))
    """
    if rule.sparse and bonds is None:
        raise ValueError("sparse is on but there are no bonds; give bonds, or turn sparse off")
    points, sizes = _checked_points(positions, counts)
    nodes = len(points)

    # a pair is one number, code = dst * nodes + src
    bonded = pairs_within(bonds, sizes, rule.hops)
    always = _always_kept(points, bonded, rule) if rule.sparse else np.zeros(0, np.int64)
    near = _near_pairs(points, sizes, rule, always)
    code = np.sort(np.concatenate([near, always]))
    dst, src = (torch.from_numpy(ends) for ends in np.divmod(code, max(nodes, 1)))

    graph = GraphIndex(src, dst, torch.from_numpy(sizes)).to(positions.device)
    hops, kept = bonded.hops_of(code), np.isin(code, always)
    return PointEdges(
        graph,
        torch.from_numpy(hops).to(positions.device),
        torch.from_numpy(kept).to(positions.device),
    )


def nearest_incoming(graph: GraphIndex, length: Tensor, k: int) -> Tensor:
    """The k shortest incoming edges of every node, as ascending edge numbers (kept,) int64.

    length (edges,): of each edge; between equal ones the first edge is shorter. A node with fewer
    than k incoming edges keeps all.
    """
    order = length.detach().argsort(stable=True)
    kept = _first_of_each(graph.dst[order], graph.num_nodes, k)
    return order[kept].sort().values


def _first_of_each(group: Tensor, count: int, most: int) -> Tensor:
    """Whether a row is among the first ``most`` of its group: (rows,) bool.

    group (rows,) int64, values 0 .. count - 1 in any order.
    """
    order = group.argsort(stable=True)
    sizes = torch.bincount(group, minlength=count)
    first = sizes.cumsum(0) - sizes

    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=group.device) - first[group[order]]
    return rank < most


def _checked_points(positions: Tensor, counts: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Positions in float64 and sizes of the graphs, on the CPU."""
    points = positions.detach().to("cpu", torch.float64).numpy()
    sizes = counts.detach().to("cpu", torch.int64).numpy()
    if points.ndim != 2 or points.shape[1] != 3 or len(points) != sizes.sum():
        raise ValueError(
            f"positions must have shape {(int(sizes.sum()), 3)}, as the counts add up, got "
            f"{points.shape}"
        )
    bad = ~(np.abs(points) < MAX_COORDINATE).all(1)
    if bad.any():
        first = int(bad.argmax())
        raise ValueError(f"positions must be finite, got {points[first].tolist()} at point {first}")
    return points, sizes


def _always_kept(points: np.ndarray, bonded: BondedPairs, rule: NeighbourRule) -> np.ndarray:
    """Codes of the bonded pairs that are neighbours at any distance, ascending."""
    if rule.max_sparse_neighbors is None:
        return bonded.code

    # fewest hops first, then the closest, then the lowest index
    dst, src = np.divmod(bonded.code, max(len(points), 1))
    order = np.lexsort((src, np.linalg.norm(points[dst] - points[src], axis=1), bonded.hops))
    receiver = torch.from_numpy(dst[order])
    kept = _first_of_each(receiver, len(points), rule.max_sparse_neighbors).numpy()
    return np.sort(bonded.code[order[kept]])


def _near_pairs(
    points: np.ndarray, sizes: np.ndarray, rule: NeighbourRule, always: np.ndarray
) -> np.ndarray:
    """Codes of the pairs that are neighbours by their distance alone, in any order.

    always: codes of the pairs that are kept anyway; they are left out and take no place among the k
    nearest.
    """
    nodes, k = len(points), rule.num_neighbors
    if nodes < 2 or k == 0:
        return np.zeros(0, np.int64)
    if k is not None:
        return _nearest_pairs(points, sizes, rule, always)

    if math.isinf(rule.valid_radius):
        src, dst = ragged_complete_edges(torch.from_numpy(sizes))
        code = (dst * nodes + src).numpy()
    else:
        # the tree counts a pair at the radius itself, and each pair once
        lifted, reach = _apart(points, sizes, rule.valid_radius)
        one, other = _tree(lifted).query_pairs(np.nextafter(reach, 0), output_type="ndarray").T
        code = np.concatenate([one * nodes + other, other * nodes + one])
    return code[~_among(always, code)] if len(always) else code


def _apart(points: np.ndarray, sizes: np.ndarray, radius: float) -> tuple[np.ndarray, float]:
    """Points (nodes, 4) whose graphs lie apart along a fourth axis, and a radius for a search.

    All points of a graph are inside the radius if those within ``radius`` are; other graphs are
    outside.
    """
    extent = float(np.linalg.norm(np.ptp(points, axis=0))) or 1.0
    height = 2 * extent * np.repeat(np.arange(len(sizes), dtype=np.float64), sizes)
    return np.column_stack([points, height]), min(radius, 1.5 * extent)


def _nearest_pairs(
    points: np.ndarray, sizes: np.ndarray, rule: NeighbourRule, always: np.ndarray
) -> np.ndarray:
    """Codes of the k nearest inside the radius, besides the pairs ``always``."""
    nodes, k, largest = len(points), rule.num_neighbors, int(sizes.max())
    lifted, reach = _apart(points, sizes, rule.valid_radius)
    tree, parts = _tree(lifted), []

    # among so many are k besides the point itself and the pairs kept anyway; one more shows
    # whether the last place is contested
    needed = np.minimum(k + 1 + np.bincount(always // nodes, minlength=nodes), largest)
    width = np.minimum(needed + 1, largest)
    waiting = np.arange(nodes)
    while len(waiting):
        # receivers that ask for the same number, as many as memory allows
        most = int(width[waiting].min())
        now = (width[waiting] == most).nonzero()[0][: MAX_VALUES_PER_QUERY // most + 1]
        rows = waiting[now]
        found = tree.query(lifted[rows], k=most, distance_upper_bound=reach)
        distance, sender = (values.reshape(len(rows), most) for values in found)

        # where the last place is contested, twice as many at the next turn
        last = distance[np.arange(len(rows)), needed[rows] - 1]
        sure = (last < distance[:, -1]) | np.isinf(last) | (most == largest)
        width[rows] = np.minimum(2 * most, largest)
        waiting = np.delete(waiting, now[sure])
        rows, sender = rows[sure, None], _ties_by_index(distance[sure], sender[sure])

        # the first k (rows, width) that are free; what is not there has the number ``nodes``
        code = rows * nodes + sender
        free = (sender < nodes) & (sender != rows) & ~_among(always, code)
        parts.append(code[free & (free.cumsum(1) <= k)])
    return np.concatenate(parts)


def _among(codes: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Whether each number of ``code`` (any shape) is one of the ascending ``codes``."""
    if not len(codes):
        return np.zeros(code.shape, bool)
    return codes[np.searchsorted(codes, code).clip(max=len(codes) - 1)] == code


def _tree(points: np.ndarray):
    """k-d tree of points; scipy is imported by the first search (0.2 s)."""
    from scipy.spatial import cKDTree

    return cKDTree(points)


def _ties_by_index(distance: np.ndarray, sender: np.ndarray) -> np.ndarray:
    """Senders (rows, width), ascending in distance, with equal distances in order of the index."""
    tied = (distance[:, 1:] == distance[:, :-1]) & np.isfinite(distance[:, 1:])
    (rows,) = tied.any(1).nonzero()
    order = np.lexsort((sender[rows], distance[rows]), axis=-1)
    sender[rows] = np.take_along_axis(sender[rows], order, axis=1)
    return sender
