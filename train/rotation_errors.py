"""Rotation error of a trained network: what its outputs f lose of their law when structures turn.

    error of a row = | R f(x) - f(R x) |,      relative error = error / size,
    size = root mean square of |f(x)| over all rows of the split, constants left out

A row is an atom or a structure; | | is the length of its numbers, and R acts on an output as its
kind says (``Network.outputs``). The matrices are the rotations of a super-Fibonacci spiral, evenly
spread over all rotations (models/so3/rotations.py), and the same times -1 for the reflections.
Constants are what elements alone decide: references of energies and of properties, beside which
every error would look small.

An equivariant network has relative errors of rounding (1e-6 in float32). Edges stay as they are, so
nothing is said of the search for neighbours. Cost: 1 + 2 n passes over the split for n rotations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from farfield.common.precision import PRECISIONS
from farfield.models.batch import AtomBatch
from farfield.models.network import Network
from farfield.models.network_check import promised_outputs
from farfield.models.networks.property_networks import PropertyNetwork
from farfield.models.potential import Potential
from farfield.models.so3.rotations import even_rotations
from farfield.models.turned_batches import turned_batch, turned_values

SIGNS = {"rotations": 1.0, "reflections": -1.0}  # of the determinant


class Turned(NamedTuple):
    """An output under some matrices: its name, and a key of ``SIGNS``."""

    output: str
    by: str


@dataclasses.dataclass
class RowTotals:
    """Number, sum, sum of squares and largest of the lengths of many rows."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    largest: float = 0.0

    def add(self, values: Tensor) -> None:
        """Take values (rows, ...), each row by its length."""
        lengths = values.double().reshape(len(values), values[:1].numel()).norm(dim=1)
        if not len(lengths):
            return
        self.count += len(lengths)
        self.total += float(lengths.sum())
        self.squares += float(lengths.square().sum())
        self.largest = float(np.maximum(self.largest, float(lengths.max())))  # nan stays nan

    @property
    def mean(self) -> float:
        """Mean length."""
        return self.total / self.count

    @property
    def root_mean_square(self) -> float:
        """Root of the mean squared length."""
        return (self.squares / self.count) ** 0.5


def rotation_table(
    model: nn.Module,
    batches: Iterable[AtomBatch],
    directions: int,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    units: Mapping[str, str] | None = None,
    progress: Callable[[int], object] = lambda evaluations: None,
) -> list[dict]:
    """Two rows for each output of a network: its errors under rotations, and under reflections.

    Arguments
        model       in evaluation mode, on ``device`` and in ``precision``
        batches     structures, of any task
        directions  number of rotations, and of reflections, >= 1
        units       unit of an output by name, where the network does not say it
        progress    called with 1 after each evaluation of a batch

    Columns: row, unit, size, mean, max (in this unit; eV are shown as meV), relative mean and
    relative max. ``ValueError`` for a network that does not say its outputs, for no structures, and
    for directions < 1.
    """
    if not isinstance(model, Network):
        raise ValueError(
            f"{type(model).__name__} is no Network, so nothing says how its outputs turn; derive "
            "it from models.network.Network"
        )
    sizes: dict[str, RowTotals] = {}
    errors: dict[Turned, RowTotals] = {}
    matrices = even_rotations(directions).to(device)

    with torch.no_grad():
        for stored in batches:
            # labels are not looked at, and a cached basis could not turn
            batch = dataclasses.replace(stored, labels={}, edge_basis=None)
            batch = batch.to(device=device, dtype=PRECISIONS[precision])
            before = model(batch)
            for name, values in without_constants(model, batch, before).items():
                sizes.setdefault(name, RowTotals()).add(values)
            progress(1)

            for by, sign in SIGNS.items():
                for matrix in sign * matrices:
                    for name, difference in differences(model, batch, before, matrix).items():
                        errors.setdefault(Turned(name, by), RowTotals()).add(difference)
                    progress(1)
    if not errors:
        raise ValueError("there are no structures to turn; choose another split")

    named = {name: output.unit for name, output in model.outputs().items()} | dict(units or {})
    return [
        _row(Turned(name, by), errors[name, by], sizes[name], named.get(name, ""))
        for name in sizes
        for by in SIGNS
    ]


def differences(
    model: Network, batch: AtomBatch, before: Mapping[str, Tensor], matrix: Tensor
) -> dict[str, Tensor]:
    """f(R x) - R f(x) (rows, ...) float64 of every output, for one matrix R (3, 3).

    before: f(x), the outputs for the batch as it is.
    """
    after = model(turned_batch(batch, matrix.expand(batch.num_graphs, 3, 3)))
    found = {}
    for name, output in promised_outputs(model, batch).items():
        values = before[name].double()
        turned = turned_values(values, output.kind, matrix.expand(len(values), 3, 3), name)
        found[name] = after[name].double() - turned
    return found


def without_constants(
    model: Network, batch: AtomBatch, before: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Outputs that a network promises for a batch, less what the elements alone decide."""
    values = {name: before[name] for name in promised_outputs(model, batch)}
    if isinstance(model, Potential):
        values["energy"] = values["energy"] - model.reference_energy(batch)
    elif isinstance(model, PropertyNetwork):
        nothing = {name: torch.zeros_like(value) for name, value in values.items()}
        constants = model.heads.scaling(batch.graph, batch.atomic_numbers, nothing)
        values = {name: value - constants[name] for name, value in values.items()}
    return values


def _row(turned: Turned, errors: RowTotals, size: RowTotals, unit: str) -> dict:
    """One row of the table; eV are shown as meV."""
    factor = 1000.0 if unit.startswith("eV") else 1.0
    scale = size.root_mean_square
    return {
        "row": f"{turned.output}, {turned.by}",
        "unit": ("m" if factor > 1 else "") + unit.replace("Angstrom", "A"),
        "size": factor * scale,
        "mean": factor * errors.mean,
        "max": factor * errors.largest,
        "relative mean": _share(errors.mean, scale),
        "relative max": _share(errors.largest, scale),
    }


def _share(error: float, size: float) -> float:
    """error / size; 0 for no error of nothing, inf for an error of nothing."""
    if error == 0:
        return 0.0
    return error / size if size > 0 else float("inf")
