"""Groups of structures of like size: every node once, in groups that fit."""

from __future__ import annotations

import pytest
import torch

from farfield.models.kernels.size_groups import size_groups
from tests.support.draws import draw

BATCHES = {
    "mixed": (5, 2, 7, 2, 5, 1),
    "alike": (4, 4, 4),
    "ascending": (1, 2, 3),
    "with empty ones": (0, 3, 0, 2, 0),
    "one": (6,),
    "no node": (0, 0),
    "none": (),
}


@pytest.mark.parametrize("most", [1, 30, 10**6])
@pytest.mark.parametrize("sizes", BATCHES.values(), ids=BATCHES)
def test_nodes_come_back_to_their_places(sizes, most):
    rows = draw(sum(sizes), 3, seed=0)
    groups = size_groups(sizes, most)
    parts = groups.split(rows)
    assert [len(part) for part in parts] == [sum(group) for group in groups.groups]
    if parts:
        assert torch.equal(groups.join(parts), rows)


@pytest.mark.parametrize("sizes", BATCHES.values(), ids=BATCHES)
def test_a_structure_stays_together(sizes):
    """The rows of a group are whole structures, in the sizes that it says."""
    graph_of_node = torch.repeat_interleave(
        torch.arange(len(sizes)), torch.tensor(sizes, dtype=int)
    )
    groups = size_groups(sizes, 60)
    for group, nodes in zip(groups.groups, groups.split(graph_of_node), strict=True):
        graphs, counts = nodes.unique_consecutive(return_counts=True)
        assert tuple(counts.tolist()) == group == tuple(sizes[graph] for graph in graphs)


def test_groups_are_of_like_size_and_fit():
    groups = size_groups((5, 2, 7, 2, 5, 1, 9), 50)
    assert groups.groups == ((1, 2, 2), (5, 5), (7,), (9,))  # 9 stands alone, though it has 81
    assert groups.places == 3 * 4 + 2 * 25 + 49 + 81
