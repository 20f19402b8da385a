"""Complete graphs hold every pair of different nodes once, in the order of a batch."""

import pytest
import torch

from farfield.models.complete_graphs import (
    complete_edges,
    complete_graphs,
    ragged_complete_edges,
)


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_complete_graphs_are_sorted_and_whole(nodes):
    src, dst = complete_edges(nodes)
    assert {(int(j), int(i)) for j, i in zip(src, dst, strict=True)} == {
        (j, i) for i in range(nodes) for j in range(nodes) if i != j
    }
    graph = complete_graphs(3, nodes)
    key = graph.dst * 3 * nodes + graph.src
    assert torch.equal(key, key.sort().values)
    assert torch.equal(graph.graph_of_node[graph.src], graph.graph_of_node[graph.dst])
    assert graph.num_edges == 3 * nodes * (nodes - 1)


@pytest.mark.parametrize("sizes", [[3], [1, 4, 0, 2], [], [0]])
def test_complete_graphs_of_different_sizes_are_those_alone(sizes):
    src, dst = ragged_complete_edges(torch.tensor(sizes, dtype=torch.int64))
    expected, first = [], 0
    for size in sizes:
        alone = zip(*(ends.tolist() for ends in complete_edges(size)), strict=True)
        expected += [(j + first, i + first) for j, i in alone]
        first += size
    assert list(zip(src.tolist(), dst.tolist(), strict=True)) == expected
