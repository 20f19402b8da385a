"""Spread values of atoms onto a periodic grid, and read values of a grid at the atoms.

With u_i the place of atom i in grid steps, W_ix = w(u_i - x) the product of the windows of the
three axes (``mesh_window.py``), and sums over the p^3 grid points x in reach of an atom,

    read    O_i[c] = sum_x W_ix M_x[c]
    spread  M_x[c] = sum_i W_ix S_i[c]
    dots    D_ix   = sum_c M_x[c] S_i[c].

The three leave one argument out of the form sum W_ix M_x[c] S_i[c]: each has the other two as its
derivatives, to every order, and nothing but the arguments is kept for them. A read is a bag of grid
points for each atom, a spread a bag of atoms for each grid point: no two threads write to one
place, and the same atoms give the same bits. A point outside of the grid is its periodic image,
also where the window is wider than the grid.

Cost: atoms x p^3 x channels multiply-adds for each of the three. The weights and the lists of
indices take 16 p^3 bytes an atom in float32, every dots 4 p^3 more.
"""

from __future__ import annotations

import functools
import warnings
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from farfield.models.kernels.mesh_window import window_table
from farfield.models.kernels.needed_gradients import needed_inputs
from farfield.models.kernels.node_chunks import VALUES_PER_TEMPORARY

MAX_PAIRS = 2**31 - 1  # indices are int32


class PointBags(NamedTuple):
    """The atoms in reach of each grid point.

    atoms: (pairs,) int32, ordered by grid points. pairs: which pair of the stencil each is (pairs,)
    int32. starts: where the atoms of each point begin (points + 1,) int32.
    """

    atoms: Tensor
    pairs: Tensor
    starts: Tensor


class MeshStencil:
    """The p^3 grid points in reach of each atom, and their weights.

    places: (atoms, 3), positions in grid steps, of any size; float64 keeps the digits of large
    ones. shape: the grid. order: p. dtype: of the weights. Raises ValueError for more pairs of
    atoms and points than int32 counts.
    """

    def __init__(self, places: Tensor, shape: tuple[int, int, int], order: int, dtype: torch.dtype):
        if places.shape[0] * order**3 > MAX_PAIRS:
            raise ValueError(
                f"{places.shape[0]} atoms are too many for a window of {order}^3 grid points, the "
                f"limit is {MAX_PAIRS // order**3}: use a larger tolerance or a smaller cell"
            )
        self.shape, self.order = shape, order

        # Atoms in the order of the grid: neighbours read the same points from the cache.
        self.sorting = self._numbers(places.detach().floor().long()).argsort()
        self.unsorting = self.sorting.argsort()
        lowest = places.index_select(0, self.sorting) - order / 2

        # The first grid point in reach, and what is left of the place: -1/2 <= offset < 1/2.
        first = lowest.detach().floor()
        offsets = (lowest - first - 0.5).to(dtype)
        self.points = self._points(first.long() + 1)
        self.weights = _outer(*_Window.apply(offsets, order, 0).unbind(1))  # (atoms, p^3)

    @property
    def atoms(self) -> int:
        """Number of atoms."""
        return self.points.shape[0]

    def read(self, mesh: Tensor) -> Tensor:
        """Values of mesh (points, channels) at the atoms: (atoms, channels)."""
        return _Read.apply(self.weights, mesh, self).index_select(0, self.unsorting)

    def spread(self, sources: Tensor) -> Tensor:
        """Sources (atoms, channels) on the grid: (points, channels)."""
        return _Spread.apply(self.weights, sources.index_select(0, self.sorting), self)

    def _numbers(self, points: Tensor) -> Tensor:
        """Flat indices (atoms,) of grid points (atoms, 3) or of their images."""
        x, y, z = (points[:, a] % size for a, size in enumerate(self.shape))
        return (x * self.shape[1] + y) * self.shape[2] + z

    def _points(self, first: Tensor) -> Tensor:
        """Flat indices (atoms, p^3) int32 of the grid points from ``first`` (atoms, 3) on."""
        reach = torch.arange(self.order, device=first.device)
        x, y, z = ((first[:, a, None] + reach) % self.shape[a] for a in range(3))
        plane = (x[:, :, None] * self.shape[1] + y[:, None, :]).flatten(1) * self.shape[2]
        return (plane.int()[:, :, None] + z.int()[:, None, :]).flatten(1)

    @functools.cached_property
    def bags(self) -> PointBags:
        """The same pairs, ordered by grid points."""
        count = self.shape[0] * self.shape[1] * self.shape[2]
        by_point = counted_bags if self.points.device.type == "cpu" else sorted_bags
        return by_point(self.points, count)

    def dots(self, mesh: Tensor, sources: Tensor) -> Tensor:
        """``sum_c M_x[c] S_i[c]`` of all pairs: (atoms, p^3)."""
        each = sampled_dots if self.points.device.type == "cpu" else gathered_dots
        return each(self.points, mesh, sources)


def counted_bags(points: Tensor, count: int) -> PointBags:
    """Order pairs by grid points by counting, one pass over them; for the CPU.

    points: (atoms, p^3) int32, smaller than ``count``.
    """
    import scipy.sparse  # a quarter of a second that --help does not wait for

    atoms, reach = points.shape
    starts = np.arange(atoms + 1, dtype=np.int32) * np.int32(reach)
    pairs = np.arange(atoms * reach, dtype=np.int32)
    matrix = scipy.sparse.csr_array((pairs, points.numpy().reshape(-1), starts), (atoms, count))
    by_point = matrix.tocsc()
    return PointBags(*map(torch.from_numpy, (by_point.indices, by_point.data, by_point.indptr)))


