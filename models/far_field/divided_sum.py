"""The far field's sum over all atoms of one large structure, in pieces, with its derivatives.

Formula of the sum: ``expansion.py``. On a grid (``expansions/mesh.py``) it falls into steps,

    spread    M = sum over pieces of the fields that their atoms put on the grid
    convolve  M -> R, head by head
    read      what the atoms of a piece find in R, contracted with their queries,

and its derivatives into the same steps backwards, with the grids of the gradients in place of M and
R. A piece is computed alone, forwards and, when the derivatives ask for it, again: memory holds the
grids and one piece. Several processes take different pieces; ``share`` adds their grids up.

A structure that the network sums by pairs or wave vectors has few atoms, and is not divided
(:class:`WholeSum`).

Cost: twice the sum for its value and derivatives, less memory by the number of pieces. With
P points and F fields: 3 P F values of grids, and 3 P F values summed over the processes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from farfield.models.far_field.attention import FarFieldAttention
from farfield.models.far_field.expansions.auto import ShapeAuto
from farfield.models.far_field.expansions.mesh import MeshExpansion
from farfield.models.graph_ops import GraphIndex
from farfield.models.kernels.mesh_parts import MeshPart

MOST_WHOLE_ATOMS = 2000  # that are summed in one go where there is no grid


class Sent(NamedTuple):
    """What the sum reads of all atoms, or a gradient of it.

    queries, keys: (atoms, heads, features). values: (atoms, heads, V).
    """

    queries: Tensor
    keys: Tensor
    values: Tensor

    def zeros(self) -> Sent:
        """Zeros of the same shapes."""
        return Sent(*(torch.zeros_like(one) for one in self))


class Space(NamedTuple):
    """Where the atoms are, or a gradient by it. positions (atoms, 3); cell (3, 3) or None: open."""

    positions: Tensor
    cell: Tensor | None


class Work(NamedTuple):
    """How the sum is divided.

    pieces: rows of the atoms of each piece of this process. share: adds a tensor up over all
    processes, in place. first: whether this process computes what is not divided. done: called
    after every piece of every step.
    """

    pieces: Sequence[slice]
    share: Callable[[Tensor], object]
    first: bool
    done: Callable[[], object]


class GridSum:
    """The sum on a grid. coefficients: (lmax + 1, heads, terms) of the kernel."""

    steps = 5  # passes over the pieces, value and derivatives

    def __init__(self, expansion: MeshExpansion, coefficients: Tensor, space: Space, work: Work):
        self.expansion, self.coefficients, self.work = expansion, coefficients, work
        self.space = space
        self.mesh = None

    def value(self, sent: Sent) -> Tensor:
        """``Expansion.forward`` of the atoms of this process, zeros elsewhere."""
        field = self._convolved(self._spread(sent))
        heads, width = sent.values.shape[1:]
        heard = sent.values.new_zeros(len(sent.values), heads, field.shape[1], width)
        for own in self.work.pieces:
            part = MeshPart(self.mesh, self.box[own])
            heard[own] = self._heard(part, part.take(field), sent.queries[own])
            self.work.done()
        return heard

    @torch.enable_grad()
    def pull(self, sent: Sent, cotangent: Tensor, into: Space) -> Sent:
        """Gradients by ``sent`` of this process's atoms; those by the space are added ``into``.

        cotangent: gradient by :meth:`value`.
        """
        spread = self._spread(sent)
        field = self._convolved(spread)
        by_field, by_sent = torch.zeros_like(field), sent.zeros()
        for own in self.work.pieces:
            part, leaves = self._leaves(own, into)
            grid, queries = _leaf(part.take(field)), _leaf(sent.queries[own])
            heard = self._heard(part, grid, queries)
            found = gradients(heard, [grid, queries, *leaves], cotangent[own])
            part.add_(by_field, found[0])
            by_sent.queries[own] = found[1]
            _add(into, own, found[2:])
            self.work.done()
        del field
        self.work.share(by_field)

        by_spread = self._pull_convolved(spread, by_field, into)
        del spread, by_field
        for own in self.work.pieces:
            part, leaves = self._leaves(own, into)
            keys, values = _leaf(sent.keys[own]), _leaf(sent.values[own])
            put = part.stencil.spread(self.expansion.fields(keys, values))
            found = gradients(put, [keys, values, *leaves], part.take(by_spread))
            by_sent.keys[own], by_sent.values[own] = found[:2]
            _add(into, own, found[2:])
            self.work.done()
        return by_sent

    def _spread(self, sent: Sent) -> Tensor:
        """M (points, fields), of all processes."""
        fields = sent.keys[:1].shape[1] * sent.keys.shape[2] * sent.values.shape[2]
        if self.mesh is None:
            cell, self.box = self.expansion.box(*self.space, fields)
            self.mesh = self.expansion.grid(cell)

        # what every piece puts into its box of the grid
        points = self.mesh.shape[0] * self.mesh.shape[1] * self.mesh.shape[2]
        total = sent.values.new_zeros(points, fields)
        for own in self.work.pieces:
            part = MeshPart(self.mesh, self.box[own])
            put = self.expansion.fields(sent.keys[own], sent.values[own])
            part.add_(total, part.stencil.spread(put))
            self.work.done()
        self.work.share(total)
        return total

    def _of_heads(self, fields: int) -> list[tuple[slice, Callable[[Tensor], Tensor]]]:
        """The fields of every head, and the transform of its kernel."""
        heads = self.coefficients.shape[1]
        width = fields // heads
        found = []
        for head in range(heads):
            own = self.coefficients[:, head : head + 1]
            transform = functools.partial(self.expansion.multiplier, own, width)
            found.append((slice(head * width, (head + 1) * width), transform))
        return found

    def _convolved(self, spread: Tensor) -> Tensor:
        """R (points, rows, fields) of M (points, fields)."""
        rows = (self.expansion.lmax + 1) ** 2
        field = spread.new_empty(spread.shape[0], rows, spread.shape[1])
        for own, transform in self._of_heads(spread.shape[1]):
            field[:, :, own] = self.mesh.convolve(spread[:, own].contiguous(), transform)
        return field

    def _pull_convolved(self, spread: Tensor, by_field: Tensor, into: Space) -> Tensor:
        """Gradient by M (points, fields); one process alone counts the cell's."""
        by_spread = torch.empty_like(spread)
        asks_cell = into.cell is not None

        # a head at a time: temporaries are as large as its part of the grid
        for own, transform in self._of_heads(spread.shape[1]):
            leaves = [_leaf(spread[:, own].contiguous())]
            mesh = self.mesh
            if asks_cell:
                leaves.append(_leaf(self.mesh.cell))
                mesh = self.mesh.in_cell(leaves[1])
            field = mesh.convolve(leaves[0], transform)

            found = gradients(field, leaves, by_field[:, :, own])
            by_spread[:, own] = found[0]
            if asks_cell and self.work.first:
                into.cell.add_(found[1])
        return by_spread

    def _leaves(self, own: slice, into: Space) -> tuple[MeshPart, list[Tensor]]:
        """The box of a piece, and the positions and the cell that it depends on."""
        leaves, mesh = [_leaf(self.box[own])], self.mesh
        if into.cell is not None:
            leaves.append(_leaf(self.mesh.cell))
            mesh = self.mesh.in_cell(leaves[1])
        return MeshPart(mesh, leaves[0]), leaves

    def _heard(self, part: MeshPart, grid: Tensor, queries: Tensor) -> Tensor:
        """What atoms with queries find in the box ``grid`` (box, rows, fields)."""
        read = part.stencil.read(grid.flatten(1)).unflatten(1, grid.shape[1:])
        return self.expansion.contracted(read, queries)


