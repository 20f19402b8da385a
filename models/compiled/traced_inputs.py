"""What a traced potential reads of a batch: tensors in a fixed order, and no sizes but symbols."""

from __future__ import annotations

import dataclasses
import enum

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import GraphIndex
from farfield.models.potential import Potential
from farfield.models.tracing import NotTraceableError, tracing


class TracedGraph(GraphIndex):
    """Topology of graphs of one size, nothing of which is known but the three sizes.

    src, dst (edges,). graphs, atoms: number of graphs, and of atoms in each.
    """

    def __init__(self, src: Tensor, dst: Tensor, graphs: int, atoms: int):
        self.src, self.dst, self.atoms = src, dst, atoms
        self.num_graphs, self.num_nodes, self.num_edges = graphs, graphs * atoms, src.shape[0]
        self._dgl = None

    @property
    def atoms_of_each(self) -> int:
        """Number of atoms of every graph."""
        return self.atoms

    @property
    def sizes(self):
        """Nobody may ask: a trace is right for graphs of other sizes."""
        raise NotTraceableError("the network reads the sizes of structures one by one")

    @property
    def nodes_per_graph(self) -> Tensor:
        """(graphs,) int64."""
        return self.src.new_full((self.num_graphs,), self.atoms)

    @property
    def node_offsets(self) -> Tensor:
        """(graphs + 1,) int64."""
        return torch.arange(self.num_graphs + 1, device=self.src.device) * self.atoms

    @property
    def graph_of_node(self) -> Tensor:
        """(nodes,) int64."""
        graph = torch.arange(self.num_graphs, device=self.src.device)
        return graph.unsqueeze(1).expand(-1, self.atoms).reshape(-1)


class RaggedGraph(TracedGraph):
    """Topology of graphs of any sizes.

    src, dst (edges,). graph_of_node (nodes,) int64, ascending. graphs: their number.
    """

    def __init__(self, src: Tensor, dst: Tensor, graph_of_node: Tensor, graphs: int):
        self.src, self.dst, self._graph_of_node = src, dst, graph_of_node
        self.num_graphs, self.num_nodes = graphs, graph_of_node.shape[0]
        self.num_edges, self._dgl = src.shape[0], None

    @property
    def atoms_of_each(self) -> int:
        """Nobody may ask."""
        raise NotTraceableError("the network asks for structures of one size")

    @property
    def nodes_per_graph(self) -> Tensor:
        """(graphs,) int64."""
        ones = torch.ones_like(self._graph_of_node)
        return ones.new_zeros(self.num_graphs).index_add(0, self._graph_of_node, ones)

    @property
    def node_offsets(self) -> Tensor:
        """(graphs + 1,) int64."""
        return torch.nn.functional.pad(self.nodes_per_graph.cumsum(0), (1, 0))

    @property
    def graph_of_node(self) -> Tensor:
        """(nodes,) int64."""
        return self._graph_of_node


