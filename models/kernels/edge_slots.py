"""Edges laid out as (receivers, slots), so that a sum over the edges of a node is a matrix product.

Receivers are sorted by their number of edges and cut into chunks. All receivers of one chunk have
as many slots as the first one has edges, so few slots stay empty. An empty slot repeats some edge,
and its harmonics are set to zero.

Cost: linear in edges, once for a batch.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from farfield.models.graph_ops import GraphIndex

# 2 MB of float32 stay in a shared cache of a processor; 512 MB keep a GPU busy
VALUES_PER_CHUNK = {"cpu": 1 << 19, "cuda": 1 << 27}


class ReceiverChunk(NamedTuple):
    """Receivers that are summed together.

    targets (n,): the receivers. size: slots of each of them. slots: their rows in the layout, n x
    size of them. src (n size,): the sender of each slot.
    """

    targets: Tensor
    size: int
    slots: slice
    src: Tensor


class SlotLayout:
    """Chunks of receivers, and the way of edge values to slots and back.

    chunks: in the order of their slots, num_slots of them in all. slot_edge (slots,): the edge of
    each slot, None where the slots are the edges in order. filled (slots, 1) bool: None where no
    slot is empty. edge_slot (edges,): the slot of each edge.
    """

    def __init__(
        self, chunks: list[ReceiverChunk], slot_edge: Tensor, filled: Tensor, num_edges: int
    ):
        self.chunks, self.num_slots = chunks, slot_edge.shape[0]
        place = torch.arange(slot_edge.shape[0], device=slot_edge.device)

        # where the slots are the edges in order, no value has to move
        ordered = slot_edge.shape[0] == num_edges and bool((slot_edge == place).all())
        self.slot_edge = None if ordered else slot_edge

        self.edge_slot = slot_edge.new_empty(num_edges).index_copy(
            0, slot_edge[filled], place[filled]
        )
        self.filled = None if slot_edge.shape[0] == num_edges else filled.unsqueeze(1)

    def spread(self, values: Tensor) -> Tensor:
        """Edge values (edges, k) to slots (slots, k)."""
        if self.slot_edge is None:
            return values.contiguous()
        return values.index_select(0, self.slot_edge)

    def spread_some(self, values: Tensor, slots: slice) -> Tensor:
        """Edge values (edges, ...) to some slots."""
        if self.slot_edge is None:
            return values[slots]
        return values.index_select(0, self.slot_edge[slots])

    def spread_filled(self, values: Tensor) -> Tensor:
        """Edge values (edges, k) to slots (slots, k), zero in empty slots."""
        values = self.spread(values)
        return values if self.filled is None else values * self.filled

    def collect(self, values: Tensor) -> Tensor:
        """Values of slots (slots, k) back to edges (edges, k)."""
        return values if self.slot_edge is None else values.index_select(0, self.edge_slot)


class EdgeSlots:
    """Edges grouped by receiver, cut into chunks as wide values ask for.

    src (edges,): senders, in 0 .. num_sources - 1. dst (edges,): receivers, in 0 .. num_targets -
    1. Layouts are made when they are first asked for, and kept.
    """

    def __init__(self, src: Tensor, dst: Tensor, num_sources: int, num_targets: int):
        self.src, self.dst = src, dst
        self.num_sources, self.num_targets = num_sources, num_targets
        self._layouts: dict[int, SlotLayout] = {}

    @functools.cached_property
    def graph(self) -> GraphIndex:
        """The edges as one graph of max(num_sources, num_targets) nodes, which DGL needs."""
        nodes = max(self.num_sources, self.num_targets)
        return GraphIndex(self.src, self.dst, torch.tensor([nodes], device=self.src.device))

    def layout(self, values_per_edge: int) -> SlotLayout:
        """The edges in chunks of about ``VALUES_PER_CHUNK`` values."""
        values = VALUES_PER_CHUNK.get(self.src.device.type, VALUES_PER_CHUNK["cpu"])
        limit = max(values // max(values_per_edge, 1), 1)

        # powers of two: few different layouts, and a small graph has only one
        limit = 1 << min(limit.bit_length() - 1, self.src.shape[0].bit_length() + 1)
        if limit not in self._layouts:
            self._layouts[limit] = self._cut(limit)
        return self._layouts[limit]

    @functools.cached_property
    def _by_target(self) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """Order of the edges and of the receivers in every layout.

        Edges sorted by receiver (edges,), first edge of each receiver (targets,), receivers by
        falling number of edges (targets,), and these counts as far as they are above 0.
        """
        degree = torch.bincount(self.dst, minlength=self.num_targets)
        count, targets = degree.sort(descending=True, stable=True)
        counts = [number for number in count.tolist() if number]
        return self.dst.argsort(stable=True), degree.cumsum(0) - degree, targets, counts

    def _cut(self, limit: int) -> SlotLayout:
        """Layout whose chunks have about ``limit`` slots."""
        edges, first, targets, counts = self._by_target
        chunks = []
        slot_edge = [self.src.new_empty(0)]
        filled = [self.src.new_empty(0, dtype=torch.bool)]

        begin = start = 0  # receiver, slot
        while begin < len(counts):
            size = counts[begin]
            chosen = targets[begin : min(begin + max(limit // size, 1), len(counts))]

            # (receivers, size): which slots hold an edge; the others repeat the first edge of all
            place = torch.arange(size, device=edges.device)
            number = torch.tensor(counts[begin : begin + chosen.shape[0]], device=edges.device)
            real = place < number.unsqueeze(1)
            edge = edges[torch.where(real, first[chosen].unsqueeze(1) + place, 0)].flatten()

            stop = start + edge.shape[0]
            chunks.append(ReceiverChunk(chosen, size, slice(start, stop), self.src[edge]))
            slot_edge.append(edge)
            filled.append(real.flatten())
            begin, start = begin + chosen.shape[0], stop
        return SlotLayout(chunks, torch.cat(slot_edge), torch.cat(filled), self.src.shape[0])
