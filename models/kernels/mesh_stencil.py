"""Spread values of atoms onto a periodic grid, and read values of a grid at the atoms.

With u_i the place of atom i in grid steps, w(u) the product of the windows of the three axes
(``mesh_window.py``), a = (a_x, a_y, a_z) the orders of a derivative, and sums over the p^3 grid
points x in reach of an atom,

    read    O_i[c] = sum_x w^(a)(u_i - x) M_x[c]
    spread  M_x[c] = sum_i w^(a)(u_i - x) S_i[c].

The two are adjoint, and a derivative in u raises a by one: derivatives of every order are reads and
spreads again, and nothing but the arguments is kept for them. A read is a bag of grid points for
each atom, a spread a bag of atoms for each grid point: no two threads write to one place, and the
same atoms give the same bits. A point outside of the grid is its periodic image, also where the
window is wider than the grid.

Cost: atoms x p^3 x channels multiply-adds for each; the weights (atoms, p^3) are made again for
each, and the two lists of indices take 12 p^3 bytes an atom.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from farfield.models.kernels.mesh_window import window_table
from farfield.models.kernels.needed_gradients import needed_inputs

MAX_WEIGHTS = 2**31 - 1  # indices are int32
Orders = tuple[int, int, int]  # of a derivative, for each axis
VALUE: Orders = (0, 0, 0)


class PointBags(NamedTuple):
    """The atoms in reach of each grid point.

    atoms: (atoms x p^3,) int32, ordered by grid points. weights: which of the weights of the
    stencil goes with each. starts: where the atoms of each point begin (points + 1,).
    """

    atoms: Tensor
    weights: Tensor
    starts: Tensor


class MeshStencil:
    """The p^3 grid points in reach of each atom.

    places: (atoms, 3), positions in grid steps, of any size; float64 keeps the digits of large
    ones. shape: the grid. order: p. Raises ValueError for more weights than int32 counts.
    """

    def __init__(self, places: Tensor, shape: tuple[int, int, int], order: int):
        self.shape, self.order = shape, order
        if places.shape[0] * order**3 > MAX_WEIGHTS:
            raise ValueError(
                f"{places.shape[0]} atoms are too many for a window of {order}^3 grid points, the "
                f"limit is {MAX_WEIGHTS // order**3}: use a larger tolerance or a smaller cell"
            )

        # The first grid point in reach, and what is left of the place: -1/2 <= offset < 1/2.
        lowest = places - order / 2
        first = lowest.detach().floor()
        self.offsets = lowest - first - 0.5
        self.points = self._points(first.long() + 1)

    def read(self, mesh: Tensor) -> Tensor:
        """Values of mesh (points, channels) at the atoms: (atoms, channels)."""
        return _Read.apply(self.offsets.to(mesh.dtype), mesh, self, VALUE)

    def spread(self, sources: Tensor) -> Tensor:
        """Sources (atoms, channels) on the grid: (points, channels)."""
        return _Spread.apply(self.offsets.to(sources.dtype), sources, self, VALUE)

    def _points(self, first: Tensor) -> Tensor:
        """Flat indices (atoms, p^3) int32 of the grid points from ``first`` (atoms, 3) on."""
        reach = torch.arange(self.order, device=first.device)
        x, y, z = ((first[:, a, None] + reach) % self.shape[a] for a in range(3))
        plane = (x[:, :, None] * self.shape[1] + y[:, None, :]).flatten(1) * self.shape[2]
        return (plane.int()[:, :, None] + z.int()[:, None, :]).flatten(1)

    @functools.cached_property
    def bags(self) -> PointBags:
        """The same pairs of atoms and grid points, ordered by grid points."""
        count = self.shape[0] * self.shape[1] * self.shape[2]
        by_counting = counted_bags if self.points.device.type == "cpu" else sorted_bags
        return by_counting(self.points, count)

    def weights(self, offsets: Tensor, orders: Orders) -> Tensor:
        """``w^(a)`` of all pairs: (atoms, p^3)."""
        like = offsets.dtype, offsets.device
        tables = [window_table(self.order, order, *like) for order in orders]
        powers = torch.linalg.vander(offsets, N=tables[0].shape[0])  # (atoms, 3, degree + 1)
        x, y, z = (powers[:, a] @ part for a, part in enumerate(tables))
        plane = (x[:, :, None] * y[:, None, :]).flatten(1)
        return (plane[:, :, None] * z[:, None, :]).flatten(1)


def counted_bags(points: Tensor, count: int) -> PointBags:
    """Order pairs by grid points by counting, one pass over them; for the CPU.

    points: (atoms, p^3) int32, smaller than ``count``.
    """
    atoms, reach = points.shape
    starts = np.arange(atoms + 1, dtype=np.int32) * np.int32(reach)
    which = np.arange(atoms * reach, dtype=np.int32)
    pairs = scipy.sparse.csr_array((which, points.numpy().reshape(-1), starts), (atoms, count))
    by_point = pairs.tocsc()
    return PointBags(*map(torch.from_numpy, (by_point.indices, by_point.data, by_point.indptr)))


def sorted_bags(points: Tensor, count: int) -> PointBags:
    """What :func:`counted_bags` gives, by sorting; for any device."""
    ordered, which = points.flatten().sort(stable=True)
    edges = torch.arange(count + 1, dtype=ordered.dtype, device=ordered.device)
    starts = torch.searchsorted(ordered, edges, out_int32=True)
    atoms = which.div(points.shape[1], rounding_mode="floor")
    return PointBags(atoms.int(), which.int(), starts)


class _Read(Function):
    """Read of a mesh (points, channels): (atoms, channels)."""

    @staticmethod
    def forward(ctx, offsets: Tensor, mesh: Tensor, stencil: MeshStencil, orders: Orders):
        ctx.save_for_backward(offsets, mesh)
        ctx.stencil, ctx.orders = stencil, orders
        weights = stencil.weights(offsets, orders)
        if not offsets.shape[0]:
            return mesh.new_zeros(0, mesh.shape[1])
        return F.embedding_bag(stencil.points, mesh, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        offsets, mesh = ctx.saved_tensors
        need_offsets, need_mesh, *_ = needed_inputs(ctx)
        by_offsets = by_mesh = None
        if need_offsets:
            by_offsets = _by_offsets(offsets, mesh, gradient, ctx.stencil, ctx.orders)
        if need_mesh:
            by_mesh = _Spread.apply(offsets, gradient, ctx.stencil, ctx.orders)
        return by_offsets, by_mesh, None, None


class _Spread(Function):
    """Spread of sources (atoms, channels): (points, channels)."""

    @staticmethod
    def forward(ctx, offsets: Tensor, sources: Tensor, stencil: MeshStencil, orders: Orders):
        ctx.save_for_backward(offsets, sources)
        ctx.stencil, ctx.orders = stencil, orders
        bags = stencil.bags
        if not offsets.shape[0]:
            return sources.new_zeros(bags.starts.numel() - 1, sources.shape[1])
        return F.embedding_bag(
            bags.atoms,
            sources,
            bags.starts,
            mode="sum",
            per_sample_weights=stencil.weights(offsets, orders).flatten()[bags.weights],
            include_last_offset=True,
        )

    @staticmethod
    def backward(ctx, gradient: Tensor):
        offsets, sources = ctx.saved_tensors
        need_offsets, need_sources, *_ = needed_inputs(ctx)
        by_offsets = by_sources = None
        if need_offsets:
            by_offsets = _by_offsets(offsets, gradient, sources, ctx.stencil, ctx.orders)
        if need_sources:
            by_sources = _Read.apply(offsets, gradient, ctx.stencil, ctx.orders)
        return by_offsets, by_sources, None, None


def _by_offsets(
    offsets: Tensor, mesh: Tensor, sources: Tensor, stencil: MeshStencil, orders: Orders
) -> Tensor:
    """Gradient of ``sum_i S_i[c] O_i[c]`` in the places of the atoms: (atoms, 3)."""
    gradients = []
    for axis in range(3):
        raised = tuple(order + (a == axis) for a, order in enumerate(orders))
        slope = _Read.apply(offsets, mesh, stencil, raised)
        gradients.append((slope * sources).sum(1))
    return torch.stack(gradients, 1)