class Rows(enum.Enum):
    """What a label has a row for."""

    ATOM = "atom"
    GRAPH = "graph"


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a traced potential reads of a batch, and in which order.

    dtype: of positions. remainder: whether they have one. single: batches of one structure. ragged:
    structures may have different sizes. periodic: there are cells and image shifts. features: names
    of ``graph_features``, in their order. labels: names of ``labels`` and their rows, none where
    only predictions are asked for. fixed: number of graphs and of atoms in each, where a program
    serves these alone.
    """

    dtype: torch.dtype
    remainder: bool
    single: bool
    ragged: bool
    periodic: bool
    features: tuple[str, ...]
    labels: tuple[tuple[str, Rows], ...]
    cutoff: float | None
    fixed: tuple[int, int] | None = None

    @classmethod
    def of(cls, batch: AtomBatch) -> Inputs:
        """The inputs of a potential in this batch."""
        return cls._of(batch, len(set(batch.graph.sizes)) > 1, [])

    @classmethod
    def of_training(cls, batch: AtomBatch, ragged: bool) -> Inputs:
        """The inputs of a training step, labels included.

        ragged: a program is to serve structures of several sizes. Otherwise it serves batches of
        these sizes alone: it takes half the time to compile.
        """
        found = cls._of(batch, ragged, sorted(batch.labels))
        sizes = None if ragged else (batch.num_graphs, batch.graph.sizes[0])
        return dataclasses.replace(found, fixed=sizes)

    @classmethod
    def _of(cls, batch: AtomBatch, ragged: bool, labels: list[str]) -> Inputs:
        rows = {batch.num_graphs: Rows.GRAPH, batch.num_nodes: Rows.ATOM}
        return cls(
            batch.positions.dtype,
            batch.position_remainder is not None,
            batch.num_graphs == 1,
            ragged,
            batch.cell is not None,
            tuple(sorted(batch.graph_features)),
            tuple((name, rows[batch.labels[name].shape[0]]) for name in labels),
            batch.cutoff,
        )

    @property
    def sizes(self) -> list[tuple[str, ...]]:
        """Words for the sizes of the leading dimensions of every tensor, in order."""
        of_atoms = ("nodes",) if self.ragged else ("graphs", "atoms")
        found = [of_atoms, of_atoms, ("edges",), ("edges",)]
        found += [of_atoms] if self.remainder else []
        found += [of_atoms] if self.ragged else []
        found += [("graphs",), ("edges",)] if self.periodic else []
        found += [("graphs",) for _ in self.features]
        return found + [of_atoms if rows == Rows.ATOM else ("graphs",) for _, rows in self.labels]

    def tensors(self, batch: AtomBatch) -> list[Tensor]:
        """The inputs of a batch, in order."""
        graph = batch.graph
        found = [self._split(batch.positions.detach(), graph)]
        found += [self._split(batch.atomic_numbers, graph), graph.src, graph.dst]
        found += [self._split(batch.position_remainder, graph)] if self.remainder else []
        found += [graph.graph_of_node] if self.ragged else []
        if self.periodic:
            found += [batch.cell, batch.image_shift]
        found += [batch.graph_features[name] for name in self.features]

        for name, rows in self.labels:
            label = batch.labels[name]
            found.append(self._split(label, graph) if rows == Rows.ATOM else label)
        return found

    def _split(self, rows: Tensor, graph: GraphIndex) -> Tensor:
        """Rows of atoms, as (graphs, atoms, ...) where structures have one size."""
        return rows if self.ragged else rows.unflatten(0, (graph.num_graphs, -1))

    def batch(self, tensors: tuple[Tensor, ...]) -> AtomBatch:
        """The inverse of :meth:`tensors`, on a :class:`TracedGraph`."""
        positions, numbers, src, dst, *others = tensors
        given = iter(others)
        remainder = next(given) if self.remainder else None
        if self.ragged:
            graph_of_node = next(given)
            graphs = self._number_of_graphs(tensors)
            graph = RaggedGraph(src, dst, graph_of_node, graphs)
        else:
            graph = TracedGraph(src, dst, *numbers.shape)
            positions, numbers = positions.flatten(0, 1), numbers.flatten()
            remainder = None if remainder is None else remainder.flatten(0, 1)

        cell, shift = (next(given), next(given)) if self.periodic else (None, None)
        features = {name: next(given) for name in self.features}
        labels = {}
        for name, rows in self.labels:
            label = next(given)
            joined = rows == Rows.ATOM and not self.ragged
            labels[name] = label.flatten(0, 1) if joined else label
        return AtomBatch(
            graph,
            positions=positions,
            atomic_numbers=numbers,
            cell=cell,
            image_shift=shift,
            graph_features=features,
            labels=labels,
            cutoff=self.cutoff,
            position_remainder=remainder,
        )

    def _number_of_graphs(self, tensors: tuple[Tensor, ...]) -> int:
        """As a tensor with a row for each graph has it."""
        for tensor, sizes in zip(tensors, self.sizes, strict=True):
            if sizes == ("graphs",):
                return tensor.shape[0]
        raise NotTraceableError("no tensor tells how many structures there are")


def run_traced(potential: Potential, inputs: Inputs, tensors: list[Tensor]) -> dict[str, Tensor]:
    """Predictions by the forms that a trace takes; on numbers, to try them out."""
    with tracing():
        return potential(inputs.batch(tuple(tensors)))