class WholeSum:
    """The sum of an expansion without a grid, in one go; every process computes all of its value,
    and one its derivatives.
    """

    steps = 0

    def __init__(self, expansion, coefficients: Tensor, space: Space, work: Work):
        self.expansion, self.coefficients = expansion, coefficients
        self.space, self.work = space, work

    def value(self, sent: Sent) -> Tensor:
        """``Expansion.forward``."""
        for one in sent:
            self.work.share(one)
        return self._sum(*self.space, sent)

    @torch.enable_grad()
    def pull(self, sent: Sent, cotangent: Tensor, into: Space) -> Sent:
        """See :meth:`GridSum.pull`; gradients by ``sent`` are those of all atoms."""
        self.work.share(cotangent)
        by_sent = sent.zeros()
        if self.work.first:
            leaves = [_leaf(one) for one in (*sent, self.space.positions)]
            cell = self.space.cell
            if into.cell is not None:
                cell = _leaf(cell)
                leaves.append(cell)

            heard = self._sum(leaves[3], cell, Sent(*leaves[:3]))
            found = gradients(heard, leaves, cotangent)
            by_sent = Sent(*found[:3])
            _add(into, slice(None), found[3:])

        # the other processes know it from the first
        for one in by_sent:
            self.work.share(one)
        return by_sent

    def _sum(self, positions: Tensor, cell: Tensor | None, sent: Sent) -> Tensor:
        cells = None if cell is None else cell.unsqueeze(0)
        return self.expansion(one_graph(len(positions)), positions, *sent, self.coefficients, cells)


