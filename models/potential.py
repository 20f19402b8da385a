"""From energies to forces and stress, by differentiation or by a head of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from farfield.models.graph_ops import GraphIndex, broadcast_nodes


def strained(graph: GraphIndex, positions: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A strain of zeros (graphs, 3, 3) that asks for a gradient, and the positions and cells under
    its symmetric part.

    Raises ValueError for a cell without volume.
    """
    volume = torch.linalg.det(cell).abs()
    if not bool((volume > 0).all()):
        raise ValueError(
            f"stress needs cells with a volume > 0 Angstrom^3, got {float(volume.min())}; ask "
            "for no stress of open systems"
        )
    strain = torch.zeros_like(cell).requires_grad_(True)
    symmetric = (strain + strain.transpose(1, 2)) / 2
    moved = positions + (positions.unsqueeze(1) @ broadcast_nodes(graph, symmetric)).squeeze(1)
    return strain, moved, cell + cell @ symmetric


def no_forces(model: nn.Module, batch) -> dict[str, Tensor]:
    """Energy alone."""
    x = model.features(batch, batch.positions, batch.cell)
    return {"energy": model.energy(batch.graph, x, batch.atomic_numbers)}


def direct_forces(model: nn.Module, batch) -> dict[str, Tensor]:
    """Energy, and forces read from degree 1 without a derivative."""
    x = model.features(batch, batch.positions, batch.cell)
    forces = model.vectors(x) * model.energy.reference.scale.to(x.dtype)
    return {"energy": model.energy(batch.graph, x, batch.atomic_numbers), "forces": forces}


def conservative_forces(model: nn.Module, batch) -> dict[str, Tensor]:
    """Energy and its derivatives by positions and, if asked for, by strain."""
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "forces are derivatives, which torch.inference_mode() forbids; use torch.no_grad()"
        )
    graph, positions, cell = batch.graph, batch.positions, batch.cell
    again = torch.is_grad_enabled() and (model.training or positions.requires_grad)
    with torch.enable_grad():
        if not positions.requires_grad:
            positions = positions.detach().requires_grad_(True)
        wanted, moved = [positions], positions
        if model.options.stress:
            if cell is None:
                raise ValueError(
                    "stress needs a cell: give the batch its cell (graphs, 3, 3), or set stress "
                    "to false"
                )
            strain, moved, cell = strained(graph, positions, cell)
            wanted.append(strain)
        energy = model.energy(graph, model.features(batch, moved, cell), batch.atomic_numbers)
        gradients = torch.autograd.grad(energy.sum(), wanted, create_graph=again)
    out = {"energy": energy if again else energy.detach(), "forces": -gradients[0]}
    if model.options.stress:
        out["stress"] = gradients[1] / torch.linalg.det(batch.cell).abs().view(-1, 1, 1)
    return out


FORCES: dict[str, Callable[..., dict[str, Tensor]]] = {  # name -> (model, batch) to predictions
    "conservative": conservative_forces,
    "direct": direct_forces,
    "none": no_forces,
}
