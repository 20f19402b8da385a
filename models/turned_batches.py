"""Batches whose structures are turned, each by an orthogonal matrix R of its own.

    r -> R r,    cell vector a -> R a,    vector v -> R v,    tensor T -> R T R^T,    scalars stay

Topology, images and all lengths stay as they are; a cached edge basis holds directions, so it is
dropped. How a field of a batch turns is told by its name alone, in one table, :data:`KINDS`, whose
words are those of :class:`models.network.Output`. A field that the table does not know is a scalar
if it has one number a row or integers; else it is refused, since three columns may be a vector as
well as three scalars:

    declare_kind("magnetic_moment", "vector")

Values are turned in float64 and rounded once. Cost: linear in nodes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch, rounded_positions
from farfield.models.choices import Registry, check_choice
from farfield.models.graph_ops import GraphIndex

ORTHOGONAL = 1e-5  # largest entry of R R^T - 1

KINDS: Registry[str] = Registry("field of a batch")
"""Name of a feature or a label of a batch -> kind: how it turns with its structure."""


def _vectors(values: Tensor, matrices: Tensor) -> Tensor:
    """(rows, ..., 3 k) under (rows, 3, 3): each three neighbours are a vector."""
    vectors = values.unflatten(-1, (-1, 3)).flatten(1, -2)  # (rows, vectors, 3)
    return (vectors @ matrices.mT).reshape(values.shape)


def _tensors(values: Tensor, matrices: Tensor) -> Tensor:
    """(rows, ..., 3, 3) under (rows, 3, 3)."""
    between = [1] * (values.dim() - 3)
    matrices = matrices.view(-1, *between, 3, 3)
    return matrices @ values @ matrices.mT


# kind -> rule
RULES = {
    "scalar": lambda values, matrices: values,
    "vector": _vectors,
    "vectors": _vectors,
    "tensor": _tensors,
}


def declare_kind(name: str, kind: str) -> None:
    """Say how the feature or label ``name`` of a batch turns.

    kind: "scalar", "vector" (..., 3), "vectors" (..., 3 k) or "tensor" (..., 3, 3). ValueError for
    another word, and for a name that has another kind already.
    """
    check_choice(f"kind of {name!r}", kind, RULES)
    KINDS.register(name)(kind)


# labels of potentials and properties
declare_kind("forces", "vector")
declare_kind("dipole", "vector")
declare_kind("stress", "tensor")
declare_kind("virial", "tensor")

# bodies that move, and noised structures
declare_kind("velocities", "vector")
declare_kind("velocity_change", "vector")
declare_kind("displacement", "vector")
declare_kind("waypoints", "vectors")

# diffusion: label and, for the time, input
declare_kind("noise", "vector")
declare_kind("time", "scalar")


def turned_values(values: Tensor, kind: str, matrices: Tensor, name: str = "values") -> Tensor:
    """Values (rows, ...) of a kind under orthogonal matrices (rows, 3, 3).

    name: of the values, for the error. ValueError for a shape that is not of the kind.
    """
    shape = tuple(values.shape)
    fits = {
        "scalar": True,
        "vector": len(shape) > 1 and shape[-1] == 3,
        "vectors": len(shape) > 1 and shape[-1] % 3 == 0,
        "tensor": len(shape) > 2 and shape[-2:] == (3, 3),
    }
    check_choice(f"kind of {name!r}", kind, RULES)
    if not fits[kind]:
        raise ValueError(f"{name!r} is declared as {kind}, which its shape {shape} cannot be")
    if kind == "scalar":
        return values
    return RULES[kind](values.double(), matrices.double()).to(values.dtype)


def turned_batch(batch: AtomBatch, matrices: Tensor) -> AtomBatch:
    """The batch with every structure turned about the origin by its matrix; no cached edge basis.

    matrices: (graphs, 3, 3), orthogonal, of determinant 1 or -1. ValueError for other matrices, and
    for a feature or label of which nobody says how it turns (:func:`declare_kind`).
    """
    _check_matrices(batch, matrices)
    graph = batch.graph
    matrices = matrices.to(batch.positions.device)
    rows_of = {
        "nodes": matrices.index_select(0, graph.graph_of_node),
        "edges": matrices.index_select(0, graph.graph_of_node.index_select(0, graph.dst)),
        "graphs": matrices,
    }

    def turned_fields(fields: Mapping[str, Tensor], rows: str) -> dict[str, Tensor]:
        return {
            name: turned_values(value, kind_of(name, value), rows_of[rows], name)
            for name, value in fields.items()
        }

    # a label turns with its structure, whether it has a row for each node or for each graph
    labels, of_nodes = {}, batch.node_labels()
    for name, value in batch.labels.items():
        labels |= turned_fields({name: value}, "nodes" if name in of_nodes else "graphs")

    # positions are rounded once, after the turn
    exact = turned_values(batch.exact_positions(), "vector", rows_of["nodes"])
    positions, remainder = rounded_positions(exact, batch.positions.dtype)

    cell = batch.cell
    return dataclasses.replace(
        batch,
        positions=positions,
        position_remainder=remainder,
        cell=None if cell is None else turned_values(cell, "vector", matrices),
        node_features=turned_fields(batch.node_features, "nodes"),
        edge_features=turned_fields(batch.edge_features, "edges"),
        graph_features=turned_fields(batch.graph_features, "graphs"),
        labels=labels,
        edge_basis=None,
    )


def kind_of(name: str, values: Tensor) -> str:
    """How the field ``name`` of a batch (rows, ...) turns; ValueError where nobody says it."""
    if name in KINDS:
        return KINDS[name]
    numbers = values.shape[1:].numel()
    if numbers <= 1 or not values.is_floating_point():
        return "scalar"
    raise ValueError(
        f"{name!r} has {numbers} numbers a row, and nothing says how they turn with their "
        f"structure; declare it: models.turned_batches.declare_kind({name!r}, "
        f"{'vector' if values.shape[-1] == 3 else 'scalar'!r}), one of {', '.join(RULES)}"
    )


def _check_matrices(batch: AtomBatch, matrices: Tensor) -> None:
    """ValueError unless there is one orthogonal matrix for each structure."""
    if matrices.shape != (batch.num_graphs, 3, 3):
        raise ValueError(
            f"{batch.num_graphs} structures are turned by matrices of the shape "
            f"{(batch.num_graphs, 3, 3)}, got {tuple(matrices.shape)}"
        )

    # in float64, so that the product adds no rounding of its own
    wide = matrices.double()
    identity = torch.eye(3, dtype=wide.dtype, device=wide.device)
    error = (wide @ wide.mT - identity).abs().amax() if len(wide) else wide.new_zeros(())
    if not error <= ORTHOGONAL:  # also for nan
        raise ValueError(
            f"matrices must be orthogonal to {ORTHOGONAL:.0e}, since edges keep their lengths; "
            f"R R^T - 1 is {float(error):.1e}"
        )


def repeated_batch(batch: AtomBatch, copies: int) -> AtomBatch:
    """All structures of a batch ``copies`` times, one whole batch after the other.

    Two copies or more have no cached edge basis. ValueError for less than one copy.
    """
    if copies < 1:
        raise ValueError(f"copies of a batch must be >= 1, got {copies}")
    if copies == 1:
        return batch
    graph = batch.graph
    first = torch.arange(copies, device=graph.src.device) * graph.num_nodes
    first = first.repeat_interleave(graph.num_edges)  # (copies * edges,) node 0 of each copy

    def repeated(value):
        if isinstance(value, dict):
            return {name: repeated(content) for name, content in value.items()}
        return torch.cat([value] * copies) if isinstance(value, Tensor) else value

    fields = {
        field.name: repeated(getattr(batch, field.name)) for field in dataclasses.fields(batch)
    }
    fields["graph"] = GraphIndex(
        graph.src.repeat(copies) + first,
        graph.dst.repeat(copies) + first,
        graph.nodes_per_graph.repeat(copies),
    )
    return AtomBatch(**fields | {"edge_basis": None})
