"""The addition theorem of standing waves, ``B_LM(r) = j_L(kappa r) Y_LM(r^)``, about a centre.

Y is normalised to ``sum_m Y_lm^2 = 1``. The gradient of a wave is made of its neighbours in degree,
with the ladders D_a of the solid harmonics (``models/so3/harmonics.py``),

    (d_a B)_L := (1 / kappa) dB_L / dx_a = (D_a B_(L-1) - D_a^T B_(L+1)) / (2 L + 1),

and the kernel of degree l is ``j_l(kappa |r|) Y_l(r^) = (-1)^l Y_l(grad / kappa) j_0(kappa |r|)``.
With Euler's relation for Y_l this gives the addition theorem for every degree from the theorem for
degree zero, without a single Gaunt coefficient:

    j_l(kappa |r - s|) Y_lm = sum_LM E^l_(m, LM)(r) B_LM(s),    E^0_LM = (2 L + 1) B_LM,
    E^l_m = -(1 / l) sum_(a, m') (D_a)_(m m') d_a E^(l-1)_m'

(d_a acts on B; the weight 2 L + 1 stays). E^l is a constant sparse matrix (the Gaunt coefficients,
exact up to rounding at any degree) times B up to degree L + l.

Cutting the sum at L <= L_t keeps whole degrees: what remains turns exactly like the kernel, at any
L_t. Which L_t keeps a tolerance is an error law too (:func:`truncation_degree`).

Source: the addition theorem of Helmholtz solutions, e.g. Martin, Multiple Scattering, chapter 3.
Cost: tables are built once, in a second at most; waves cost one Bessel function and one harmonic
each.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from farfield.models.so3.bessel import leading_term, scaled_bessel, spherical_bessel
from farfield.models.so3.harmonics import gradient_ladders, ladder_step, solid_harmonics
from farfield.models.so3.irreps import degree_of_row, num_rows, table

if TYPE_CHECKING:
    import scipy.sparse


def standing_waves(
    scaled: Tensor, squared: Tensor, size: Tensor, lmax: int, row: Tensor, radial: Tensor
) -> Tensor:
    """Chosen waves ``j_L(kappa r) Y_LM(r^)``, L <= lmax, smooth at r = 0: (waves, nodes).

    scaled: r / a for any length a, (nodes, 3). squared: kappa^2 r^2, (Q, nodes). size: kappa a,
    (Q,). row: the row of Y of each wave. radial: the place ``L Q + q`` of its radial function.
    """
    # j_L(kappa r) is (kappa r)^L times a smooth function of (kappa r)^2; r^L Y_LM is a polynomial.
    solid = solid_harmonics(scaled, lmax).T  # (rows, nodes)
    bessel = scaled_bessel(squared, lmax).permute(2, 0, 1)  # (L, Q, nodes)
    functions = leading_term(size, lmax).T[..., None] * bessel
    return solid.index_select(0, row) * functions.flatten(0, 1).index_select(0, radial)


def _axis_ladders(lmax: int) -> list[list[np.ndarray]]:
    """``D_a`` from degree l - 1 to l, as a matrix (2 l + 1, 2 l - 1) at [l - 1][a], a = x, y, z."""
    ladders = gradient_ladders(lmax, torch.float64, torch.device("cpu"))
    axes = torch.eye(3, dtype=torch.float64).unsqueeze(-1)
    steps = []
    for l in range(1, lmax + 1):
        identity = torch.eye(2 * l - 1, dtype=torch.float64)
        steps.append([ladder_step(identity, axis, ladders[l - 1]).numpy() for axis in axes])
    return steps


def _wave_gradient(axis: int, steps: list[list[np.ndarray]]) -> scipy.sparse.csr_array:
    """``d_a`` as a matrix of the waves of degrees 0 .. len(steps).

    Rows of the highest degree lack their upper neighbour.
    """
    import scipy.sparse

    top = len(steps)
    blocks = [[None] * (top + 1) for _ in range(top + 1)]
    for l in range(1, top + 1):
        blocks[l][l - 1] = steps[l - 1][axis] / (2 * l + 1)
        blocks[l - 1][l] = -steps[l - 1][axis].T / (2 * l - 1)
    blocks[0][0] = np.zeros((1, 1))
    return scipy.sparse.block_array(blocks, format="csr")


def _kernel_matrices(lmax: int, steps: list[list[np.ndarray]]) -> list[scipy.sparse.csr_array]:
    """E_lm of all (lmax + 1)^2 rows as matrices of the waves B, without the weight 2 L + 1."""
    import scipy.sparse

    size = num_rows(len(steps))
    slopes = [_wave_gradient(axis, steps) for axis in range(3)] if lmax else []
    below = [scipy.sparse.eye_array(size, format="csr")]  # E^0 is B itself
    matrices = list(below)
    for l in range(1, lmax + 1):
        # E^l_m = -(1 / l) sum over axes a and orders k of (D_a)_mk d_a E^(l-1)_k.
        raised = [[slope @ part for part in below] for slope in slopes]
        below = []
        for m in range(2 * l + 1):
            terms = []
            for a in range(3):
                for k in range(2 * l - 1):
                    factor = steps[l - 1][a][m, k]
                    if factor:
                        terms.append(-factor / l * raised[a][k])
            below.append(sum(terms))
        matrices += below
    return matrices


@table
def translation_table(lmax: int, truncation: int) -> Tensor:
    """The matrix T of ``E[(lm, LM)] = sum T B_L'M'`` as a sparse float64 tensor.

    Rows: (lmax + 1)^2 kernel components x (truncation + 1)^2 source moments; columns: waves of
    degrees 0 .. truncation + lmax.
    """
    import scipy.sparse

    steps = _axis_ladders(truncation + lmax)
    moments, waves = num_rows(truncation), num_rows(truncation + lmax)

    weight = scipy.sparse.diags_array(2.0 * degree_of_row(truncation).numpy() + 1)
    blocks = [weight @ matrix[:moments] for matrix in _kernel_matrices(lmax, steps)]
    matrix = scipy.sparse.vstack(blocks).tocoo()

    # Entries that are zero but for rounding would only cost time.
    kept = abs(matrix.data) > 1e-13
    indices = torch.from_numpy(np.stack([matrix.row, matrix.col])[:, kept]).long()
    values = torch.from_numpy(matrix.data[kept])
    shape = (num_rows(lmax) * moments, waves)
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=True).coalesce()


@table
def translation_tables(
    lmax: int, truncations: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The tables of several kappas as one sparse matrix, and its transpose.

    (kernel components x moments of all kappas, waves of all kappas); kappas do not mix.
    """
    rows = num_rows(lmax)
    blocks = [translation_table(lmax, truncation) for truncation in truncations]
    width = sum(block.shape[0] // rows for block in blocks)  # moments of all kappas

    # Each block moves to its own moments and waves; row (lm, moment) becomes lm x width + moment.
    indices = []
    first_moment, first_wave = 0, 0
    for block in blocks:
        moments = block.shape[0] // rows
        target, wave = block.indices()
        row = target // moments * width + target % moments + first_moment
        indices.append(torch.stack([row, wave + first_wave]))
        first_moment += moments
        first_wave += block.shape[1]

    values = torch.cat([block.values() for block in blocks])
    result = torch.sparse_coo_tensor(
        torch.cat(indices, 1), values, (rows * width, first_wave), check_invariants=True
    )
    result = result.to(device, dtype).coalesce()
    return result, result.t().coalesce()


@functools.cache
def _legendre_squares(lmax: int, top: int) -> np.ndarray:
    """Squares of the 3j symbols (l L1 L2; 0 0 0), l <= lmax: (lmax + 1, top + 1, top + 1)."""
    # (3j)^2 is half the integral of P_l P_L1 P_L2, which Gauss-Legendre nodes give exactly.
    nodes, weights = np.polynomial.legendre.leggauss(top + lmax // 2 + 1)
    values = np.polynomial.legendre.legvander(nodes, top)
    integrals = [
        values.T @ (values * (weights * values[:, l] / 2)[:, None]) for l in range(lmax + 1)
    ]
    return np.stack(integrals).clip(min=0)


@functools.lru_cache(maxsize=1024)
def _truncation_errors(size: float, lmax: int) -> np.ndarray:
    """Errors of the truncations 0, 1, ..., of the worst kernel of degree <= lmax.

    size: kappa x radius. The error is the root mean square of the dropped terms over all pairs of
    points on the sphere of that radius, relative to the kernel's. Both are sums over (L1, L2) of
    ``(2 L1 + 1)(2 L2 + 1) (3j)^2 (j_L1 j_L2)^2``. Inside the sphere it is smaller.
    """
    top = int(size + 12 * (size + 1) ** (1 / 3)) + 30
    bessel = spherical_bessel(torch.tensor(size, dtype=torch.float64), top).numpy()
    waves = bessel**2 * (2 * np.arange(top + 1) + 1)

    # Power by degree of the source, (lmax + 1, top + 1), and all of it from each degree on.
    power = (_legendre_squares(lmax, top) * waves[:, None] * waves).sum(1)
    dropped = np.cumsum(power[:, ::-1], 1)[:, ::-1]
    return np.sqrt(dropped[:, 1:] / dropped[:, :1]).max(0)


def truncation_degree(size: float, tolerance: float, lmax: int) -> int:
    """Smallest L_t that keeps every kernel of degree <= lmax within ``tolerance`` of itself.

    size: kappa x radius.
    """
    fine = _truncation_errors(size, lmax) <= tolerance
    return int(np.argmax(fine)) if fine.any() else fine.shape[0]


def truncation_error(size: float, truncation: int, lmax: int) -> float:
    """Error of a truncation relative to the kernel; size: kappa x radius."""
    errors = _truncation_errors(size, lmax)
    return float(errors[min(truncation, errors.shape[0] - 1)])
