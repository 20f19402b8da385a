"""The energy of given charges through a fixed kernel: point charges smeared by Gaussians.

    E = 1/2 sum_c sum_(i != j) q_ic q_jc k_e erf(r_ij / (sqrt 2 sigma)) / r_ij

with k_e = 14.399645 eV Angstrom and c the channels of the charges. The kernel is that of points
beyond about 3 sigma and smooth everywhere, also at r = 0. Open structures are summed over all pairs
(``kernels/pair_energy.py``), periodic ones over all images (``ewald.py``, with what a charged cell
means). Both are in one batch if ``periodic`` says so; every structure counts as if it were alone.

The part inside the cutoff of the near field can be taken off again: with u the envelope,

    E -> E - 1/2 sum_(edges j -> i) q_i . q_j u(r / cutoff) k_e erf(r / (sqrt 2 sigma)) / r.

What remains acts where the near field does not see. Sources: Ewald's sum; Cheng 2025, Latent Ewald
summation, for the smearing.

Cost: pairs, quadratic in the atoms of an open structure, in linear memory; see ``ewald.py`` for
periodic ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from farfield.models.far_field.ewald import COULOMB, Crystals, coulomb_at_zero, ewald_energy
from farfield.models.graph_ops import GraphIndex, sum_nodes, weighted_sum
from farfield.models.kernels.pair_energy import SmearedKernel, pair_energy

__all__ = ["COULOMB", "coulomb_at_zero", "coulomb_energy", "near_coulomb_energy", "smeared_kernel"]


def smeared_kernel(smearing: float) -> SmearedKernel:
    """``k_e erf(r / (sqrt 2 sigma)) / r`` as a function of r^2; sigma in Angstrom."""
    return SmearedKernel(coulomb_at_zero(smearing), 1 / (2 * smearing**2))


def coulomb_energy(
    graph: GraphIndex,
    positions: Tensor,
    charges: Tensor,
    smearing: float,
    cell: Tensor | None = None,
    periodic: Tensor | None = None,
) -> Tensor:
    """Energy of the charges of every structure (graphs,) float64, eV.

    positions (nodes, 3) and smearing in Angstrom, charges (nodes, channels) in e. cell
    (graphs, 3, 3), rows are lattice vectors. periodic (graphs, 3) bool; None: all directions
    wherever there is a cell. Differentiable to any order in positions, charges and cell. Raises
    ValueError in one line for slabs and wires and for periodic structures without a cell.

    Example: two unit charges 10 Angstrom apart attract each other with -1.44 eV.

        coulomb_energy(graph, positions, torch.tensor([[1.0], [-1.0]]), smearing=1.0)
    """
    repeats = repeating(graph.num_graphs, cell, periodic)
    if not any(repeats):
        return pair_energy(graph, smeared_kernel(smearing), positions, charges)

    # periodic structures of one size together, all open ones together
    energy = charges.new_zeros(graph.num_graphs, dtype=torch.float64)
    for graphs, nodes in groups_of_one_size(graph, repeats):
        crystals = Crystals.of(positions[nodes], cell[graphs], smearing)
        energy = energy.index_copy(0, graphs, ewald_energy(crystals, charges[nodes]))
    if all(repeats):
        return energy
    graphs = torch.tensor([at for at, crystal in enumerate(repeats) if not crystal])
    graphs = graphs.to(positions.device)
    nodes = torch.isin(graph.graph_of_node, graphs).nonzero().squeeze(1)
    none = graph.src.new_empty(0)
    part = GraphIndex(none, none, graph.nodes_per_graph[graphs])
    found = pair_energy(part, smeared_kernel(smearing), positions[nodes], charges[nodes])
    return energy.index_copy(0, graphs, found)


def near_coulomb_energy(
    graph: GraphIndex, length: Tensor, envelope: Tensor, charges: Tensor, smearing: float
) -> Tensor:
    """The part of the energy that the edges carry, ``1/2 sum q_i . q_j u k`` (graphs,) float64, eV.

    length, envelope (edges,): Angstrom, and 1 at length zero to 0 at the cutoff.
    """
    kernel = envelope * smeared_kernel(smearing)(length.square())
    potential = weighted_sum(graph, charges, kernel.unsqueeze(1))
    return 0.5 * sum_nodes(graph, (charges * potential).sum(1).double())


def repeating(
    graphs: int, cell: Tensor | None, periodic: Tensor | None, who: str = "charges"
) -> list[bool]:
    """Which structures repeat in all three directions; the others repeat in none.

    who: serves only these, for the message. Other arguments and errors: see
    :func:`coulomb_energy`.
    """
    if periodic is None:
        return [cell is not None] * graphs
    directions = periodic.sum(1).tolist()
    for index, count in enumerate(directions):
        if count not in (0, 3):
            raise ValueError(
                f"{who} serve structures that are periodic in all three directions or in none, "
                f"got {periodic[index].tolist()} for structure {index} (a slab or wire): make it "
                "periodic in all three with vacuum in its cell"
            )
    if cell is None and any(directions):
        raise ValueError(
            f"{sum(count == 3 for count in directions)} periodic structures need their cells "
            f"({graphs}, 3, 3), got none"
        )
    return [count == 3 for count in directions]


def groups_of_one_size(graph: GraphIndex, chosen: list[bool]) -> Iterator[tuple[Tensor, Tensor]]:
    """Graphs of one size, and their nodes: (B,) and (B, size), for each size of the chosen graphs.

    Graphs without nodes are left out.
    """
    by_size: dict[int, list[int]] = {}
    for index, size in enumerate(graph.sizes):
        if chosen[index] and size:
            by_size.setdefault(size, []).append(index)

    for size, indices in by_size.items():
        graphs = torch.tensor(indices, device=graph.src.device)
        first = graph.node_offsets[graphs]
        yield graphs, first.unsqueeze(1) + torch.arange(size, device=first.device)
