"""Whether a network keeps the contract: a validator to call on a network of one's own.

    from farfield.models.factory import build_model
    from farfield.models.network_check import check_network

    check_network(build_model({"name": "my_network"}).double(), batch)

Each check names the mistake that it catches. The laws of ``tests/laws.py`` go further (derivatives,
the cutoff, extensivity); this is what takes a second on any batch of two or more structures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import GraphIndex
from farfield.models.network import Network, Output

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}  # of the largest value of an output


def check_network(network: Network, batch: AtomBatch, tolerance: float | None = None) -> None:
    """Check the outputs of a network, and how they change when the structures move or turn.

    network    in evaluation mode afterwards; float64 tells more
    batch      two or more structures, in the type of the network
    tolerance  largest error relative to an output (default: 1e-4 in float32, 1e-9 in float64)

    Raises ValueError in one line for the first check that fails.
    """
    if batch.num_graphs < 2:
        raise ValueError(f"the check needs a batch of >= 2 structures, got {batch.num_graphs}")
    limit = TOLERANCE[batch.positions.dtype] if tolerance is None else tolerance
    network.eval()

    expected = network(batch)
    _check_outputs(network, batch, expected)
    for name, change in CHECKS.items():
        _compare(name, network, expected, limit, *change(batch))
    _check_batching(network, batch, expected, limit)


def _check_outputs(network: Network, batch: AtomBatch, found: dict[str, Tensor]) -> None:
    """Every output that the network promises is there, with one row a structure or an atom."""
    rows = {"graph": batch.num_graphs, "node": batch.num_nodes}
    for name, output in network.outputs().items():
        if name not in found:
            raise ValueError(f"outputs() promises {name!r}, forward gives {', '.join(found)}")
        value = found[name]
        if value.shape[:1] != (rows[output.rows],):
            raise ValueError(
                f"{name} must have one row for each of the {rows[output.rows]} {output.rows}s, got "
                f"the shape {tuple(value.shape)}"
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} is not finite; look for a division by an edge length")


Turn = Callable[[Tensor, Output], Tensor]  # output before -> output expected after


def _translated(batch: AtomBatch) -> tuple[AtomBatch, Turn, str]:
    shift = torch.tensor([1.5, -2.0, 0.5]).to(batch.positions)
    moved = dataclasses.replace(batch, positions=batch.positions + shift)
    return moved, lambda value, output: value, "positions enter other than by differences"


def _turned(batch: AtomBatch, sign: float) -> tuple[AtomBatch, Turn]:
    """The batch under a fixed orthogonal matrix of determinant ``sign``."""
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    matrix, _ = torch.linalg.qr(square)
    matrix = (sign * matrix * torch.linalg.det(matrix)).to(batch.positions)

    vectors = {
        name: value @ matrix.T
        for name, value in batch.node_features.items()
        if value.dim() == 2 and value.shape[1] == 3
    }
    turned = dataclasses.replace(
        batch,
        positions=batch.positions @ matrix.T,
        cell=None if batch.cell is None else batch.cell @ matrix.T,
        node_features=batch.node_features | vectors,
        edge_basis=None,
    )
    return turned, lambda value, output: _turn(value, output, matrix)


def _turn(value: Tensor, output: Output, matrix: Tensor) -> Tensor:
    """What an output becomes under an orthogonal matrix (3, 3)."""
    matrix = matrix.to(value.dtype)
    if output.kind == "vector":
        return value @ matrix.T
    if output.kind == "vectors":  # (..., 3 k)
        return (value.unflatten(-1, (-1, 3)) @ matrix.T).flatten(-2)
    if output.kind == "tensor":
        return matrix @ value @ matrix.T
    return value


def _rotated(batch: AtomBatch) -> tuple[AtomBatch, Turn, str]:
    return *_turned(batch, 1.0), "a direction in space is preferred"


def _mirrored(batch: AtomBatch) -> tuple[AtomBatch, Turn, str]:
    return *_turned(batch, -1.0), "mirror images differ: products of odd parity are mixed in"


def _permuted(batch: AtomBatch) -> tuple[AtomBatch, Turn, str]:
    """The batch with the atoms of every structure in reverse order, edges sorted again."""
    ends = batch.graph.node_offsets.tolist()
    order = torch.cat([torch.arange(high - 1, low - 1, -1) for low, high in pairwise(ends)])
    order = order.to(batch.positions.device)
    place = torch.argsort(order)  # old atom -> new atom
    src, dst = place[batch.graph.src], place[batch.graph.dst]
    edges = torch.argsort(dst * batch.num_nodes + src)

    def of_edges(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[edges]

    permuted = dataclasses.replace(
        batch,
        graph=GraphIndex(src[edges], dst[edges], batch.graph.nodes_per_graph),
        positions=batch.positions[order],
        atomic_numbers=None if batch.atomic_numbers is None else batch.atomic_numbers[order],
        node_features={name: value[order] for name, value in batch.node_features.items()},
        edge_features={name: of_edges(value) for name, value in batch.edge_features.items()},
        image_shift=of_edges(batch.image_shift),
        edge_basis=None,
        labels={},
    )

    def turn(value: Tensor, output: Output) -> Tensor:
        return value[order] if output.rows == "node" else value

    return permuted, turn, "the order of the atoms matters"


CHECKS = {
    "translation": _translated,
    "rotation": _rotated,
    "reflection": _mirrored,
    "permutation": _permuted,
}


def _compare(
    name: str,
    network: Network,
    before: dict[str, Tensor],
    limit: float,
    changed: AtomBatch,
    turn: Turn,
    mistake: str,
) -> None:
    after = network(changed)
    for key, output in network.outputs().items():
        expected = turn(before[key], output)
        error = _relative(after[key], expected)
        if not error <= limit:  # also for nan
            raise ValueError(
                f"{key} breaks under {name}: error {error:.1e}, limit {limit:.0e}; {mistake}"
            )


def _check_batching(
    network: Network, batch: AtomBatch, together: dict[str, Tensor], limit: float
) -> None:
    """A structure gives the same alone and in a batch."""
    alone = [network(structure) for structure in batch.split()]
    for key in network.outputs():
        joined = torch.cat([out[key] for out in alone])
        error = _relative(joined, together[key])
        if not error <= limit:  # also for nan
            raise ValueError(
                f"{key} of a structure depends on its batch: error {error:.1e}, limit {limit:.0e}; "
                "look for a mean, a maximum or a norm over all atoms of a batch"
            )


def _relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    scale = expected.abs().max().clamp_min(1e-12)
    return float(((found - expected).abs().max() / scale).detach())
