"""Neighbours of points against all pairs, ranked one receiver at a time in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from farfield.models import point_graphs
from farfield.models.bonded_pairs import chain_bonds
from farfield.models.graph_ops import GraphIndex
from farfield.models.point_graphs import NeighbourRule, nearest_incoming, point_edges
from tests.support.bond_shapes import as_tensors, distances_by_search, shape_bonds
from tests.support.draws import draw

SIZES = [7, 0, 1, 12, 2]
INF = math.inf
RULES = {
    "all": {},
    "radius": {"valid_radius": 1.5},
    "nearest": {"num_neighbors": 3},
    "nearest inside the radius": {"num_neighbors": 3, "valid_radius": 1.2},
    "more than there are": {"num_neighbors": 40},
    "bonds alone": {"num_neighbors": 0, "sparse": True, "hops": 2},
    "nearest and bonds": {"num_neighbors": 2, "sparse": True},
    "nearest and far bonds": {"num_neighbors": 3, "valid_radius": 1.2, "sparse": True, "hops": 3},
    "few bonds": {"num_neighbors": 2, "sparse": True, "hops": 3, "max_sparse_neighbors": 3},
    "few bonds alone": {"num_neighbors": 0, "sparse": True, "max_sparse_neighbors": 1},
    "radius and bonds": {"valid_radius": 1.0, "sparse": True, "hops": 2},
    "distances of bonds": {"num_neighbors": 5, "hops": 3},
}


def by_hand(points: Tensor, sizes: list[int], rule: NeighbourRule, pairs: set) -> dict:
    """(dst, src) -> graph distance of every neighbour and whether its bonds alone make it one.

    In order, by the words of the rule.
    """
    hops = distances_by_search(pairs, len(points), rule.hops)
    graph = [g for g, size in enumerate(sizes) for _ in range(size)]
    found, always = set(), set()
    for i, point in enumerate(points):
        others = [j for j in range(len(points)) if j != i and graph[j] == graph[i]]
        length = {j: float((points[j] - point).norm()) for j in others}

        bonded = [j for j in others if (i, j) in hops] if rule.sparse else []
        bonded.sort(key=lambda j, i=i, length=length: (hops[i, j], length[j], j))
        bonded = bonded[: rule.max_sparse_neighbors]

        near = [j for j in others if length[j] < rule.valid_radius and j not in bonded]
        near.sort(key=lambda j, length=length: (length[j], j))
        found |= {(i, j) for j in bonded + near[: rule.num_neighbors]}
        always |= {(i, j) for j in bonded}
    return {pair: (hops.get(pair, 0), pair in always) for pair in sorted(found)}


def as_dict(edges: point_graphs.PointEdges) -> dict:
    """(dst, src) -> graph distance and bonds alone, in the order of the edges."""
    ends = zip(edges.graph.dst.tolist(), edges.graph.src.tolist(), strict=True)
    values = zip(edges.hops.tolist(), edges.always.tolist(), strict=True)
    return dict(zip(ends, values, strict=True))


def bonds_of(shape: str, sizes: list[int]) -> set[tuple[int, int]]:
    """Bonds of one shape in every graph of a batch."""
    found, first = set(), 0
    for size in sizes:
        pairs = shape_bonds(shape, size) if size > 1 else set()
        found |= {(first + a, first + b) for a, b in pairs if a != b}
        first += size
    return found


@pytest.mark.parametrize("shape", ["ring", "star", "random"])
@pytest.mark.parametrize("name", RULES)
def test_neighbours_are_those_of_the_rule(name, shape):
    """In a batch with an empty graph and a graph of one point; several clouds."""
    rule, pairs = NeighbourRule(**RULES[name]), bonds_of(shape, SIZES)
    for seed in range(3):
        points = draw(sum(SIZES), 3, seed=seed)
        edges = point_edges(points, torch.tensor(SIZES), rule, as_tensors(pairs))
        expected = by_hand(points, SIZES, rule, pairs)
        assert expected and as_dict(edges) == expected
        assert list(as_dict(edges)) == list(expected)
        assert edges.graph.sizes == tuple(SIZES) and edges.hops.dtype == torch.int64


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if "sparse" not in rule])
def test_points_without_bonds_have_distances_of_zero(name):
    rule, points = NeighbourRule(**RULES[name]), draw(sum(SIZES), 3, seed=5)
    edges = point_edges(points, torch.tensor(SIZES), rule)
    assert as_dict(edges) == by_hand(points, SIZES, rule, set())
    assert edges.graph.num_edges and not edges.hops.any()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("cloud", ["lattice", "one place", "two places", "line"])
def test_equal_distances_go_by_index(name, cloud):
    """Points on a lattice share most of their distances; points at one place are neighbours."""
    index = torch.arange(27, dtype=torch.float64)
    points = {
        "lattice": torch.stack([index // 9, index // 3 % 3, index % 3], 1),
        "one place": torch.ones(27, 3, dtype=torch.float64),
        "two places": torch.stack([index % 2, index * 0, index * 0], 1),
        "line": torch.stack([index, index * 0, index * 0], 1),
    }[cloud]
    rule, pairs = NeighbourRule(**RULES[name]), bonds_of("chain", [27])
    edges = point_edges(points, torch.tensor([27]), rule, as_tensors(pairs))
    assert as_dict(edges) == by_hand(points, [27], rule, pairs)


@pytest.mark.parametrize("name", RULES)
def test_a_batch_is_its_graphs_alone(name):
    """Even where distances tie, and beside a graph that is far away and large."""
    rule, sizes = NeighbourRule(**RULES[name]), [9, 4, 27, 6]
    points = draw(sum(sizes), 3, seed=3).mul(2).round().div(2)
    points[40:] = 1e7 * points[40:] + 1e9
    pairs = bonds_of("ring", sizes)
    batch = point_edges(points, torch.tensor(sizes), rule, as_tensors(pairs))

    alone, first = {}, 0
    for size in sizes:
        inside = {(a - first, b - first) for a, b in pairs if first <= a < first + size}
        single = point_edges(
            points[first : first + size], torch.tensor([size]), rule, as_tensors(inside)
        )
        alone |= {(i + first, j + first): hop for (i, j), hop in as_dict(single).items()}
        first += size
    assert as_dict(batch) == alone


@pytest.mark.parametrize("name", RULES)
def test_permuted_points_have_permuted_edges(name):
    rule, pairs = NeighbourRule(**RULES[name]), bonds_of("random", [15])
    points = draw(15, 3, seed=4)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))  # new place -> old
    place = order.argsort()
    src, dst = as_tensors(pairs)
    before = point_edges(points, torch.tensor([15]), rule, (src, dst))
    after = point_edges(points[order], torch.tensor([15]), rule, (place[src], place[dst]))
    assert {
        (int(place[i]), int(place[j])): hop for (i, j), hop in as_dict(before).items()
    } == as_dict(after)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("sizes", [[], [0], [1], [1, 0, 1], [2]])
def test_few_points_have_few_edges(name, sizes):
    rule, pairs = NeighbourRule(**RULES[name]), bonds_of("chain", sizes)
    points = 0.1 * draw(sum(sizes), 3, seed=0)
    counts = torch.tensor(sizes, dtype=torch.int64)
    edges = point_edges(points, counts, rule, as_tensors(pairs))
    assert as_dict(edges) == by_hand(points, sizes, rule, pairs)
    assert edges.graph.num_edges == (2 if sizes == [2] else 0)


@pytest.mark.parametrize("radius", [1e-12, 1e-3, 1e5, 1e300])
def test_any_radius_is_answered(radius):
    """A radius far below or beyond the structure takes no more time than another."""
    points = torch.cat([draw(20, 3, seed=0), draw(1, 3, seed=1).expand(2, 3)])
    for k in (None, 4):
        rule = NeighbourRule(valid_radius=radius, num_neighbors=k)
        edges = point_edges(points, torch.tensor([22]), rule)
        assert as_dict(edges) == by_hand(points, [22], rule, set())


@pytest.mark.parametrize("rule", [{"valid_radius": 1.0}, {"valid_radius": 1.0, "num_neighbors": 9}])
def test_a_pair_at_the_radius_is_no_neighbour(rule):
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 0.5, 0]])
    assert list(as_dict(point_edges(points, torch.tensor([3]), NeighbourRule(**rule)))) == [
        (1, 2),
        (2, 1),
    ]


def test_float32_points_with_a_gradient_are_taken(monkeypatch):
    """Small chunks of a query give the same edges as one."""
    points = draw(40, 3, seed=0).float().requires_grad_()
    rule = NeighbourRule(num_neighbors=3)
    edges = point_edges(points, torch.tensor([40]), rule)
    assert as_dict(edges) == by_hand(points.detach().double(), [40], rule, set())
    monkeypatch.setattr(point_graphs, "MAX_VALUES_PER_QUERY", 7)
    assert as_dict(point_edges(points, torch.tensor([40]), rule)) == as_dict(edges)


@pytest.mark.parametrize("k", [1, 2, 5, 100])
def test_nearest_incoming_edges_are_the_shortest(k):
    """Also of edges in any order, with equal lengths, and nodes without edges."""
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        src, dst = torch.randint(8, (2, 40), generator=generator)
        graph = GraphIndex(src, dst, torch.tensor([9]))
        length = torch.randint(6, (40,), generator=generator).double()
        expected = []
        for node in range(9):
            incoming = [e for e in range(40) if dst[e] == node]
            expected += sorted(incoming, key=lambda e, x=length: (float(x[e]), e))[:k]
        kept = nearest_incoming(graph, length.clone().requires_grad_(), k)
        assert kept.dtype == torch.int64 and kept.tolist() == sorted(expected)


def test_nearest_incoming_agrees_with_the_rule():
    """The k shortest edges of complete graphs are the k nearest neighbours."""
    points, counts = draw(sum(SIZES), 3, seed=1), torch.tensor(SIZES)
    whole = point_edges(points, counts, NeighbourRule()).graph
    kept = nearest_incoming(whole, (points[whole.dst] - points[whole.src]).norm(dim=1), 4)
    near = point_edges(points, counts, NeighbourRule(num_neighbors=4)).graph
    assert torch.equal(whole.src[kept], near.src) and torch.equal(whole.dst[kept], near.dst)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid_radius": 0.0}, "valid_radius must be > 0"),
        ({"valid_radius": math.nan}, "valid_radius must be > 0"),
        ({"num_neighbors": -1}, "num_neighbors must be a whole number >= 0 or None"),
        ({"num_neighbors": INF}, "num_neighbors must be a whole number >= 0 or None"),
        ({"sparse": True, "max_sparse_neighbors": 0}, "max_sparse_neighbors must be a whole"),
        ({"hops": 0}, "hops must be a whole number >= 1, got 0"),
        ({"hops": None}, "hops must be a whole number >= 1, got None"),
        ({"num_neighbors": 0}, "num_neighbors = 0 leaves bonded neighbours alone, but sparse is"),
        ({"max_sparse_neighbors": 2}, "max_sparse_neighbors = 2 limits bonded neighbours, but"),
    ],
)
def test_rules_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        NeighbourRule(**options)


def test_points_that_do_not_fit_are_refused():
    counts, rule = torch.tensor([2, 1]), NeighbourRule(num_neighbors=1)
    with pytest.raises(ValueError, match=r"^positions must have shape \(3, 3\)[^\n]*\(4, 3\)$"):
        point_edges(torch.zeros(4, 3), counts, rule)
    for value in (math.nan, INF, 1e200):
        points = torch.zeros(3, 3, dtype=torch.float64)
        points[1, 2] = value
        with pytest.raises(ValueError, match="^positions must be finite, got [^\n]* at point 1$"):
            point_edges(points, counts, rule)
    with pytest.raises(ValueError, match="^sparse is on but there are no bonds; give bonds"):
        point_edges(torch.zeros(3, 3), counts, NeighbourRule(sparse=True))
    assert point_edges(torch.zeros(3, 3), counts, NeighbourRule(sparse=True), chain_bonds(counts))
