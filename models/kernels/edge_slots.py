"""Edges laid out as (receivers, slots): what lets the sum over the edges of a node be a matrix
product.

Receivers are sorted by their number of edges and cut into pieces; in one piece all have as many
slots as the first, so few slots are empty. An empty slot repeats some edge, and its harmonics are
set to zero. Cost: linear in edges, once for a batch.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from farfield.models.graph_ops import GraphIndex

PIECE = {
    "cpu": 1 << 19,
    "cuda": 1 << 27,
}  # numbers in one piece: 2 MB of float32 stay in a shared cache; 512 MB keep a GPU busy


class Piece(NamedTuple):
    """Receivers ``targets`` (n,), each with ``size`` slots: the rows ``slots`` of the layout, with
    senders ``src`` (n size,).
    """

    targets: Tensor
    size: int
    slots: slice
    src: Tensor


class SlotLayout:
    """Pieces of a neighbourhood, and the way of edge values to slots and back.

    pieces: in the order of their slots. slot_edge (slots,): the edge of each slot, None if slots
    are the edges in order. filled (slots, 1) bool, None if no slot is empty. edge_slot (edges,).
    """

    def __init__(self, pieces: list[Piece], slot_edge: Tensor, filled: Tensor, num_edges: int):
        self.pieces = pieces
        place = torch.arange(slot_edge.shape[0], device=slot_edge.device)
        ordered = slot_edge.shape[0] == num_edges and bool((slot_edge == place).all())
        self.edge_slot = slot_edge.new_empty(num_edges).index_copy(
            0, slot_edge[filled], place[filled]
        )
        self.slot_edge = None if ordered else slot_edge
        self.filled = None if slot_edge.shape[0] == num_edges else filled.unsqueeze(1)

    def spread(self, values: Tensor) -> Tensor:
        """Edge values (edges, k) to slots (slots, k)."""
        return (
            values.contiguous()
            if self.slot_edge is None
            else values.index_select(0, self.slot_edge)
        )

    def spread_filled(self, values: Tensor) -> Tensor:
        """The same with zeros in empty slots."""
        values = self.spread(values)
        return values if self.filled is None else values * self.filled

    def collect(self, values: Tensor) -> Tensor:
        """Values of slots (slots, k) back to edges (edges, k)."""
        return values if self.slot_edge is None else values.index_select(0, self.edge_slot)


class Neighbourhoods:
    """Edges from ``num_sources`` senders ``src`` (edges,) to ``num_targets`` receivers ``dst``
    (edges,), grouped by receiver.
    """

    def __init__(self, src: Tensor, dst: Tensor, num_sources: int, num_targets: int):
        self.src, self.dst, self.num_sources, self.num_targets = src, dst, num_sources, num_targets
        self._layouts: dict[int, SlotLayout] = {}

    @functools.cached_property
    def graph(self) -> GraphIndex:
        """The edges as one graph of max(num_sources, num_targets) nodes, as DGL wants them."""
        nodes = max(self.num_sources, self.num_targets)
        return GraphIndex(self.src, self.dst, torch.tensor([nodes], device=self.src.device))

    def layout(self, numbers: int) -> SlotLayout:
        """The edges in pieces of about ``PIECE`` numbers where every edge has ``numbers`` of
        them.
        """
        limit = max(PIECE.get(self.src.device.type, PIECE["cpu"]) // max(numbers, 1), 1)
        limit = 1 << min(
            limit.bit_length() - 1, self.src.shape[0].bit_length() + 1
        )  # few different layouts, of a small graph one
        if limit not in self._layouts:
            self._layouts[limit] = self._cut(limit)
        return self._layouts[limit]

    @functools.cached_property
    def _by_target(self) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """Edges sorted by receiver, first edge of each receiver, receivers by falling number of
        edges, and these numbers above 0.
        """
        degree = torch.bincount(self.dst, minlength=self.num_targets)
        count, targets = degree.sort(descending=True, stable=True)
        counts = [number for number in count.tolist() if number]
        return self.dst.argsort(stable=True), degree.cumsum(0) - degree, targets, counts

    def _cut(self, limit: int) -> SlotLayout:
        edges, first, targets, counts = self._by_target
        pieces, slot_edge, filled = (
            [],
            [self.src.new_empty(0)],
            [self.src.new_empty(0, dtype=torch.bool)],
        )
        begin = start = 0
        while begin < len(counts):
            size = counts[begin]
            chosen = targets[begin : min(begin + max(limit // size, 1), len(counts))]
            place = torch.arange(size, device=edges.device)
            number = torch.tensor(counts[begin : begin + chosen.shape[0]], device=edges.device)
            real = place < number.unsqueeze(1)  # (receivers, size)
            edge = edges[torch.where(real, first[chosen].unsqueeze(1) + place, 0)].flatten()
            stop = start + edge.shape[0]
            pieces.append(Piece(chosen, size, slice(start, stop), self.src[edge]))
            slot_edge.append(edge)
            filled.append(real.flatten())
            begin, start = begin + chosen.shape[0], stop
        return SlotLayout(pieces, torch.cat(slot_edge), torch.cat(filled), self.src.shape[0])
