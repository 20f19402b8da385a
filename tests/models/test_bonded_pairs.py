"""Bonds of adjacencies and chains, and graph distances against a search by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from farfield.models.bonded_pairs import bonds_of_adjacency, chain_bonds, pairs_within
from farfield.models.kernels.padding import Padding
from tests.support.bond_shapes import as_tensors, distances_by_search, shape_bonds


@pytest.mark.parametrize("hops", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", ["ring", "chain", "star", "complete", "random", "none"])
def test_graph_distances_grow_by_one_bond(shape, hops):
    nodes = 9
    pairs = shape_bonds(shape, nodes)
    found = pairs_within(as_tensors(pairs), np.array([nodes]), hops)
    assert (np.diff(found.code) > 0).all()
    expected = distances_by_search({(a, b) for a, b in pairs if a != b}, nodes, hops)
    ends = zip(*np.divmod(found.code, nodes), strict=True)
    assert dict(zip(ends, found.hops.tolist(), strict=True)) == expected


def test_a_bond_given_twice_or_backwards_is_one_bond():
    src, dst = as_tensors(shape_bonds("ring", 7))
    once = pairs_within((src, dst), np.array([7]), 2)
    doubled = (torch.cat([src, dst, src, src]), torch.cat([dst, src, dst, src]))
    again = pairs_within(doubled, np.array([7]), 2)
    assert np.array_equal(once.code, again.code) and np.array_equal(once.hops, again.hops)


def test_many_paths_do_not_wrap_around():
    """256 paths of two bonds between two points would count as none in 8 bits."""
    middle = torch.arange(2, 258)
    bonds = (torch.cat([middle * 0, middle * 0 + 1]), torch.cat([middle, middle]))
    found = pairs_within(bonds, np.array([258]), 2)
    assert found.hops_of(np.array([1, 258, 2, 0])).tolist() == [2, 2, 1, 0]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize("shared", [True, False])
def test_adjacency_of_padded_graphs(dtype, shared):
    """The pairs of two loops over the places that hold nodes."""
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    padding = Padding.of(mask)
    random = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    adjacency = random | random.mT
    if shared:
        adjacency = adjacency[0]

    number = {int(place): node for node, place in enumerate(padding.places)}
    expected = [
        (number[4 * g + j], number[4 * g + i])
        for g in range(3)
        for i in range(4)
        for j in range(4)
        if i != j and mask[g, i] and mask[g, j] and adjacency.expand(3, 4, 4)[g, i, j]
    ]
    src, dst = bonds_of_adjacency(adjacency.to(dtype), padding)
    assert list(zip(src.tolist(), dst.tolist(), strict=True)) == expected


def test_padding_may_hold_anything():
    """What stands at padding is no bond and breaks no symmetry."""
    padding = Padding.of_counts(torch.tensor([2, 3]))
    adjacency = torch.zeros(2, 3, 3)
    adjacency[:, 0, 1] = adjacency[:, 1, 0] = 1
    adjacency[0, 2, :2] = torch.tensor([torch.nan, -1.0])
    src, dst = bonds_of_adjacency(adjacency, padding)
    assert (src.tolist(), dst.tolist()) == ([1, 0, 3, 2], [0, 1, 2, 3])


def test_an_adjacency_without_a_way_back_is_refused():
    padding = Padding.of_counts(torch.tensor([2, 3]))
    adjacency = torch.zeros(2, 3, 3, dtype=torch.bool)
    adjacency[1, 2, 0] = True
    hint = r"adj_mat \| adj_mat.transpose\(-1, -2\)"
    line = (
        rf"^adj_mat is not symmetric: graph 1 has a bond \[2, 0\] but none \[0, 2\]; give {hint}$"
    )
    with pytest.raises(ValueError, match=line):
        bonds_of_adjacency(adjacency, padding)
    assert len(bonds_of_adjacency(adjacency | adjacency.transpose(-1, -2), padding)[0]) == 2


@pytest.mark.parametrize("shape", [(2, 2), (3, 3, 3), (2, 3), (3,), (1, 3, 3)])
def test_an_adjacency_of_another_shape_is_refused(shape):
    padding = Padding.of_counts(torch.tensor([2, 3]))
    with pytest.raises(ValueError, match=r"\(3, 3\) or \(2, 3, 3\).*got [^\n]*$") as error:
        bonds_of_adjacency(torch.zeros(shape), padding)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("sizes", [[4], [1], [], [0, 3, 1, 0, 2]])
def test_chains_join_each_point_to_the_next(sizes):
    src, dst = chain_bonds(torch.tensor(sizes, dtype=torch.int64))
    graph = [g for g, size in enumerate(sizes) for _ in range(size)]
    expected = [
        (j, i)
        for i in range(len(graph))
        for j in range(len(graph))
        if abs(i - j) == 1 and graph[i] == graph[j]
    ]
    assert list(zip(src.tolist(), dst.tolist(), strict=True)) == expected


@pytest.mark.parametrize(
    ("src", "dst", "message"),
    [
        ([0, 5], [1, 1], "bonds must join points 0 .. 4, got 0 .. 5"),
        ([0, -1], [1, 1], "bonds must join points 0 .. 4, got -1 .. 1"),
        ([0, 1], [1], "bonds must be two lists of the same length, src and dst, got shapes"),
        ([0, 3], [1, 1], "bond 1 joins point 3 of graph 1 and point 1 of graph 0: leave it out"),
    ],
)
def test_bad_bonds_are_refused(src, dst, message):
    with pytest.raises(ValueError) as error:
        pairs_within((torch.tensor(src), torch.tensor(dst)), np.array([2, 3]), 1)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
