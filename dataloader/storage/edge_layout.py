"""From undirected edges, stored once, to the directed edges of a batch.

The directed edges of a graph are ordered by (dst, src), as in all batches of this project. Cost:
one sort of the edges; the layouts of complete graphs are kept.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

COMPLETE = {"kind": "complete"}  # graph rule: every pair of nodes is an edge
MOST_NODES_IN_16_BITS = 1 << 16
KEPT_LAYOUTS = 16  # of batches of complete graphs


class GraphEdges(NamedTuple):
    """Undirected edges of one graph.

    num_nodes: nodes of the graph. ends (edges, 2): nodes a < b. vectors (edges, 3): x_b - x_a.
    """

    num_nodes: int
    ends: np.ndarray
    vectors: np.ndarray


class EdgeLayout(NamedTuple):
    """Directed edges of a batch, ordered by (dst, src).

    rows (edges,): the undirected edge of the batch. backward (edges,): whether the edge runs
    against the stored direction a -> b. src, dst (edges,): nodes of the batch. counts (graphs,):
    directed edges of each graph.
    """

    rows: np.ndarray
    backward: np.ndarray
    src: np.ndarray
    dst: np.ndarray
    counts: np.ndarray


def complete_pairs(nodes: int) -> np.ndarray:
    """Ends (nodes (nodes - 1) / 2, 2) of the undirected edges of a complete graph, sorted."""
    return np.stack(np.triu_indices(nodes, 1), 1)


def before(counts: np.ndarray) -> np.ndarray:
    """Sum of all counts before each (graphs,)."""
    return np.cumsum(counts) - counts


def directed_edges(ends: np.ndarray, counts: np.ndarray, nodes: np.ndarray) -> EdgeLayout:
    """Both directions of undirected edges that are sorted by (a, b) in each graph.

    ends (undirected edges, 2): nodes inside their graph. counts (graphs,): undirected edges. nodes
    (graphs,): nodes. A node receives first from all nodes before it (edges a -> b), then from all
    after it (edges b -> a); both come in order, so a stable sort by the receiving node is enough.
    """
    a, b = (ends.astype(np.int64) + np.repeat(before(nodes), counts)[:, None]).T
    src, dst = np.concatenate([a, b]), np.concatenate([b, a])

    # 16 bits are sorted by their digits, in linear time
    few = int(nodes.sum()) <= MOST_NODES_IN_16_BITS
    order = np.argsort(dst.astype(np.uint16) if few else dst, kind="stable")
    rows = np.where(order < len(a), order, order - len(a))
    return EdgeLayout(rows, order >= len(a), src[order], dst[order], 2 * counts)


@functools.cache
def _complete_graph(nodes: int) -> EdgeLayout:
    pairs = complete_pairs(nodes)
    return directed_edges(pairs, np.array([len(pairs)]), np.array([nodes]))


@functools.lru_cache(maxsize=KEPT_LAYOUTS)
def complete_layout(sizes: tuple[int, ...]) -> EdgeLayout:
    """Layout of complete graphs with the given numbers of nodes."""
    graphs, nodes = [_complete_graph(size) for size in sizes], np.array(sizes, np.int64)
    counts = nodes * (nodes - 1)
    first_node = np.repeat(before(nodes), counts)
    first_row = np.repeat(before(counts // 2), counts)
    return EdgeLayout(
        rows=_joined(graphs, "rows", np.int64) + first_row,
        backward=_joined(graphs, "backward", bool),
        src=_joined(graphs, "src", np.int64) + first_node,
        dst=_joined(graphs, "dst", np.int64) + first_node,
        counts=counts,
    )


def _joined(graphs: list[EdgeLayout], name: str, kind: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *(getattr(graph, name) for graph in graphs)])
