"""Energy of all pairs of atoms of each graph through a smeared Coulomb kernel, in linear memory.

    E   = 1/2 sum_(i != j) (q_i . q_j) phi(r_ij^2),      phi(r^2) = a F_0(b r^2)     (``boys.py``)
    V_i = dE / dq_i = sum_(j != i) phi q_j
    G_i = dE / dr_i = sum_(j != i) 2 (q_i . q_j) phi' r,               r = r_i - r_j

and, for cotangents u of G and v of V, with u_ij = u_i - u_j and
c = 2 (q_i . q_j) phi'' (u_ij . r) + phi' (v_i . q_j + q_i . v_j),

    d(u . G + v . V) / dr_i = sum_(j != i) 2 c r + 2 (q_i . q_j) phi' u_ij
    d(u . G + v . V) / dq_i = sum_(j != i) 2 phi' (u_ij . r) q_j + phi v_j.

Energy, forces and the gradients of a loss on forces are evaluated block by block: some atoms
against all atoms of their graph, or several graphs of one size at once. Nothing of size
(atoms, atoms) is made or kept. Only where all pairs of a batch are no more than those of one block,
phi and its derivatives are kept from one pass to the next. Derivatives of higher order are taken by
torch through the plain formula, in quadratic memory.

Cost: quadratic in the atoms of a graph; 30 ns a pair for energy and forces of float32 on one core,
50 ns for the second derivatives. 10,000 atoms: 2.5 s, and 60 MB.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from farfield.models.graph_ops import GraphIndex, broadcast_nodes, sum_nodes
from farfield.models.kernels.boys import boys, boys_values
from farfield.models.kernels.node_chunks import Sizes, graph_runs

PAIRS_PER_BLOCK = 2**17


class SmearedKernel(NamedTuple):
    """``phi(r^2) = a F_0(b r^2)``. amplitude: a. rate: b."""

    amplitude: float
    rate: float

    def __call__(self, squared: Tensor) -> Tensor:
        """phi of r^2 (...): (...), differentiable to any order."""
        return self.amplitude * boys(self.rate * squared)

    def derivatives(self, squared: Tensor, highest: int) -> list[Tensor]:
        """phi and its derivatives by r^2 up to order ``highest``, each (...), without gradients."""
        values = boys_values(self.rate * squared, highest)
        return [value.mul_(self.amplitude * (-self.rate) ** m) for m, value in enumerate(values)]


def pair_energy(
    graph: GraphIndex, kernel: SmearedKernel, positions: Tensor, charges: Tensor
) -> Tensor:
    """E of every graph (graphs,) float64; positions (nodes, 3), charges (nodes, channels)."""
    slopes = _Slopes.apply(graph, kernel, positions, charges)
    return _Energy.apply(graph, positions, charges, *slopes)


class _Block(NamedTuple):
    """Some atoms of a graph, or all atoms of graphs of one size, against all of their graphs.

    rows, columns: ranges of nodes. graphs, size: how many graphs, and their atoms.
    """

    rows: slice
    columns: slice
    graphs: int
    size: int

    def of_rows(self, nodes: Tensor) -> Tensor:
        """(nodes, k) -> (graphs, rows, k)."""
        return nodes[self.rows].unflatten(0, (self.graphs, -1))

    def of_columns(self, nodes: Tensor) -> Tensor:
        """(nodes, k) -> (graphs, size, k)."""
        return nodes[self.columns].unflatten(0, (self.graphs, self.size))

    def differences(self, vectors: Tensor) -> Tensor:
        """``x_i - x_j`` of vectors (nodes, 3): (3, graphs, rows, size)."""
        rows, columns = self.of_rows(vectors), self.of_columns(vectors)
        return rows.movedim(2, 0).unsqueeze(3) - columns.movedim(2, 0).unsqueeze(2)

    def products(self, one: Tensor, other: Tensor) -> Tensor:
        """``one_i . other_j``, both (nodes, k): (graphs, rows, size)."""
        return self.of_rows(one) @ self.of_columns(other).transpose(1, 2)

    def pairs(self, kernel: SmearedKernel, positions: Tensor, highest: int) -> list[Tensor]:
        """r (3, graphs, rows, size), then phi and its derivatives, each (graphs, rows, size).

        phi is 0 where j = i. highest: order of the last derivative.
        """
        away = self.differences(positions)
        phi, *higher = kernel.derivatives(away.square().sum(0), highest)
        phi.diagonal(self.rows.start - self.columns.start, 1, 2).zero_()
        return [away, phi, *higher]

    def put(self, target: Tensor, values: Tensor) -> None:
        """Write (graphs, rows, k) into the rows of ``target`` (nodes, k)."""
        target[self.rows] = values.flatten(0, 1)


def _blocks(sizes: Sizes) -> Iterator[_Block]:
    """All atoms of a batch in blocks of at most ``PAIRS_PER_BLOCK`` pairs, or of one atom."""
    start = 0
    for run in graph_runs(sizes, sum(sizes)):
        size = sizes[run.graphs.start]
        together = max(1, PAIRS_PER_BLOCK // size**2)
        for first in range(0, run.count, together):
            # some graphs of one size, or one graph, which is cut into rows if it is large
            graphs = min(together, run.count - first)
            columns = slice(start + first * size, start + (first + graphs) * size)
            step = graphs * size if graphs > 1 else max(1, PAIRS_PER_BLOCK // size)
            for low in range(columns.start, columns.stop, step):
                rows = slice(low, min(low + step, columns.stop))
                yield _Block(rows, columns, graphs, size)
        start += run.count * size


def _summed(weights: Tensor, vectors: Tensor) -> Tensor:
    """``sum_j w_ij x_ij``, w (graphs, rows, size), x (3, graphs, rows, size): (graphs, rows, 3)."""
    return (weights * vectors).sum(-1).movedim(0, 2)


class _Energy(Function):
    """E, given its first derivatives; they carry the second ones."""

    @staticmethod
    def forward(ctx, graph, positions: Tensor, charges: Tensor, slope: Tensor, potential: Tensor):
        """(graphs,) float64, like all sums over the atoms of a graph."""
        ctx.graph = graph
        ctx.save_for_backward(slope, potential)
        return 0.5 * sum_nodes(graph, (charges * potential).sum(-1).double())

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        slope, potential = ctx.saved_tensors
        each = broadcast_nodes(ctx.graph, cotangent.to(slope.dtype).unsqueeze(1))
        return None, each * slope, each * potential, None, None


class _Slopes(Function):
    """G (nodes, 3) and V (nodes, channels)."""

    @staticmethod
    def forward(ctx, graph, kernel, positions: Tensor, charges: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes by positions and potentials at the charges."""
        ctx.graph, ctx.kernel = graph, kernel
        ctx.set_materialize_grads(False)  # the first derivatives of the energy ask for nothing
        few = sum(size**2 for size in graph.sizes) <= PAIRS_PER_BLOCK
        keep, kept = few and positions.requires_grad, []

        slope, potential = torch.empty_like(positions), torch.empty_like(charges)
        for block in _blocks(graph.sizes):
            pairs = block.pairs(kernel, positions, 2 if keep else 1)
            kept += pairs if keep else ()
            away, phi, first = pairs[:3]
            block.put(potential, phi @ block.of_columns(charges))
            weights = block.products(charges, charges).mul_(first).mul_(2)
            block.put(slope, _summed(weights, away))
        ctx.save_for_backward(positions, charges, *kept)
        return slope, potential

    @staticmethod
    def backward(ctx, by_slope: Tensor, by_potential: Tensor) -> tuple:
        """The second derivatives of the energy, contracted with both cotangents."""
        if by_slope is None and by_potential is None:
            return None, None, None, None
        positions, charges, *kept = ctx.saved_tensors
        u = torch.zeros_like(positions) if by_slope is None else by_slope
        v = torch.zeros_like(charges) if by_potential is None else by_potential
        if torch.is_grad_enabled():
            found = _curvature_composed(ctx.graph, ctx.kernel, positions, charges, u, v)
        else:
            found = _curvature(ctx.graph, ctx.kernel, positions, charges, u, v, kept)
        return None, None, *found


