"""A batch of structures as the networks read it.

Topology, positions, features, labels and, where it is known, the edge basis. Batches are ragged:
graphs are laid end to end, nothing is padded. Edges are sorted by (dst, src), so the edges of a
batch are the edges of its graphs one after the other, and rows cached per graph can be gathered for
any batch.

Cost: linear in nodes and edges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from farfield.models.graph_ops import GraphIndex
from farfield.models.near_field.edge_frames import EdgeBasis

NODE_FIELDS = ("positions", "atomic_numbers", "position_remainder")


@dataclasses.dataclass
class AtomBatch:
    """Graphs laid end to end.

    Attributes
        graph           topology (nodes, edges, graphs)
        positions       (nodes, 3), Angstrom; dimensionless for N-body
        atomic_numbers  (nodes,) int64, or None where particles are not atoms
        node_features   name -> (nodes, ...)
        edge_features   name -> (edges, ...)
        graph_features  name -> (graphs, ...): what is known of a whole structure, such as
                        ``total_charge`` (e), ``spin`` or ``time``
        cell            (graphs, 3, 3), rows are lattice vectors, or None
        periodic        (graphs, 3) bool, directions in which a structure repeats, or None: all
                        three wherever there is a cell
        image_shift     (edges, 3) integer cell vectors added to the receiving atom, or None
        labels          name -> (nodes, ...) or (graphs, ...)
        edge_basis      cached basis of the edges, in their order, or None: the model computes it
        cutoff          every pair closer than this (Angstrom) is an edge; None where nothing
                        promises that, as for bonds
        position_remainder  (nodes, 3), Angstrom: what the type of the positions cut off of them, or
                        None. Vectors of edges need it (``models/edges.py``): float32 alone shifts
                        atoms by 1e-7 of their distance to the origin

    Raises ValueError for a tensor that has not one row for each node, edge or graph.

    Example: two molecules, H2 with charge 0 and a proton.

        AtomBatch(
            GraphIndex(torch.tensor([1, 0]), torch.tensor([0, 1]), torch.tensor([2, 1])),
            positions=torch.tensor([[0, 0, 0], [0, 0, 0.74], [0, 0, 0]]),
            atomic_numbers=torch.tensor([1, 1, 1]),
            graph_features={"total_charge": torch.tensor([0.0, 1.0])},
        )
    """

    graph: GraphIndex
    positions: Tensor
    atomic_numbers: Tensor | None = None
    node_features: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    edge_features: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    graph_features: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    cell: Tensor | None = None
    image_shift: Tensor | None = None
    labels: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    edge_basis: EdgeBasis | None = None
    periodic: Tensor | None = None
    cutoff: float | None = None
    position_remainder: Tensor | None = None

    def __post_init__(self):
        counts = {"nodes": self.num_nodes, "edges": self.num_edges, "graphs": self.num_graphs}
        for unit, name, value in self._tensors():
            if value is not None and value.shape[0] != counts[unit]:
                raise ValueError(
                    f"{name} must have one row for each of the {counts[unit]} {unit}, got the "
                    f"shape {tuple(value.shape)}"
                )

    def _tensors(self) -> Iterator[tuple[str, str, Tensor | None]]:
        """(what has a row each, name, tensor) of everything but the labels."""
        yield "nodes", "positions", self.positions
        yield "nodes", "atomic_numbers", self.atomic_numbers
        yield "nodes", "position_remainder", self.position_remainder
        yield "edges", "image_shift", self.image_shift
        yield "graphs", "cell", self.cell
        yield "graphs", "periodic", self.periodic
        for name, value in self.node_features.items():
            yield "nodes", f"node_features[{name!r}]", value
        for name, value in self.edge_features.items():
            yield "edges", f"edge_features[{name!r}]", value
        for name, value in self.graph_features.items():
            yield "graphs", f"graph_features[{name!r}]", value

        # opposite edges may share a stored frame
        basis = self.edge_basis
        if basis is not None:
            yield "edges", "edge_basis.length", basis.length
            frames = basis.packed[0] if basis.rows is None else basis.rows
            yield "edges", "frames of edge_basis", frames

    @property
    def num_graphs(self) -> int:
        """Number of structures."""
        return self.graph.num_graphs

    @property
    def num_nodes(self) -> int:
        """Number of atoms of all structures."""
        return self.graph.num_nodes

    @property
    def num_edges(self) -> int:
        """Number of directed edges of all structures."""
        return self.graph.num_edges

    def to(self, device=None, dtype: torch.dtype | None = None) -> AtomBatch:
        """The same batch on another device, or in another floating-point type.

        Integers stay integers. What a coarser type cuts off of the positions becomes their
        remainder, and a finer one takes it in. A cached basis is not better than the type it is
        stored in: asked for a finer type, the batch drops the basis, and the model computes it.
        """
        moved = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if dtype not in (None, self.positions.dtype):
            rounded = rounded_positions(self.exact_positions(), dtype)
            moved["positions"], moved["position_remainder"] = rounded
        moved = {name: _moved(value, device, dtype) for name, value in moved.items()}
        if device is not None:
            moved["graph"] = self.graph.to(device)

        if self.edge_basis is not None and dtype is not None:
            stored = torch.finfo(self.edge_basis.length.dtype)
            if torch.finfo(dtype).eps < stored.eps:
                moved["edge_basis"] = None
        return AtomBatch(**moved)

    def exact_positions(self) -> Tensor:
        """Positions with their remainder (nodes, 3), float64 where there is one."""
        if self.position_remainder is None:
            return self.positions
        return self.positions.double() + self.position_remainder.double()

    def split(self) -> list[AtomBatch]:
        """The structures of this batch, each as a batch of its own, in their order.

        A label belongs to the nodes if it has a row for each node, else to the graphs. Raises
        ValueError for labels of which that cannot be told.
        """
        node_labels = self.node_labels()
        edges = self._edges_of_graphs()
        offsets = self.graph.node_offsets.tolist()
        return [
            self._single(index, slice(offsets[index], offsets[index + 1]), rows, node_labels)
            for index, rows in enumerate(edges)
        ]

    def select(self, graphs: Tensor) -> AtomBatch:
        """The structures with ``True`` in ``graphs`` (graphs,) bool, in their order.

        Labels as in :meth:`split`.
        """
        node_labels = self.node_labels()
        kept = graphs.index_select(0, self.graph.graph_of_node)  # (nodes,)
        edges = kept.index_select(0, self.graph.dst).nonzero().flatten()

        place = kept.cumsum(0) - 1  # of a kept node among the kept ones
        graph = GraphIndex(
            place[self.graph.src[edges]],
            place[self.graph.dst[edges]],
            self.graph.nodes_per_graph[graphs],
        )
        return self._part(
            graph, graphs.nonzero().flatten(), kept.nonzero().flatten(), edges, node_labels
        )

    def node_labels(self) -> set[str]:
        """Names of the labels that have a row for each node; ValueError where that is unclear."""
        if self.labels and self.num_nodes == self.num_graphs and set(self.graph.sizes) != {1}:
            raise ValueError(
                f"{self.num_nodes} nodes in as many graphs: a label may belong to either; split "
                "the batch without labels, or without its empty graphs"
            )

        rows = {name: value.shape[0] for name, value in self.labels.items()}
        wrong = [name for name, n in rows.items() if n not in (self.num_nodes, self.num_graphs)]
        if wrong:
            raise ValueError(
                f"labels[{wrong[0]!r}] has {rows[wrong[0]]} rows, which are neither the "
                f"{self.num_nodes} nodes nor the {self.num_graphs} graphs of the batch"
            )
        return {name for name, count in rows.items() if count == self.num_nodes}

    def _edges_of_graphs(self) -> tuple[Tensor, ...]:
        """Edges of each graph, in their order in the batch."""
        graph_of_edge = self.graph.graph_of_node.index_select(0, self.graph.dst)
        return graph_of_edge.argsort(stable=True).split(self.graph.edges_per_graph.tolist())

    def _single(self, index: int, nodes: slice, edges: Tensor, node_labels: set[str]) -> AtomBatch:
        """Graph ``index``, made of rows ``nodes`` and ``edges``."""
        this = slice(index, index + 1)
        graph = GraphIndex(
            self.graph.src[edges] - nodes.start,
            self.graph.dst[edges] - nodes.start,
            self.graph.nodes_per_graph[this],
        )
        return self._part(graph, this, nodes, edges, node_labels)

    def _part(
        self,
        graph: GraphIndex,
        graphs: slice | Tensor,
        nodes: slice | Tensor,
        edges: Tensor,
        node_labels: set[str],
    ) -> AtomBatch:
        """A part of the batch with topology ``graph``, made of these rows of the batch."""

        def of_edges(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.index_select(0, edges)

        numbers, cell, periodic = self.atomic_numbers, self.cell, self.periodic
        remainder = self.position_remainder
        return AtomBatch(
            graph=graph,
            positions=self.positions[nodes],
            atomic_numbers=None if numbers is None else numbers[nodes],
            node_features={name: value[nodes] for name, value in self.node_features.items()},
            edge_features={name: of_edges(value) for name, value in self.edge_features.items()},
            graph_features={name: value[graphs] for name, value in self.graph_features.items()},
            cell=None if cell is None else cell[graphs],
            image_shift=of_edges(self.image_shift),
            labels={
                name: value[nodes if name in node_labels else graphs]
                for name, value in self.labels.items()
            },
            edge_basis=None if self.edge_basis is None else self.edge_basis.select(edges),
            periodic=None if periodic is None else periodic[graphs],
            cutoff=self.cutoff,
            position_remainder=None if remainder is None else remainder[nodes],
        )

    @classmethod
    def from_dgl(
        cls,
        graph,
        cell: Tensor | None = None,
        labels: dict[str, Tensor] | None = None,
        periodic: Tensor | None = None,
        graph_features: dict[str, Tensor] | None = None,
    ) -> AtomBatch:
        """Batch of a (batched) ``dgl.DGLGraph``, edges in its order.

        ndata ``positions`` (nodes, 3) is required, ``atomic_numbers`` and ``position_remainder``
        are optional, all other ndata become node features; edata ``image_shift`` is optional, all
        other edata become edge features. What belongs to whole graphs comes as arguments. Raises
        ``ValueError`` without positions.
        """
        if "positions" not in graph.ndata:
            raise ValueError(
                "the graph must have ndata 'positions' (nodes, 3), got "
                f"{sorted(graph.ndata) or 'no ndata'}"
            )
        nodes, edges = dict(graph.ndata), dict(graph.edata)
        return cls(
            graph=GraphIndex.from_dgl(graph),
            **{name: nodes.pop(name, None) for name in NODE_FIELDS},
            image_shift=edges.pop("image_shift", None),
            node_features=nodes,
            edge_features=edges,
            graph_features=dict(graph_features or {}),
            cell=cell,
            labels=dict(labels or {}),
            periodic=periodic,
        )

    def to_dgl(self):
        """``dgl.DGLGraph`` with the node and edge data of this batch; inverse of :meth:`from_dgl`.

        It knows the division into graphs. Cell, periodic directions, graph features, labels and a
        cached basis are not on the graph. Raises ``RuntimeError`` where the installed DGL cannot
        serve the device.
        """
        if self.graph.dgl is None:
            raise RuntimeError(
                f"the installed DGL cannot serve the device {self.positions.device}; move the "
                "batch to the cpu first"
            )
        graph = self.graph.dgl.local_var()
        graph.set_batch_num_nodes(self.graph.nodes_per_graph)
        graph.set_batch_num_edges(self.graph.edges_per_graph)

        nodes = {name: getattr(self, name) for name in NODE_FIELDS} | self.node_features
        edges = {"image_shift": self.image_shift} | self.edge_features
        graph.ndata.update({name: value for name, value in nodes.items() if value is not None})
        graph.edata.update({name: value for name, value in edges.items() if value is not None})
        return graph


def rounded_positions(exact: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Positions (nodes, 3) in a type, and what it cut off in the same type; None if nothing can be.

    exact: (nodes, 3) of any type.
    """
    positions = exact.to(dtype)
    if torch.finfo(dtype).eps <= torch.finfo(exact.dtype).eps:
        return positions, None
    return positions, (exact.detach() - positions.detach().to(exact.dtype)).to(dtype)


def _moved(value, device, dtype: torch.dtype | None):
    """A field of a batch on another device or in another floating-point type."""
    if isinstance(value, dict):
        return {name: _moved(content, device, dtype) for name, content in value.items()}
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    if isinstance(value, EdgeBasis):
        return value.to(device, dtype)
    return value
