"""Sums over all atoms and images of a periodic cell by a smooth kernel, on a grid: N log N.

    out_i[r, c] = sum_j sum_n K_rc(r_i - r_j + n H) s_j[c]
                = (1 / V) sum_k G_rc(k) D(k)^2 exp(i k.r_i) F_c(k),      F_c(k) ~ S_c(k) / D(k),
                                                                S_c(k) = sum_j s_j[c] exp(-i k.r_j),

rows of H are the lattice vectors, V = |det H|, k in 2 pi Z^3 H^-T. K is given by its Fourier
transform G(k) = int K(r) exp(-i k.r) dr, which has to vanish for |k| >= kappa_max: then a coarse
grid is exact up to the error of the window that carries sources to the grid and sums back
(``mesh_window.py``, ``mesh_stencil.py``). F is the discrete Fourier transform of the sources on
the grid, 1 / D = phi^(k_x) phi^(k_y) phi^(k_z) the transform of the window, divided out twice.
G(-k) = conj G(k), so one of each pair +-k is enough and out is the real part: kernels of any
degree, (-i)^l Y_lm(k^) g_l(k), sum to real values. The k = 0 term is whatever G gives there.

The choice of the grid and of the vectors k reads the cell without its derivatives; all values are
differentiable to any order in positions, sources, cell and the parameters of G. Stress: positions
and cell strained together. Cells of clusters without period: :func:`padded_box`.

Sources: Essmann et al., J. Chem. Phys. 103, 8577 (1995); Barnett, Magland & af Klinteberg, SIAM J.
Sci. Comput. 41, C479 (2019), for the window. Not torch-pme 0.5: its windows end at five points of
a B-spline, which the law of ``mesh_window.py`` puts at an error of 4e-4 where six points of ours
have 9e-6, and it spreads channels one by one.

Cost: atoms x p^3 x channels x (1 + R) for windows of p grid points (6 by default), and N log N for
N = 8 V (kappa_max / pi)^3 grid points, each channel and R. The first axis is transformed by a
matrix with the waves of the band alone, which is faster than a fast transform for the grids of
10,000 atoms. ``benchmarks/speed/bench_far_scaling.py`` times it in a network.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from farfield.models.kernels.mesh_stencil import MeshStencil
from farfield.models.kernels.mesh_window import OVERSAMPLING, order_for, window_transform
from farfield.models.so3.irreps import table

MIN_GRID_POINTS = 4  # along an axis
SMALLEST_CELL = 1e-6  # volume, as a fraction of the product of the three lengths
Multiplier = Callable[[Tensor], Tensor]  # k (K, 3) -> G (R, channels or 1, K)


def mesh_sum(
    positions: Tensor,
    cell: Tensor,
    sources: Tensor,
    multiplier: Multiplier,
    kappa_max: float,
    tolerance: float = 1e-5,
) -> Tensor:
    """``sum_j sum_n K_rc(r_i - r_j + n H) s_j[c]`` of one periodic cell: (atoms, R, channels).

    positions: (atoms, 3), anywhere in space. cell: (3, 3), rows are lattice vectors. sources:
    (atoms, channels). multiplier: the Fourier transform of the kernels at wave vectors (K, 3), real
    or complex (R, channels or 1, K), with G(-k) = conj G(k); zero from ``kappa_max`` (1 / unit of
    positions) on, and at k = 0 where there is no mean. tolerance: relative error. Raises ValueError
    for shapes that do not fit, flat cells and limits out of range.

    >>> gaussian = lambda k: torch.exp(-k.square().sum(-1) / 2)[None, None]
    >>> mesh_sum(positions, cell, charges[:, None], gaussian, kappa_max=5.0)[:, 0, 0]
    """
    mesh = ParticleMesh(cell, kappa_max, tolerance)
    stencil = mesh.stencil(positions)
    return mesh.read(mesh.convolve(mesh.spread(sources, stencil), multiplier), stencil)


def padded_box(positions: Tensor, reach: float, step: float) -> tuple[Tensor, Tensor]:
    """A cell for atoms without period, in which no atom has an image within ``reach``.

    positions: (atoms, 3). reach: the range of the kernels. step: the lengths of the box are
    multiples of it, so that moving atoms seldom change them; pi / (2 kappa_max) is a grid step.
    Returns the cell (3, 3), a constant, and the positions in it (atoms, 3).
    """
    if not (reach > 0 and step > 0):
        raise ValueError(f"reach and step of a padded box must be positive, got {reach}, {step}")
    if not positions.shape[0]:
        return torch.eye(3, dtype=positions.dtype, device=positions.device) * reach, positions
    low, high = torch.aminmax(positions.detach(), dim=0)
    lengths = ((high - low + reach) / step).ceil() * step
    return torch.diag(lengths), positions - low


class ParticleMesh:
    """The grid of one cell.

    cell: (3, 3). kappa_max: kernels vanish at and beyond this wave number. tolerance: relative
    error of a sum, 1e-12 .. 1e-2; float32 reaches about 1e-6. The shape of the grid is (n_x, n_y,
    n_z); a mesh is a tensor (n_x n_y n_z, channels). Raises ValueError as in :func:`mesh_sum`.
    """

    def __init__(self, cell: Tensor, kappa_max: float, tolerance: float = 1e-5):
        _check_limits(cell, kappa_max)
        self.cell, self.kappa_max = cell, kappa_max
        self.order = order_for(tolerance)

        # k . a = 2 pi m_a bounds the integer m_a by the length of lattice vector a.
        lengths = cell.detach().double().norm(dim=1) * kappa_max / (2 * math.pi)
        self.shape = tuple(_grid_size(2 * OVERSAMPLING * length) for length in lengths.tolist())
        bounds = [int(length) for length in lengths.tolist()]
        self.waves = _waves(cell, kappa_max, self.shape, bounds, self.order)

    def stencil(self, positions: Tensor) -> MeshStencil:
        """The grid points in reach of atoms at positions (atoms, 3)."""
        if positions.dim() != 2 or positions.shape[1] != 3:
            raise ValueError(f"positions must be (atoms, 3), got {tuple(positions.shape)}")
        return MeshStencil(self.places(positions), self.shape, self.order, positions.dtype)

    def places(self, positions: Tensor) -> Tensor:
        """Positions (atoms, 3) in grid steps, float64."""
        places = positions.double() @ torch.linalg.inv(self.cell.double())
        return places * places.new_tensor(self.shape)

    def in_cell(self, cell: Tensor) -> ParticleMesh:
        """The same grid and waves in ``cell`` (3, 3), which has the same values and may ask for a
        gradient.
        """
        other = copy.copy(self)
        other.cell = cell
        return other

    def spread(self, sources: Tensor, stencil: MeshStencil) -> Tensor:
        """Sources (atoms, channels) on the grid: (points, channels)."""
        if sources.dim() != 2 or sources.shape[0] != stencil.atoms:
            raise ValueError(
                f"sources must be ({stencil.atoms}, channels), got {tuple(sources.shape)}"
            )
        return stencil.spread(sources)

    def wave_vectors(self) -> Tensor:
        """One of each pair +-k with |k| < kappa_max, and k = 0 in front: (K, 3)."""
        inverse = torch.linalg.inv(self.cell.double())
        return (2 * math.pi * (self.waves.integers @ inverse.T)).to(self.cell.dtype)

    def convolve(self, mesh: Tensor, multiplier: Multiplier) -> Tensor:
        """What the kernels make of mesh (points, channels): (points, R, channels)."""
        kernel = multiplier(self.wave_vectors())
        channels, count = mesh.shape[1], self.waves.integers.shape[0]
        if kernel.dim() != 3 or kernel.shape[2] != count or kernel.shape[1] not in (1, channels):
            raise ValueError(
                f"a multiplier must give (R, {channels} or 1, {count}) for wave vectors "
                f"({count}, 3), got {tuple(kernel.shape)}"
            )

        # The window is divided out twice; each wave stands for its opposite too.
        scale = self.waves.scale / torch.linalg.det(self.cell.double()).abs()
        kernel = kernel * scale.to(mesh.dtype)
        amplitudes = kernel * _ToWaves.apply(mesh, self.waves)  # (R, channels, K)
        summed = _FromWaves.apply(amplitudes.flatten(0, 1), self.waves)
        return summed.unflatten(1, (kernel.shape[0], channels))

    def read(self, mesh: Tensor, stencil: MeshStencil) -> Tensor:
        """Values of mesh (points, R, channels) at the atoms: (atoms, R, channels)."""
        return stencil.read(mesh.flatten(1)).unflatten(1, mesh.shape[1:])


class _Waves(NamedTuple):
    """The waves of a grid that lie in the band.

    integers: m (K, 3) float64. shape: of the grid. kept: waves along the first axis, m_x = 0 ..
    kept - 1. places: of each wave in the flat (kept, n_y, n_z). scale: what the window and the
    opposite waves ask for (K,) float64.
    """

    integers: Tensor
    shape: tuple[int, int, int]
    kept: int
    places: Tensor
    scale: Tensor

    def first_axis(self, like: Tensor) -> Tensor:
        """Cosines and minus sines of the waves along the first axis: (2 kept, n_x)."""
        return _cosines_and_sines(self.shape[0], self.kept, like.dtype, like.device)


def _waves(
    cell: Tensor, kappa_max: float, shape: tuple[int, int, int], bounds: list[int], order: int
) -> _Waves:
    """The waves with |k| < kappa_max, |m_a| <= bounds_a: one of each pair, m = 0 in front."""
    cell = cell.detach().double()

    # In lexical order, what stands before (0, 0, 0) is the opposite of what stands behind it.
    axes = [torch.arange(-bound, bound + 1, dtype=torch.float64) for bound in bounds]
    box = torch.cartesian_prod(*axes)
    box = box[box.shape[0] // 2 :].to(cell.device)
    k = 2 * math.pi * (box @ torch.linalg.inv(cell).T)
    integers = box[k.norm(dim=1) < kappa_max]

    x, y, z = integers.long().T
    places = (x * shape[1] + y % shape[1]) * shape[2] + z % shape[2]
    scale = torch.full_like(integers[:, 0], 2.0)
    scale[0] = 1
    for m, size in zip((x, y, z), shape, strict=True):
        scale /= _transform(order, size).to(scale.device)[m.abs()] ** 2
    return _Waves(integers, shape, bounds[0] + 1, places, scale)


@table
def _cosines_and_sines(size: int, kept: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    turns = torch.arange(kept)[:, None] * torch.arange(size) % size
    angles = turns.double() * (2 * math.pi / size)
    return torch.cat([angles.cos(), -angles.sin()]).to(device, dtype)


@functools.lru_cache(maxsize=256)
def _transform(order: int, size: int) -> Tensor:
    """The transform of the window at m = 0 .. size / 2 waves in ``size`` grid points."""
    return torch.from_numpy(window_transform(order, np.arange(size // 2 + 1) / size))


def _grid_size(least: float) -> int:
    """The smallest even product of 2, 3, 5 and 7 from ``least`` on."""
    size = max(MIN_GRID_POINTS, math.ceil(least))
    while size % 2 or not _is_smooth(size):
        size += 1
    return size


def _is_smooth(size: int) -> bool:
    for factor in (2, 3, 5, 7):
        while size % factor == 0:
            size //= factor
    return size == 1


def _check_limits(cell: Tensor, kappa_max: float) -> None:
    """Raise ValueError for what is no cell, and for a limit that is not positive."""
    if cell.shape != (3, 3):
        raise ValueError(f"the cell of a particle mesh must be (3, 3), got {tuple(cell.shape)}")
    if not 0 < kappa_max < math.inf:
        raise ValueError(f"kappa_max must be positive and finite, got {kappa_max}")
    cell = cell.detach().double()
    volume, most = float(torch.linalg.det(cell).abs()), float(cell.norm(dim=1).prod())
    if not volume > SMALLEST_CELL * most:
        raise ValueError(
            f"the cell is singular: |det| = {volume:.3g}, must exceed {SMALLEST_CELL:g} of the "
            "product of its lengths"
        )


class _ToWaves(Function):
    """``sum_x M_x[c] exp(-2 pi i m.x / n)`` of mesh (points, channels): complex (channels, K).

    Adjoint of :class:`_FromWaves`, which is its derivative.
    """

    @staticmethod
    def forward(ctx, mesh: Tensor, waves: _Waves):
        """Complex amplitudes (channels, K)."""
        ctx.waves = waves
        channels, (size, *plane) = mesh.shape[1], waves.shape

        # The first axis by a matrix, real and imaginary parts one after the other.
        parts = waves.first_axis(mesh) @ mesh.reshape(size, -1)
        parts = parts.view(2, -1, channels).permute(2, 1, 0).contiguous()
        half = torch.view_as_complex(parts).view(channels, waves.kept, *plane)
        return torch.fft.fft2(half).flatten(1).index_select(1, waves.places)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return _FromWaves.apply(gradient, ctx.waves), None


class _FromWaves(Function):
    """``Re sum_m A_m[c] exp(2 pi i m.x / n)`` of A (channels, K): (points, channels)."""

    @staticmethod
    def forward(ctx, amplitudes: Tensor, waves: _Waves):
        """The mesh (points, channels)."""
        ctx.waves = waves
        channels, (_, *plane) = amplitudes.shape[0], waves.shape
        half = amplitudes.new_zeros(channels, waves.kept, *plane)
        half.flatten(1).index_copy_(1, waves.places, amplitudes)
        half = torch.fft.ifft2(half, norm="forward")

        # Re(a exp(i t)) = Re a cos t - Im a sin t along the first axis.
        parts = torch.view_as_real(half).permute(4, 1, 2, 3, 0).reshape(2 * waves.kept, -1)
        return (waves.first_axis(parts).T @ parts).view(-1, channels)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return _ToWaves.apply(gradient, ctx.waves), None
