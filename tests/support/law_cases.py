"""What a law is held on: a network with one choice of options, and batches that change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import GraphIndex

# how each kind of output turns under an orthogonal matrix; "path" is (nodes, steps, 6), two vectors
# side by side
TURNS = {
    "graph_scalar": lambda value, matrix: value,
    "graph_vector": lambda value, matrix: value @ matrix.T.to(value.dtype),
    "node_scalar": lambda value, matrix: value,
    "node_vector": lambda value, matrix: value @ matrix.T,
    "node_vectors": lambda value, matrix: value @ matrix.T,
    "path": lambda value, matrix: (value.unflatten(-1, (2, 3)) @ matrix.T).flatten(-2),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One model with one choice of options.

    build: makes the model in torch's default dtype. batch(sizes, generator): random structures with
    node counts ``sizes`` and complete or cutoff graphs made by ``connect(positions,
    nodes_per_graph)``. outputs: name -> "node_scalar", "node_vector", "node_vectors" (..., 3 last),
    "path", "graph_scalar" or "graph_vector". lmax: of its edge basis. edge_features: those of a
    graph with atomic numbers, made again whenever the edges are.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[list[int], torch.Generator], AtomBatch]
    connect: Callable[[Tensor, Tensor], GraphIndex]
    outputs: dict[str, str]
    lmax: int
    cutoff: float | None = None
    edge_features: Callable[[GraphIndex, Tensor | None], dict[str, Tensor]] = (
        lambda graph, numbers: {}
    )


def random_rotation(generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """A rotation matrix (3, 3), uniform over SO(3)."""
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    return (q * torch.linalg.det(q)).to(dtype)


def complete_graph(positions: Tensor, nodes_per_graph: Tensor) -> GraphIndex:
    """All ordered pairs inside each graph."""
    return cutoff_graph(positions, nodes_per_graph, float("inf"))


def cutoff_graph(positions: Tensor, nodes_per_graph: Tensor, cutoff: float) -> GraphIndex:
    """All ordered pairs closer than ``cutoff`` inside each graph, by brute force."""
    graph_of_node = torch.repeat_interleave(torch.arange(len(nodes_per_graph)), nodes_per_graph)
    near = (torch.cdist(positions, positions) < cutoff) & (
        graph_of_node.view(-1, 1) == graph_of_node
    )
    near.fill_diagonal_(False)
    dst, src = near.nonzero(as_tuple=True)
    return GraphIndex(src, dst, nodes_per_graph)


def replaced(case: Case, batch: AtomBatch, positions: Tensor, **node_features: Tensor) -> AtomBatch:
    """The batch with other positions (graph made anew) and node features."""
    graph = case.connect(positions.detach(), batch.graph.nodes_per_graph)
    nodes, edges = (
        {**batch.node_features, **node_features},
        case.edge_features(graph, batch.atomic_numbers),
    )
    return dataclasses.replace(
        batch, graph=graph, positions=positions, node_features=nodes, edge_features=edges
    )


def like_atoms(batch: AtomBatch, kind: Tensor) -> AtomBatch:
    """The batch with as many kinds of atoms as ``kind`` (nodes,) has: each looks like the first of
    its kind, and vectors are zero.
    """
    first = torch.stack([(kind == one).nonzero()[0, 0] for one in kind])
    features = {
        name: torch.zeros_like(value) if value.dim() > 1 else value[first]
        for name, value in batch.node_features.items()
    }
    numbers = batch.atomic_numbers
    return dataclasses.replace(
        batch,
        atomic_numbers=None if numbers is None else numbers[first],
        node_features=features,
    )


def symmetric_batch(case: Case) -> AtomBatch:
    """A tetrahedron of like atoms around another one, and three atoms on a line."""
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    line = torch.tensor([[0.0, 0, 1.2], [0, 0, 0], [0, 0, -1.2]])
    places = torch.cat([torch.zeros(1, 3), 0.63 * corners, line])
    batch = case.batch([5, 3], torch.Generator().manual_seed(0))
    return replaced(case, like_atoms(batch, torch.tensor([0, 1, 1, 1, 1, 1, 0, 1])), places)


def turned(case: Case, batch: AtomBatch, matrix: Tensor) -> AtomBatch:
    """The batch under an orthogonal matrix: positions and every vector node feature (nodes, 3)."""
    vectors = {
        name: value @ matrix.T
        for name, value in batch.node_features.items()
        if value.dim() == 2 and value.shape[1] == 3
    }
    return replaced(case, batch, batch.positions @ matrix.T, **vectors)


def joined(case: Case, batches: list[AtomBatch]) -> AtomBatch:
    """All graphs of several batches in one."""
    counts = torch.cat([batch.graph.nodes_per_graph for batch in batches])
    positions = torch.cat([batch.positions for batch in batches])
    graph = case.connect(positions, counts)

    numbers = None
    if batches[0].atomic_numbers is not None:
        numbers = torch.cat([batch.atomic_numbers for batch in batches])
    features = {
        name: torch.cat([batch.node_features[name] for batch in batches])
        for name in batches[0].node_features
    }
    of_graphs = {
        name: torch.cat([batch.graph_features[name] for batch in batches])
        for name in batches[0].graph_features
    }
    return dataclasses.replace(
        batches[0],
        graph=graph,
        positions=positions,
        atomic_numbers=numbers,
        node_features=features,
        edge_features=case.edge_features(graph, numbers),
        graph_features=of_graphs,
        edge_basis=None,
        labels={},
    )


def walked(case: Case, batch: AtomBatch, move: Tensor, places: Tensor) -> AtomBatch:
    """The batch at each of ``places`` (steps,) along ``move`` (nodes, 3), one after another."""
    steps = [
        dataclasses.replace(batch, positions=batch.positions + place * move) for place in places
    ]
    return joined(case, steps)


def parted(case: Case, batches: list[AtomBatch], outputs: dict) -> list[dict[str, Tensor]]:
    """The answers to ``joined(case, batches)`` -> one answer for each of the batches."""
    nodes = [batch.num_nodes for batch in batches]
    graphs = [batch.num_graphs for batch in batches]
    parts = {
        name: outputs[name].split(graphs if kind.startswith("graph") else nodes)
        for name, kind in case.outputs.items()
    }
    return [{name: parts[name][index] for name in parts} for index in range(len(batches))]


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    return float(((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).detach())


def permuted(case: Case, batch: AtomBatch, order: Tensor) -> AtomBatch:
    """The batch with its nodes listed in another order (within graphs)."""
    features = {name: value[order] for name, value in batch.node_features.items()}
    numbers = None if batch.atomic_numbers is None else batch.atomic_numbers[order]
    return replaced(
        case, dataclasses.replace(batch, atomic_numbers=numbers), batch.positions[order], **features
    )


def single(case: Case, batch: AtomBatch, low: int, high: int) -> AtomBatch:
    """The graph made of nodes low .. high - 1 alone."""
    rows, this = slice(low, high), batch.graph.graph_of_node[low : low + 1]
    graph = case.connect(batch.positions[rows], torch.tensor([high - low]))
    numbers = None if batch.atomic_numbers is None else batch.atomic_numbers[rows]
    return dataclasses.replace(
        batch,
        graph=graph,
        positions=batch.positions[rows],
        atomic_numbers=numbers,
        node_features={name: value[rows] for name, value in batch.node_features.items()},
        edge_features=case.edge_features(graph, numbers),
        graph_features={name: value[this] for name, value in batch.graph_features.items()},
        labels={},
    )