def sorted_bags(points: Tensor, count: int) -> PointBags:
    """What :func:`counted_bags` gives, by sorting; for any device."""
    ordered, pairs = points.flatten().sort(stable=True)
    edges = torch.arange(count + 1, dtype=ordered.dtype, device=ordered.device)
    starts = torch.searchsorted(ordered, edges, out_int32=True)
    atoms = pairs.div(points.shape[1], rounding_mode="floor")
    return PointBags(atoms.int(), pairs.int(), starts)


def sampled_dots(points: Tensor, mesh: Tensor, sources: Tensor) -> Tensor:
    """The entries ``points`` (atoms, p^3) of the product of sources and mesh; for the CPU."""
    atoms, reach = points.shape
    starts = torch.arange(0, atoms * reach + 1, reach, dtype=torch.int32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        pattern = torch.sparse_csr_tensor(
            starts,
            points.flatten(),
            sources.new_zeros(atoms * reach),
            (atoms, mesh.shape[0]),
            check_invariants=False,
        )
    return torch.sparse.sampled_addmm(pattern, sources, mesh.t(), beta=0.0).values().view(atoms, -1)


def gathered_dots(points: Tensor, mesh: Tensor, sources: Tensor) -> Tensor:
    """What :func:`sampled_dots` gives, by gathering some atoms at a time; for any device."""
    atoms, reach = points.shape
    most = max(1, VALUES_PER_TEMPORARY // max(1, reach * mesh.shape[1]))
    dots = sources.new_empty(atoms, reach)
    for low in range(0, atoms, most):
        part = slice(low, low + most)
        torch.matmul(mesh[points[part]], sources[part, :, None], out=dots[part, :, None])
    return dots


class _Window(Function):
    """A derivative of the window at the p points of each axis, of offsets (atoms, 3)."""

    @staticmethod
    def forward(ctx, offsets: Tensor, order: int, derivative: int):
        ctx.save_for_backward(offsets)
        ctx.order, ctx.derivative = order, derivative
        pieces = window_table(order, derivative, offsets.dtype, offsets.device)
        return torch.linalg.vander(offsets, N=pieces.shape[0]) @ pieces

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (offsets,) = ctx.saved_tensors
        slope = _Window.apply(offsets, ctx.order, ctx.derivative + 1)
        return (gradient * slope).sum(2), None, None


def _outer(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Products of the windows of three axes (atoms, p): (atoms, p^3)."""
    plane = (x[:, :, None] * y[:, None, :]).flatten(1)
    return (plane[:, :, None] * z[:, None, :]).flatten(1)


class _Read(Function):
    """``sum_x W_ix M_x[c]`` of weights (atoms, p^3), mesh (points, channels)."""

    @staticmethod
    def forward(ctx, weights: Tensor, mesh: Tensor, stencil: MeshStencil):
        """Values at the atoms (atoms, channels)."""
        ctx.save_for_backward(weights, mesh)
        ctx.stencil = stencil
        if not stencil.atoms:
            return mesh.new_zeros(0, mesh.shape[1])
        return F.embedding_bag(stencil.points, mesh, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (weights, mesh), stencil = ctx.saved_tensors, ctx.stencil
        need_weights, need_mesh, _ = needed_inputs(ctx)
        by_weights = _Dots.apply(mesh, gradient, stencil) if need_weights else None
        by_mesh = _Spread.apply(weights, gradient, stencil) if need_mesh else None
        return by_weights, by_mesh, None


class _Spread(Function):
    """``sum_i W_ix S_i[c]`` of weights (atoms, p^3), sources (atoms, channels)."""

    @staticmethod
    def forward(ctx, weights: Tensor, sources: Tensor, stencil: MeshStencil):
        """The mesh (points, channels)."""
        ctx.save_for_backward(weights, sources)
        ctx.stencil, bags = stencil, stencil.bags
        if not stencil.atoms:
            return sources.new_zeros(bags.starts.numel() - 1, sources.shape[1])
        return F.embedding_bag(
            bags.atoms,
            sources,
            bags.starts,
            mode="sum",
            per_sample_weights=weights.flatten().index_select(0, bags.pairs),
            include_last_offset=True,
        )

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (weights, sources), stencil = ctx.saved_tensors, ctx.stencil
        need_weights, need_sources, _ = needed_inputs(ctx)
        by_weights = _Dots.apply(gradient, sources, stencil) if need_weights else None
        by_sources = _Read.apply(weights, gradient, stencil) if need_sources else None
        return by_weights, by_sources, None


class _Dots(Function):
    """``sum_c M_x[c] S_i[c]`` of mesh (points, channels), sources (atoms, channels)."""

    @staticmethod
    def forward(ctx, mesh: Tensor, sources: Tensor, stencil: MeshStencil):
        ctx.save_for_backward(mesh, sources)
        ctx.stencil = stencil
        return stencil.dots(mesh, sources)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (mesh, sources), stencil = ctx.saved_tensors, ctx.stencil
        need_mesh, need_sources, _ = needed_inputs(ctx)
        by_mesh = _Spread.apply(gradient, sources, stencil) if need_mesh else None
        by_sources = _Read.apply(gradient, mesh, stencil) if need_sources else None
        return by_mesh, by_sources, None