def _curvature(
    graph,
    kernel: SmearedKernel,
    positions: Tensor,
    charges: Tensor,
    u: Tensor,
    v: Tensor,
    kept: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """Derivatives of u . G + v . V by positions and charges.

    kept: r, phi, phi' and phi'' of all blocks in turn, or nothing.
    """
    by_positions, by_charges = torch.empty_like(positions), torch.empty_like(charges)
    for number, block in enumerate(_blocks(graph.sizes)):
        pairs = kept[4 * number : 4 * number + 4] or block.pairs(kernel, positions, 2)
        away, phi, first, second = pairs
        change = block.differences(u)
        along = (change * away).sum(0)  # u_ij . r

        own = block.products(charges, charges).mul_(2)
        crossed = block.products(v, charges).add_(block.products(charges, v))
        factor = (own * second).mul_(along).addcmul_(first, crossed).mul_(2)  # 2 c
        own.mul_(first)
        block.put(by_positions, _summed(factor, away) + _summed(own, change))

        along.mul_(first).mul_(2)
        by_charge = along @ block.of_columns(charges) + phi @ block.of_columns(v)
        block.put(by_charges, by_charge)
    return by_positions, by_charges


def _curvature_composed(
    graph, kernel: SmearedKernel, positions: Tensor, charges: Tensor, u: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """The same by torch, for derivatives of any order."""
    # views: charges may follow from positions, and slopes by one leave the other as it is
    inputs = [
        one.view_as(one) if one.requires_grad else one.clone().requires_grad_(True)
        for one in (positions, charges)
    ]
    energy = sum(_plain_energy(block, kernel, *inputs) for block in _blocks(graph.sizes))
    slope, potential = torch.autograd.grad(energy, inputs, create_graph=True)
    mixed = (u * slope).sum() + (v * potential).sum()
    return torch.autograd.grad(mixed, inputs, create_graph=True)


def _plain_energy(
    block: _Block, kernel: SmearedKernel, positions: Tensor, charges: Tensor
) -> Tensor:
    """Energy () of the pairs of a block."""
    phi = kernel(block.differences(positions).square().sum(0))
    both = 0.5 * phi * block.products(charges, charges)
    return both.sum() - both.diagonal(block.rows.start - block.columns.start, 1, 2).sum()