def divided_sum(
    layer: FarFieldAttention, weight: Tensor | None, space: Space, work: Work
) -> GridSum | WholeSum:
    """The sum of a far-field attention whose messages have the factor ``weight``.

    ValueError in one line for a sum that cannot be divided.
    """
    if layer.options.normalisation != "none":
        raise ValueError(
            f"far_normalisation {layer.options.normalisation!r} divides by a sum over all atoms, "
            "which is not computed in pieces; give a checkpoint trained with far_normalisation none"
        )
    coefficients = layer.radial() if weight is None else layer.radial() * weight
    coefficients = (coefficients / layer.constant).detach()

    # a choice among several sums is made as for the whole structure
    expansion, atoms = layer.expansion, len(space.positions)
    cells = None if space.cell is None else space.cell.unsqueeze(0)
    if isinstance(expansion, ShapeAuto):
        (expansion,) = expansion.chosen(one_graph(atoms), space.positions, cells)
    if isinstance(expansion, MeshExpansion):
        expansion.check_boundaries(one_graph(atoms), cells)
        return GridSum(expansion, coefficients, space, work)
    if atoms > MOST_WHOLE_ATOMS:
        options = layer.options
        raise ValueError(
            f"the far field of this checkpoint (kernel {options.kernel}, expansion "
            f"{options.expansion}) has no grid for this structure and takes at most "
            f"{MOST_WHOLE_ATOMS} atoms at once, got {atoms}; give a checkpoint trained with "
            "--far-kernel screened --far-expansion auto"
        )
    return WholeSum(expansion, coefficients, space, work)


def one_graph(atoms: int) -> GraphIndex:
    """A graph without edges."""
    none = torch.zeros(0, dtype=torch.int64)
    return GraphIndex(none, none, torch.tensor([atoms]))


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_(True)


def gradients(value: Tensor, leaves: Sequence[Tensor], cotangent: Tensor | None) -> list[Tensor]:
    """Gradients of ``value`` by each leaf, zeros where it does not depend on it.

    cotangent: of the shape of ``value``, None for a number.
    """
    return list(torch.autograd.grad(value, leaves, cotangent, materialize_grads=True))


def _add(into: Space, own: slice, found: Sequence[Tensor]) -> None:
    """Add gradients by positions (own rows) and, where it is asked for, by the cell."""
    into.positions[own] += found[0].double()
    if into.cell is not None:
        into.cell.add_(found[1])
