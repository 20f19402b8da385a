"""The nearest neighbours of an atom alone: a limit of their number without a jump.

    c_ij = sum_n S((r_ij - r_in) / w)        neighbours n of i that are nearer than j
    f_ij = S(k - c_ij)                       1 for the nearest k, 0 beyond,

with S the quintic step from 0 at 0 to 1 at 1, w = ``RANK_WIDTH`` and k the limit. A neighbour that
is nearer by w counts as one, a neighbour that is as far counts as none, so neighbours at equal
distance are kept or left together. Published programs take the first k of a sorted list instead:
their energy jumps whenever two distances change places.

f has two continuous derivatives by the positions, as S has. Edges beyond the cutoff count for
nothing inside of it, so f does not depend on how far the graph reaches.

Cost: one sort of the edges, and the pairs of edges of one atom that are less than w apart, near the
limit alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.models.graph_ops import GraphIndex
from farfield.models.layers.smooth_step import smooth_step
from farfield.models.tracing import NotTraceableError, is_tracing

# Angstrom, about the distance between shells of neighbours: shorter ones make steeper forces
RANK_WIDTH = 0.5


def neighbour_limit(graph: GraphIndex, length: Tensor, most: int) -> Tensor:
    """Factor of every edge (edges,): 1 for the nearest ``most`` neighbours of the receiver, 0 for
    those beyond, differentiable by the lengths (edges,) in Angstrom.

    A trace cannot hold it: ``NotTraceableError``.
    """
    if is_tracing():
        raise NotTraceableError("max_neighbors sorts the neighbours of each atom")

    with torch.no_grad():
        order, place, first, start = _sorted_edges(graph.dst, length)
        rank = place - first  # neighbours that are not farther
        surely_nearer = start - first  # nearer by RANK_WIDTH
        certain = (rank < most) | (surely_nearer >= most)
        open_edges = (~certain).nonzero().squeeze(1)

        # pairs of an edge and the nearer ones in its window, (pairs,) each
        number = (place - start)[open_edges]
        edge = torch.repeat_interleave(open_edges, number)
        begin = torch.repeat_interleave(number.cumsum(0) - number, number)
        inside = torch.arange(edge.shape[0], device=edge.device) - begin
        nearer = order[start[edge] + inside]

    # what is certain is a constant: 1 or 0
    steps = smooth_step((length[edge] - length[nearer]) / RANK_WIDTH)
    count = surely_nearer.to(length.dtype).index_add(0, edge, steps)
    return torch.where(certain, (rank < most).to(length.dtype), smooth_step(most - count))


def _sorted_edges(dst: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The edges by receiver, then by length.

    order (edges,): edges in this order. Of every edge: its place in it, the first place of its
    receiver, and the first place of an edge that is not nearer by ``RANK_WIDTH``.
    """
    length = length.double()
    span = float(length.max()) + 3 * RANK_WIDTH if length.numel() else 1.0
    key = dst.double() * span + length  # no two receivers overlap, even a width apart
    ordered, order = key.sort(stable=True)

    place = torch.empty_like(order)
    place[order] = torch.arange(order.shape[0], device=order.device)
    first = torch.searchsorted(ordered, dst.double() * span)
    start = torch.searchsorted(ordered, key - RANK_WIDTH)
    return order, place, first, torch.maximum(start, first)
