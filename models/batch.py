"""A batch of structures as the networks read it: topology, positions, features, labels and, where
it is known, the edge basis.

Batches are ragged: graphs are laid end to end, nothing is padded. Edges are sorted by (dst, src),
so the edges of a batch are those of its graphs one after the other, and rows cached per graph can
be gathered for any batch. Cost: linear in nodes and edges.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from farfield.models.graph_ops import GraphIndex
from farfield.models.near_field.edge_frames import EdgeBasis

NODE_FIELDS = ("positions", "atomic_numbers")


@dataclasses.dataclass
class AtomBatch:
    """Graphs laid end to end.

    Attributes
        graph           topology (nodes, edges, graphs)
        positions       (nodes, 3), Angstrom; dimensionless for N-body
        atomic_numbers  (nodes,) int64, or None where particles are no atoms
        node_features   name -> (nodes, ...);   edge_features   name -> (edges, ...)
        cell            (graphs, 3, 3), rows are lattice vectors, or None
        periodic        (graphs, 3) bool, directions in which a structure repeats, or None = all
                        three wherever there is a cell
        image_shift     (edges, 3) integer cell vectors added to the receiving atom, or None
        labels          name -> (nodes, ...) or (graphs, ...)
        edge_basis      basis of the edges in their order if it was cached, else None: the model
                        computes it
        cutoff          every pair closer than this (Angstrom) is an edge; None where that is not
                        promised, as of bonds
    """

    graph: GraphIndex
    positions: Tensor
    atomic_numbers: Tensor | None = None
    node_features: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    edge_features: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    cell: Tensor | None = None
    image_shift: Tensor | None = None
    labels: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    edge_basis: EdgeBasis | None = None
    periodic: Tensor | None = None
    cutoff: float | None = None

    def __post_init__(self):
        rows = [
            ("positions", self.positions, self.num_nodes, "nodes"),
            ("atomic_numbers", self.atomic_numbers, self.num_nodes, "nodes"),
        ]
        rows += [
            (f"node_features[{name!r}]", value, self.num_nodes, "nodes")
            for name, value in self.node_features.items()
        ]
        rows += [
            (f"edge_features[{name!r}]", value, self.num_edges, "edges")
            for name, value in self.edge_features.items()
        ]
        rows += [
            ("cell", self.cell, self.num_graphs, "graphs"),
            ("image_shift", self.image_shift, self.num_edges, "edges"),
        ]
        rows.append(("periodic", self.periodic, self.num_graphs, "graphs"))
        if self.edge_basis is not None:
            basis = self.edge_basis
            rows.append(("edge_basis.length", basis.length, self.num_edges, "edges"))
            rows.append(
                (
                    "frames of edge_basis",
                    basis.packed[0] if basis.rows is None else basis.rows,
                    self.num_edges,
                    "edges",
                )
            )
        for name, value, count, unit in rows:
            if value is not None and value.shape[0] != count:
                raise ValueError(
                    f"{name} must have one row for each of the {count} {unit}, got the shape "
                    f"{tuple(value.shape)}"
                )

    @property
    def num_graphs(self) -> int:
        return self.graph.num_graphs

    @property
    def num_nodes(self) -> int:
        return self.graph.num_nodes

    @property
    def num_edges(self) -> int:
        return self.graph.num_edges

    def to(self, device=None, dtype: torch.dtype | None = None) -> AtomBatch:
        """The same batch on another device or with its floating-point numbers in another type;
        integers stay integers.

        A cached basis is no better than the type it is stored in: asked for a finer type, the batch
        drops it and the model computes it.
        """
        moved = {
            field.name: _moved(getattr(self, field.name), device, dtype)
            for field in dataclasses.fields(self)
        }
        if device is not None:
            moved["graph"] = self.graph.to(device)
        if (
            self.edge_basis is not None
            and dtype is not None
            and torch.finfo(dtype).eps < torch.finfo(self.edge_basis.length.dtype).eps
        ):
            moved["edge_basis"] = None
        return AtomBatch(**moved)

    @classmethod
    def from_dgl(
        cls,
        graph,
        cell: Tensor | None = None,
        labels: dict[str, Tensor] | None = None,
        periodic: Tensor | None = None,
    ) -> AtomBatch:
        """Batch of a (batched) ``dgl.DGLGraph``, edges in its order.

        ndata ``positions`` (nodes, 3) is required, ``atomic_numbers`` is optional, all other ndata
        become node features; edata ``image_shift`` is optional, all other edata become edge
        features. What belongs to whole graphs is given beside. Raises ``ValueError`` without
        positions.
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
            cell=cell,
            labels=dict(labels or {}),
            periodic=periodic,
        )

    def to_dgl(self):
        """``dgl.DGLGraph`` with the node and edge data of this batch and its division into graphs;
        the inverse of :meth:`from_dgl`.

        Cell, periodic directions, labels and a cached basis are not on the graph. Raises
        ``RuntimeError`` where the installed DGL cannot serve the device.
        """
        if self.graph.dgl is None:
            raise RuntimeError(
                f"the installed DGL cannot serve the device {self.positions.device}; move the "
                "batch to the cpu first"
            )
        graph = self.graph.dgl.local_var()
        graph.set_batch_num_nodes(self.graph.nodes_per_graph)
        graph.set_batch_num_edges(edges_per_graph(self.graph))
        nodes = {name: getattr(self, name) for name in NODE_FIELDS} | self.node_features
        edges = {"image_shift": self.image_shift} | self.edge_features
        graph.ndata.update({name: value for name, value in nodes.items() if value is not None})
        graph.edata.update({name: value for name, value in edges.items() if value is not None})
        return graph


def _moved(value, device, dtype: torch.dtype | None):
    if isinstance(value, dict):
        return {name: _moved(content, device, dtype) for name, content in value.items()}
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    if isinstance(value, EdgeBasis):
        return value.to(device, dtype)
    return value


def edges_per_graph(graph: GraphIndex) -> Tensor:
    """Number of edges of every graph (graphs,) int64."""
    return torch.bincount(
        graph.graph_of_node.index_select(0, graph.dst), minlength=graph.num_graphs
    )


@functools.lru_cache(maxsize=16)
def complete_graphs(num_graphs: int, nodes: int) -> GraphIndex:
    """Topology of ``num_graphs`` complete graphs of ``nodes`` nodes without self loops; all batches
    of that size share it.
    """
    sender, receiver = complete_edges(nodes)
    first = torch.arange(num_graphs).view(-1, 1) * nodes
    return GraphIndex(
        (first + sender).flatten(), (first + receiver).flatten(), torch.full((num_graphs,), nodes)
    )


@functools.cache
def complete_edges(nodes: int) -> tuple[Tensor, Tensor]:
    """``src`` and ``dst`` (nodes (nodes - 1),) int64 of one complete graph without self loops,
    sorted by (dst, src).
    """
    receiver, sender = torch.ones(nodes, nodes).fill_diagonal_(0).nonzero(as_tuple=True)
    return sender, receiver
