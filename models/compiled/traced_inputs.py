"""What a traced potential reads of a batch: tensors in a fixed order, and no sizes but symbols."""

from __future__ import annotations

import dataclasses

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


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a traced potential reads of a batch, and in which order.

    dtype: of positions. single: batches of one structure. periodic: there are cells and image
    shifts. features: names of ``graph_features``, in their order.
    """

    dtype: torch.dtype
    single: bool
    periodic: bool
    features: tuple[str, ...]
    cutoff: float | None

    @classmethod
    def of(cls, batch: AtomBatch) -> Inputs:
        """The inputs of the potential in this batch."""
        return cls(
            batch.positions.dtype,
            batch.num_graphs == 1,
            batch.cell is not None,
            tuple(sorted(batch.graph_features)),
            batch.cutoff,
        )

    def tensors(self, batch: AtomBatch) -> list[Tensor]:
        """The inputs of a batch, in order."""
        shape = (batch.num_graphs, -1)
        graph = batch.graph
        found = [
            batch.positions.detach().view(*shape, 3),
            batch.atomic_numbers.view(shape),
            graph.src,
            graph.dst,
        ]
        if self.periodic:
            found += [batch.cell, batch.image_shift]
        return found + [batch.graph_features[name] for name in self.features]

    def batch(self, tensors: tuple[Tensor, ...]) -> AtomBatch:
        """The inverse of :meth:`tensors`, on a :class:`TracedGraph`."""
        positions, numbers, src, dst, *others = tensors
        graphs, atoms = numbers.shape
        cell, shift = others[:2] if self.periodic else (None, None)
        values = others[2:] if self.periodic else others

        # graphs of one size, (graphs, atoms) as rows end to end
        return AtomBatch(
            TracedGraph(src, dst, graphs, atoms),
            positions=positions.flatten(0, 1),
            atomic_numbers=numbers.flatten(),
            cell=cell,
            image_shift=shift,
            graph_features=dict(zip(self.features, values, strict=True)),
            cutoff=self.cutoff,
        )


def run_traced(potential: Potential, inputs: Inputs, tensors: list[Tensor]) -> dict[str, Tensor]:
    """Predictions by the forms that a trace takes; on numbers, to try them out."""
    with tracing():
        return potential(inputs.batch(tuple(tensors)))
