"""The window that carries values between atoms and the points of a regular grid.

A window is a bump of width p grid steps, p its order. At a distance of x steps from its centre,
normalised to integral one, with I_1 the modified Bessel function,

    phi(x) ~ sqrt(u) I_1(beta sqrt(u)),    u = 1 - (2 x / p)^2 > 0,    beta = 2.35 p.

It ends continuously, like u, and is nearly zero there. Between two grid points phi is replaced by
a polynomial of s, the place of an atom between them, to rounding; this piecewise polynomial *is*
the window, its derivatives in s and its Fourier transform below are exactly its own:

    phi(p / 2 - 1/2 + s - k) = sum_d T_dk s^d,   -1/2 <= s < 1/2,   k = 0 .. p - 1 a grid point.

A sum over grid points cannot tell a wave of xi periods a step from one of xi + j, j integer. The
ratio phi^(xi + j) / phi^(xi) is the error of a wave xi; :func:`expected_error` adds the squares up
over the band of a kernel. At oversampling 2 (two grid points for each that the band needs) it is
10^(1 - p), a digit for each order. Relative root mean square error of sums over random sources by a
kernel with the spectrum 1 - (k / kappa_max)^2, each entry at its own best beta:

    oversampling     p = 4      5         6         7         8         10
    1.5              2.0e-3     2.6e-4    3.6e-5    5.0e-6    7.0e-7    1.4e-8
    2                9.1e-4     8.8e-5    8.6e-6    8.4e-7    8.3e-8    8.1e-10
    2.2              7.6e-4     6.8e-5    6.1e-6    5.5e-7    5.0e-8    4.1e-10
    B-splines, 2     4.4e-3     1.2e-3    3.3e-4    9.6e-5    2.8e-5    2.5e-6   (flat spectrum)

Source: Kaiser-Bessel windows as in Barnett, Magland & af Klinteberg, SIAM J. Sci. Comput. 41, C479
(2019), which also replaces the window by polynomials; I_1 in place of I_0 makes it continuous.

Cost: tables of (degree, p) numbers, made once for each order.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from farfield.models.so3.irreps import table

OVERSAMPLING = 2.0  # grid points for each that the band needs
SHAPE_PER_ORDER = 2.35  # beta / p, best at this oversampling for every order
MIN_ORDER, MAX_ORDER = 3, 13
NODES_PER_STEP = 40  # Gauss-Legendre nodes of the Fourier transform in one grid step


def order_for(tolerance: float) -> int:
    """The smallest order whose expected relative error is about ``tolerance``.

    Raises ValueError for a tolerance outside of 1e-12 .. 1e-2.
    """
    limits = 10.0 ** (1 - MAX_ORDER), 10.0 ** (1 - MIN_ORDER)
    if not limits[0] * 0.99 <= tolerance <= limits[1] * 1.01:
        raise ValueError(
            f"tolerance of a particle mesh must lie between {limits[0]:.0e} and {limits[1]:.0e}, "
            f"got {tolerance:g}; the default is 1e-5"
        )
    return math.ceil(1 - math.log10(tolerance) - 0.01)


@functools.cache
def _pieces(order: int) -> np.ndarray:
    """T: the coefficients (degree + 1, order) of the window in powers of s."""
    from scipy.special import iv  # a quarter of a second that --help does not wait for

    degree = order + 7
    s = np.cos(math.pi * (np.arange(degree + 1) + 0.5) / (degree + 1)) / 2  # Chebyshev nodes
    x = order / 2 - 0.5 + s[:, None] - np.arange(order)
    root = np.sqrt(np.clip(1 - (2 * x / order) ** 2, 0, None))
    beta = SHAPE_PER_ORDER * order
    pieces = np.linalg.solve(np.vander(s, increasing=True), root * iv(1, beta * root))

    # The integral over s of the even powers; odd ones have none.
    power = np.arange(0, degree + 1, 2)
    return pieces / (pieces[::2].sum(1) * 0.5**power / (power + 1)).sum()


@table
def window_table(order: int, derivative: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Coefficients (degree + 1, order) of a derivative of the window in powers of s."""
    pieces = _pieces(order)
    for _ in range(derivative):
        power = np.arange(1, pieces.shape[0])
        pieces = np.concatenate([pieces[1:] * power[:, None], np.zeros((1, order))])
    return torch.from_numpy(pieces).to(device, dtype)


def window_transform(order: int, frequencies: np.ndarray) -> np.ndarray:
    """The Fourier transform of the window at frequencies (m,), in periods a grid step: (m,)."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES_PER_STEP)
    s = nodes / 2
    values = np.vander(s, order + 8, increasing=True) @ _pieces(order)  # (nodes, order)
    x = order / 2 - 0.5 + s[:, None] - np.arange(order)
    waves = np.cos(2 * math.pi * np.asarray(frequencies)[:, None, None] * x)
    return (waves * values * weights[:, None] / 2).sum((1, 2))


@functools.cache
def expected_error(order: int) -> float:
    """Relative error (root mean square) of a sum that is spread and read with this window.

    For a kernel with the spectrum 1 - (k / kappa_max)^2 and random positions and sources, read at
    places where no source is: what an atom hears of itself makes sums larger, not errors.
    """
    # Of a squared spectrum in a ball, the share of the waves with component q along one axis.
    q, weights = np.polynomial.legendre.leggauss(40)
    q = (q + 1) / 2
    weights = weights * (1 - q**2) ** 3
    frequencies = q / (2 * OVERSAMPLING)

    aliases = [window_transform(order, frequencies + j) for j in (-3, -2, -1, 1, 2, 3)]
    squares = np.square(aliases).sum(0) / window_transform(order, frequencies) ** 2
    # Three axes, spread and read.
    return math.sqrt(6 * (weights @ squares) / weights.sum())
