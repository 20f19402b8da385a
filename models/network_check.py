"""Whether a network keeps the contract: a validator to call on a network of one's own.

    from farfield.models.factory import build_model
    from farfield.models.network_check import check_network

    check_network(build_model({"name": "my_network"}).double(), batch)

Each check names the mistake that it catches. The laws of ``tests/laws.py`` go further (derivatives
of first and second order, degenerate geometry); this runs on any batch of two or more structures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import GraphIndex
from farfield.models.network import EnergyNetwork, Network, Output
from farfield.models.potential import Potential
from farfield.models.turned_batches import turned_batch, turned_values

SHAPES = {"scalar": (), "vector": (3,), "tensor": (3, 3)}  # of a row, by the kind of an output
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}  # of the largest value of an output


def check_network(
    network: Network, batch: AtomBatch, tolerance: float | None = None
) -> dict[str, float]:
    """Check the outputs of a network, and how they change when the structures move or turn.

    network    in evaluation mode afterwards; float64 tells more
    batch      two or more structures, in the type of the network
    tolerance  largest error relative to an output (default: 1e-4 in float32, 1e-9 in float64)

    Returns the largest relative error of every check. Raises ValueError in one line for the first
    check that fails.
    """
    if batch.num_graphs < 2:
        raise ValueError(f"the check needs a batch of >= 2 structures, got {batch.num_graphs}")
    limit = TOLERANCE[batch.positions.dtype] if tolerance is None else tolerance
    network.eval()
    _check_types(network, batch)

    inner = network.network if isinstance(network, Potential) else network
    _check_outputs(inner, batch, inner(batch))
    expected = network(batch)
    _check_outputs(network, batch, expected)

    errors = {}
    for name, change in CHECKS.items():
        errors[name] = _compare(name, network, expected, limit, *change(batch))
    errors["batching"] = _check_batching(network, batch, expected, limit)
    if isinstance(inner, EnergyNetwork) and network.cutoff is not None:
        errors["cutoff"] = _check_cutoff(network, batch, limit)
    return errors


def promised_outputs(network: Network, batch: AtomBatch) -> dict[str, Output]:
    """What the network promises for a batch, by name."""
    directions = batch.periodic
    is_open = batch.cell is None if directions is None else not bool(directions.any())
    return {
        name: output
        for name, output in network.outputs().items()
        if is_open or not output.open_only
    }


def _check_types(network: Network, batch: AtomBatch) -> None:
    """The weights and the batch have one type, float32 or float64."""
    held = {weight.dtype for weight in network.parameters() if weight.is_floating_point()}
    if held - {batch.positions.dtype}:
        raise ValueError(
            f"the network has weights of {', '.join(map(str, held))}, the batch positions of "
            f"{batch.positions.dtype}; use network.double() and batch.to(dtype=torch.float64)"
        )


def _check_outputs(network: Network, batch: AtomBatch, found: object) -> None:
    """Every output that the network promises is there, with one row a structure or an atom."""
    if not isinstance(found, dict):
        raise ValueError(f"forward must return a dict of predictions, got {type(found).__name__}")

    rows = {"graph": batch.num_graphs, "node": batch.num_nodes}
    for name, output in promised_outputs(network, batch).items():
        if name not in found:
            raise ValueError(
                f"outputs() promises {name!r}, forward gives {', '.join(found) or 'nothing'}"
            )

        value = found[name]
        if value.shape[:1] != (rows[output.rows],):
            raise ValueError(
                f"{name} must have one row for each of the {rows[output.rows]} {output.rows}s, got "
                f"the shape {tuple(value.shape)}"
            )
        shape = SHAPES.get(output.kind) if output.columns is None else (output.columns,)
        if shape is not None and value.shape[1:] != shape:
            raise ValueError(
                f"{name} must have the shape {(rows[output.rows], *shape)}, a "
                f"{output.kind} a {output.rows}, got {tuple(value.shape)}"
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} is not finite; look for a division by an edge length")

    if isinstance(network, EnergyNetwork):
        _check_graph_of_energy(network, batch)


def _check_graph_of_energy(network: EnergyNetwork, batch: AtomBatch) -> None:
    """Energies lead back to the positions, so that forces can be derived."""
    positions = batch.positions.detach().requires_grad_(True)
    with torch.enable_grad():
        energy = network(dataclasses.replace(batch, positions=positions))["atomic_energy"]
    if not energy.requires_grad:
        raise ValueError(
            "atomic_energy is cut off from positions and weights (detach, no_grad or numpy inside "
            "forward?); forces are its derivative"
        )


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
    matrix = (sign * matrix * torch.linalg.det(matrix)).to(batch.positions.device)

    def turn(value: Tensor, output: Output) -> Tensor:
        return turned_values(value, output.kind, matrix.expand(len(value), 3, 3))

    # labels are not looked at, so nobody has to say how they turn
    turned = turned_batch(
        dataclasses.replace(batch, labels={}), matrix.expand(batch.num_graphs, 3, 3)
    )
    return turned, turn


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

    remainder = batch.position_remainder
    permuted = dataclasses.replace(
        batch,
        graph=GraphIndex(src[edges], dst[edges], batch.graph.nodes_per_graph),
        positions=batch.positions[order],
        position_remainder=None if remainder is None else remainder[order],
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
) -> float:
    """Largest relative error of all outputs after a change."""
    largest = 0.0
    after = network(changed)
    for key, output in promised_outputs(network, changed).items():
        expected = turn(before[key], output)
        error = _relative(after[key], expected)
        if not error <= limit:  # also for nan
            raise ValueError(
                f"{key} breaks under {name}: error {error:.1e}, limit {limit:.0e}; {mistake}"
            )
        largest = max(largest, error)
    return largest


def _check_batching(
    network: Network, batch: AtomBatch, together: dict[str, Tensor], limit: float
) -> float:
    """A structure gives the same alone and in a batch."""
    largest = 0.0
    alone = [network(structure) for structure in batch.split()]
    for key in promised_outputs(network, batch):
        joined = torch.cat([out[key] for out in alone])
        error = _relative(joined, together[key])
        if not error <= limit:  # also for nan
            raise ValueError(
                f"{key} of a structure depends on its batch: error {error:.1e}, limit {limit:.0e}; "
                "look for a mean, a maximum or a norm over all atoms of a batch"
            )
        largest = max(largest, error)
    return largest


def _check_cutoff(network: Network, batch: AtomBatch, limit: float) -> float:
    """A neighbour just inside the cutoff counts as much as none: the energy does not jump there."""
    place = network.cutoff * (1 - 1e-4) / 3**0.5
    pair = dataclasses.replace(
        batch.split()[0],
        graph=GraphIndex(torch.tensor([1, 0]), torch.tensor([0, 1]), torch.tensor([2])),
        positions=batch.positions.new_tensor([[0.0, 0.0, 0.0], [place, place, place]]),
        atomic_numbers=batch.atomic_numbers[:2],
        node_features={name: value[:2] for name, value in batch.node_features.items()},
        edge_features={name: value[:2] for name, value in batch.edge_features.items()},
        cell=None,
        periodic=None,
        image_shift=None,
        edge_basis=None,
        labels={},
        cutoff=None,
    )
    none = torch.tensor([], dtype=torch.long)
    apart = dataclasses.replace(
        pair,
        graph=GraphIndex(none, none, torch.tensor([2])),
        edge_features={name: value[:0] for name, value in pair.edge_features.items()},
    )

    inside, outside = _energy(network, pair), _energy(network, apart)
    scale = float(_energy(network, batch).abs().max().clamp_min(1e-12))
    error = float((inside - outside).abs().max()) / scale
    if not error <= max(limit, 1e-6):
        raise ValueError(
            f"the energy jumps at the cutoff of {network.cutoff} Angstrom: error {error:.1e}; "
            "multiply what an edge gives by an envelope that is zero there, such as "
            "models.layers.radial.polynomial_envelope"
        )
    return error


def _energy(network: Network, batch: AtomBatch) -> Tensor:
    """Learned energies of atoms (nodes,), of a potential or of the network inside."""
    inner = network.network if isinstance(network, Potential) else network
    return inner(batch)["atomic_energy"].detach()


def _relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    scale = expected.abs().max().clamp_min(1e-12)
    return float(((found - expected).abs().max() / scale).detach())
