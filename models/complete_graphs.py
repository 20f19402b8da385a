"""Topology of complete graphs: every node sends to every other node of its graph.

Cost: quadratic in the nodes of a graph, paid once for each size.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from farfield.models.graph_ops import GraphIndex


@functools.lru_cache(maxsize=16)
def complete_graphs(num_graphs: int, nodes: int) -> GraphIndex:
    """Topology of ``num_graphs`` complete graphs of ``nodes`` nodes each, without self loops.

    All batches of the same size share one object.
    """
    sender, receiver = complete_edges(nodes)
    first = torch.arange(num_graphs).view(-1, 1) * nodes
    return GraphIndex(
        (first + sender).flatten(), (first + receiver).flatten(), torch.full((num_graphs,), nodes)
    )


@functools.cache
def complete_edges(nodes: int) -> tuple[Tensor, Tensor]:
    """Edges of one complete graph without self loops: ``src`` and ``dst``.

    Both are (nodes (nodes - 1),) int64, sorted by (dst, src).
    """
    receiver, sender = torch.ones(nodes, nodes).fill_diagonal_(0).nonzero(as_tuple=True)
    return sender, receiver


def ragged_complete_edges(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Edges of complete graphs of different sizes without self loops: ``src`` and ``dst``.

    counts (graphs,) int64: nodes of each graph. Edges are sorted by (dst, src).
    """
    receivers = torch.repeat_interleave(counts)  # graph of each node
    senders = counts[receivers] - 1  # edges that each node receives
    dst = torch.repeat_interleave(senders)

    # place of an edge among those of its receiver (edges,), then past the receiver itself
    place = torch.arange(len(dst), device=dst.device) - (senders.cumsum(0) - senders)[dst]
    src = place + (counts.cumsum(0) - counts)[receivers][dst]
    return src + (src >= dst).long(), dst
