"""Complete graphs hold every pair of different nodes once, in the order of a batch."""

import pytest
import torch

from farfield.models.complete_graphs import complete_edges, complete_graphs


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
