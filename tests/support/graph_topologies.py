"""Ragged batches for the laws of the graph operations, and the two backends of every law."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.models.graph_ops import GraphIndex, dgl_is_there

NEEDS_DGL = pytest.mark.skipif(not dgl_is_there(), reason="no DGL for this Python")
BACKENDS = pytest.mark.parametrize("backend", ["torch", pytest.param("dgl", marks=NEEDS_DGL)])
LAWS = settings(max_examples=20, deadline=None, derandomize=True, database=None)


def topology(sizes: list[int], pairs: list[tuple[int, int]]) -> GraphIndex:
    """A batch with node counts ``sizes``.

    pairs: (receiver, sender in its graph), any numbers; they are read modulo the batch.
    """
    nodes_per_graph = torch.tensor(sizes, dtype=torch.long)
    offsets = [sum(sizes[:g]) for g in range(len(sizes))]
    home = [g for g, size in enumerate(sizes) for _ in range(size)]

    ends = []
    for receiver, sender in pairs if home else []:
        node = receiver % len(home)
        ends.append((node, offsets[home[node]] + sender % sizes[home[node]]))
    ends.sort(key=lambda end: end[0])
    dst, src = (torch.tensor([end[side] for end in ends], dtype=torch.long) for side in (0, 1))
    return GraphIndex(src, dst, nodes_per_graph)


@st.composite
def topologies(draw) -> GraphIndex:
    """Ragged batches of up to four graphs of 0 to 4 nodes.

    With isolated nodes, multi-edges, loops, without edges, without graphs.
    """
    sizes = draw(st.lists(st.integers(0, 4), max_size=4))
    pair = st.tuples(st.integers(0, 15), st.integers(0, 3))
    return topology(sizes, draw(st.lists(pair, max_size=14)))


# node 3 is isolated, graph 1 has no nodes, 0 -> 1 is a double edge, 5 -> 5 a loop
CROOKED = topology([4, 0, 2], [(1, 0), (1, 0), (1, 2), (0, 1), (2, 2), (4, 1), (5, 1)])
NO_EDGES = topology([2, 1], [])


def inputs(graph: GraphIndex, shapes, dtype, seed: int = 0) -> list[Tensor]:
    """Random tensors with gradients; "N", "E", "G" in a shape: nodes, edges, graphs."""
    count = {"N": graph.num_nodes, "E": graph.num_edges, "G": graph.num_graphs}
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(
            *(count.get(size, size) for size in shape), generator=generator, dtype=dtype
        ).requires_grad_(True)
        for shape in shapes
    ]
