"""Born effective charges: how the dipole of a structure follows the motion of an atom.

    Z_i[b, a] = dP_a / dr_ib,        P = sum_j q_j r_j        (open; origin fixed at the centroid)

In a crystal P is known up to multiples of a lattice vector, its derivative is not: with fractional
coordinates s and rows of H the lattice vectors,

    Z_i[b, a] = sum_c Re[exp(-2 pi i s_ic) d/dr_ib sum_j q_j exp(2 pi i s_jc) / (2 pi i)] H_ca,

the form of Latent Ewald summation (Zhong, Kim, King & Cheng 2025, eq. 9). Charges that hear an atom
from beyond a small part of the cell enter with sin(2 pi s) / 2 pi in place of s.

The sum of Z over the atoms of a structure is its total charge times the identity, where charges
conserve it.

Cost: three gradients of the charges for open structures, six for crystals.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.far_field.coulomb import repeating
from farfield.models.graph_ops import broadcast_nodes, mean_nodes
from farfield.models.potential import Potential


def born_charges(potential: Potential, batch: AtomBatch) -> Tensor:
    """Born effective charges (nodes, 3, 3), e: ``[i, b, a]`` is dP_a / dr_ib.

    potential: one whose network gives ``charges``. batch: open structures, or crystals. Raises
    ValueError in one line for a potential without charges and for batches of both kinds.
    """
    if "charges" not in potential.outputs():
        raise ValueError(
            "Born charges are slopes of the charges of a network, and this one has none; train "
            "with --charges latent"
        )
    repeats = repeating(batch.num_graphs, batch.cell, batch.periodic)
    if any(repeats) and not all(repeats):
        raise ValueError(
            f"Born charges need open structures or crystals, got {sum(repeats)} crystals of "
            f"{len(repeats)} structures in one batch; make a batch of each"
        )

    with torch.enable_grad():
        positions = batch.positions.detach().requires_grad_(True)
        charges = potential.network(dataclasses.replace(batch, positions=positions))["charges"]
        slopes = _periodic if any(repeats) else _open
        return slopes(batch, positions, charges).detach()


def _open(batch: AtomBatch, positions: Tensor, charges: Tensor) -> Tensor:
    """Slopes of ``sum_j q_j (r_j - c)`` with c fixed: (nodes, 3, 3)."""
    centre = broadcast_nodes(batch.graph, mean_nodes(batch.graph, positions.detach()))
    dipole = charges.unsqueeze(1) * (positions - centre)
    return torch.stack([_slope(dipole[:, axis], positions) for axis in range(3)], 2)


def _periodic(batch: AtomBatch, positions: Tensor, charges: Tensor) -> Tensor:
    """Slopes of the polarisation, back to the place of each atom: (nodes, 3, 3)."""
    inverse = broadcast_nodes(batch.graph, torch.linalg.inv(batch.cell))
    fractional = (positions.unsqueeze(1) @ inverse).squeeze(1)
    angle = 2 * math.pi * fractional  # (nodes, 3)
    scaled = charges.unsqueeze(1) / (2 * math.pi)
    real, imaginary = scaled * angle.sin(), -scaled * angle.cos()  # of q exp(i angle) / 2 pi i

    slopes = []
    for axis in range(3):
        turn = angle[:, axis : axis + 1].detach()
        slope = turn.cos() * _slope(real[:, axis], positions)
        slopes.append(slope + turn.sin() * _slope(imaginary[:, axis], positions))
    return torch.stack(slopes, 2) @ broadcast_nodes(batch.graph, batch.cell)


def _slope(values: Tensor, positions: Tensor) -> Tensor:
    """Gradient of the sum of ``values``: graphs of a batch do not see each other."""
    return torch.autograd.grad(values.sum(), positions, retain_graph=True)[0]
