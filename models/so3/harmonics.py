"""Real solid and spherical harmonics of any degree, as polynomials of x, y, z.

``S_lm(v) = |v|^l Y_lm(v / |v|)`` in e3nn's order and sign (polar axis y, l = 1 is x, y, z),
normalised so that ``sum_m Y_lm^2 = 1`` ("norm"). Everything follows from one fact: a derivative
lowers the degree by one, and mixes at most two orders of it. With Euler's relation for homogeneous
polynomials,

    d S_l / d v_a = D_a S_(l-1),                    the gradient
    S_l = (1 / l) sum_a v_a D_a S_(l-1),            the recurrence

so values and derivatives of every order share one table of constant ladders ``D_a`` (Edmonds,
Angular Momentum in Quantum Mechanics, 5.7, for the gradient of a solid harmonic). No angle, no
square root, no division by r: smooth at the origin. A step of the recurrence does not enlarge
errors: in the frame of ``v`` it multiplies row m by ``|v| sqrt(l^2 - m^2) / l``. The usual
three-term recurrence in y and r^2 loses a factor of about l^2 / 4 near the poles instead.

Derivatives. The trilinear form ``T(G, v, S) = sum_a v_a <G, D_a S>`` defines three maps by leaving
out one argument, and these have each other as derivatives. Gradients keep the values and nothing
else. Components are stored as rows over vectors; results are transposed views of them (the last
dimension has the largest stride).

Cost on one thread: 1 to 3 ns per value, about twice as much with the gradient; less than e3nn's
tabulated polynomials from degree 2 on (1.3 to 6 times at degrees 3 to 11). Largest error relative
to the largest component of a degree, at l = 20 and 40: 1.5e-6 and 2.7e-6 in float32, 4e-15 and
7e-15 in float64 (``benchmarks/speed/bench_special_functions.py``). Range: solid harmonics are
powers and overflow where ``|v|^l`` does.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd import Function

from farfield.models.kernels.needed_gradients import needed_inputs
from farfield.models.so3.irreps import degree_slice, num_rows, table
from farfield.models.tracing import is_tracing

# on a CPU; so many vectors stay in the cache during one sweep over the degrees
VECTORS_PER_SWEEP = 16384
Ladder = tuple[Tensor, Tensor, Tensor]  # keep, up, down: see gradient_ladders


def solid_harmonics(vectors: Tensor, lmax: int) -> Tensor:
    """``|v|^l Y_lm(v / |v|)`` of vectors (..., 3) for l = 0 .. lmax: (..., (lmax + 1)^2).

    Their unit is the unit of ``vectors`` to the power l. Polynomials: differentiable to any order
    everywhere. Raises ValueError for a negative lmax and for vectors that are not (..., 3) floats.
    """
    if lmax < 0:
        raise ValueError(f"lmax of harmonics must be >= 0, got {lmax}")
    if vectors.shape[-1:] != (3,) or not vectors.is_floating_point():
        raise ValueError(
            f"vectors must be floating-point numbers of shape (..., 3), got {vectors.dtype} "
            f"{tuple(vectors.shape)}"
        )
    if is_tracing():
        return _by_products(vectors.reshape(-1, 3), lmax).unflatten(0, vectors.shape[:-1])
    rows = _SolidHarmonics.apply(vectors.reshape(-1, 3).T.contiguous(), lmax)
    return rows.T.reshape(*vectors.shape[:-1], num_rows(lmax))


def spherical_harmonics(vectors: Tensor, lmax: int) -> Tensor:
    """``Y_lm(v / |v|)`` of vectors (..., 3) for l = 0 .. lmax: (..., (lmax + 1)^2).

    A zero vector has no direction: its values are zero for l >= 1 (and 1 for l = 0) with zero
    gradient. Differentiable to any order. In float32 lengths must lie between 1e-18 and 1e18 (their
    squares are formed). Raises ValueError like :func:`solid_harmonics`.
    """
    squared = vectors.square().sum(-1, keepdim=True)
    empty = squared == 0
    unit = vectors / torch.where(empty, 1.0, squared).sqrt()
    return solid_harmonics(torch.where(empty, 0.0, unit), lmax)


@table
def gradient_ladders(lmax: int, dtype: torch.dtype, device: torch.device) -> list[Ladder]:
    """Factors (keep, up, down), each (2 l - 1, 1), of the rows of degree l - 1, for l = 1 .. lmax.

    ``D_y`` takes row m to row m with ``keep``; ``D_z`` and ``D_x`` take it to row m + 1 with ``up``
    and to row m - 1 with ``down``.
    """
    ladders = []
    for l in range(1, lmax + 1):
        m = torch.arange(1 - l, l, dtype=torch.float64)[:, None]
        outward = ((l + m.abs() + 1) * (l + m.abs())).sqrt() / 2  # |m| to |m| + 1
        inward = -((l - m.abs() + 1) * (l - m.abs())).sqrt() / 2  # |m| to |m| - 1

        # the row m = 0 stands for two complex orders in one
        inward = torch.where(m.abs() == 1, 2**0.5 * inward, inward)
        outward = torch.where(m == 0, 2**0.5 * outward, outward)

        # the row m = 0 is reached from the sine row by x only and from the cosine row by z only
        up = torch.where(m >= 0, outward, torch.where(m == -1, 0.0, inward))
        down = torch.where(m <= 0, outward, inward)
        keep = (l * l - m * m).sqrt()
        ladders.append(tuple(part.to(device, dtype) for part in (keep, up, down)))
    return ladders


def ladder_step(block: Tensor, vectors: Tensor, ladder: Ladder) -> Tensor:
    """``sum_a v_a D_a S`` of rows (2 l - 1, n) of degree l - 1: rows (2 l + 1, n) of degree l.

    vectors: (3, n).
    """
    (x, y, z), (keep, up, down) = vectors, ladder

    # x reflects the order, m -> -m; the row m = 0 has no partner
    middle = block.shape[0] // 2
    along, across = z * block, x * block.flip(0)
    raised, lowered = along - across, along + across
    raised[middle], lowered[middle] = along[middle], across[middle]

    result = block.new_zeros(block.shape[0] + 2, block.shape[1])
    torch.mul(keep, y * block, out=result[1:-1])
    result[2:].addcmul_(up, raised)
    result[:-2].addcmul_(down, lowered)
    return result


def _adjoint(block: Tensor, ladder: Ladder) -> tuple[Tensor, Tensor, Tensor]:
    """``D_a^T G``, a = x, y, z, of rows (2 l + 1, n) of degree l: three blocks (2 l - 1, n)."""
    keep, up, down = ladder
    raised, lowered = up * block[2:], down * block[:-2]
    middle = raised.shape[0] // 2
    along, across = raised + lowered, lowered - raised
    along[middle], across[middle] = raised[middle], lowered[middle]
    return across.flip(0), keep * block[1:-1], along


def _blocks(rows: Tensor) -> list[Tensor]:
    """Rows of each degree."""
    lmax = round(rows.shape[0] ** 0.5) - 1
    return [rows[degree_slice(l)] for l in range(lmax + 1)]


def _ladders_of(blocks: list[Tensor]) -> list[Ladder]:
    return gradient_ladders(len(blocks) - 1, blocks[0].dtype, blocks[0].device)


def _sweeps(*parts: Tensor) -> zip:
    """Column ranges of all parts that fit a processor's cache with all that is computed from them.

    A GPU takes all columns at once.
    """
    size = VECTORS_PER_SWEEP if parts[0].device.type == "cpu" else max(1, parts[0].shape[1])
    return zip(*(part.split(size, 1) for part in parts), strict=True)


@table
def ladder_matrices(lmax: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """``D_a / l`` of every degree l = 1 .. lmax as a matrix (3 (2 l - 1), 2 l + 1), rows (a, m)."""
    matrices = []
    for l, ladder in enumerate(gradient_ladders(lmax, torch.float64, device), 1):
        size = 2 * l - 1
        axes = torch.eye(3, dtype=torch.float64, device=device).repeat_interleave(size, 0)
        rows = torch.eye(size, dtype=torch.float64, device=device).repeat(3, 1)
        matrices.append((ladder_step(rows.T, axes.T, ladder) / l).T.to(dtype))
    return matrices


def _by_products(vectors: Tensor, lmax: int) -> Tensor:
    """S of vectors (n, 3) by Euler's relation as products of matrices: (n, rows).

    One form for any number of vectors, as a trace needs it; derivatives are torch's.
    """
    values = [torch.ones_like(vectors[:, :1])]
    for matrix in ladder_matrices(lmax, vectors.dtype, vectors.device):
        values.append((vectors.unsqueeze(2) * values[-1].unsqueeze(1)).flatten(1) @ matrix)
    return torch.cat(values, 1)


class _SolidHarmonics(Function):
    """S of vectors (3, n): (rows, n)."""

    @staticmethod
    def forward(ctx, vectors: Tensor, lmax: int) -> Tensor:
        """Euler's relation, degree by degree."""
        values = vectors.new_empty(num_rows(lmax), vectors.shape[1])
        values[0] = 1
        for columns, part in _sweeps(values, vectors):
            blocks = _blocks(columns)
            steps = zip(pairwise(blocks), _ladders_of(blocks), strict=True)
            for l, ((lower, upper), ladder) in enumerate(steps, 1):
                torch.div(ladder_step(lower, part, ladder), l, out=upper)
        ctx.save_for_backward(values)
        return values

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        """``<G_l, D_a S_(l-1)>``, from the values alone."""
        (values,) = ctx.saved_tensors
        return _Contraction.apply(cotangent.contiguous(), values), None


class _Contraction(Function):
    """T without the vectors, of rows G and S: (3, n)."""

    @staticmethod
    def forward(ctx, left: Tensor, right: Tensor) -> Tensor:
        """``<G_l, D_a S_(l-1)>`` of each vector, summed over the degrees."""
        ctx.save_for_backward(left, right)
        result = right.new_zeros(3, right.shape[1])
        for part, uppers, lowers in _sweeps(result, left, right):
            blocks = _blocks(uppers)
            steps = zip(blocks[1:], _blocks(lowers)[:-1], _ladders_of(blocks), strict=True)
            for upper, lower, ladder in steps:
                part += torch.stack([(block * lower).sum(0) for block in _adjoint(upper, ladder)])
        return result

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        """T without G, and T without S."""
        left, right = ctx.saved_tensors
        by_left, by_right = needed_inputs(ctx)
        return (
            _Directional.apply(cotangent, right) if by_left else None,
            _Transposed.apply(left, cotangent) if by_right else None,
        )


class _Directional(Function):
    """T without G: the derivative of rows S along vectors (3, n), as rows."""

    @staticmethod
    def forward(ctx, vectors: Tensor, right: Tensor) -> Tensor:
        """``sum_a v_a D_a S_(l-1)``, rows of degree l."""
        ctx.save_for_backward(vectors, right)
        blocks = _blocks(right)
        steps = [
            ladder_step(block, vectors, ladder)
            for block, ladder in zip(blocks[:-1], _ladders_of(blocks), strict=True)
        ]
        return torch.cat([torch.zeros_like(blocks[0]), *steps])

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        """T without the vectors, and T without S."""
        vectors, right = ctx.saved_tensors
        by_vectors, by_right = needed_inputs(ctx)
        return (
            _Contraction.apply(cotangent, right) if by_vectors else None,
            _Transposed.apply(cotangent, vectors) if by_right else None,
        )


class _Transposed(Function):
    """T without S, of rows G and vectors (3, n): rows, zero at the highest degree."""

    @staticmethod
    def forward(ctx, left: Tensor, vectors: Tensor) -> Tensor:
        """``sum_a v_a D_a^T G_l``, rows of degree l - 1."""
        ctx.save_for_backward(left, vectors)
        blocks = _blocks(left)
        steps = []
        for block, ladder in zip(blocks[1:], _ladders_of(blocks), strict=True):
            x, y, z = (v * part for v, part in zip(vectors, _adjoint(block, ladder), strict=True))
            steps.append(x + y + z)
        return torch.cat([*steps, torch.zeros_like(blocks[-1])])

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        """T without G, and T without the vectors."""
        left, vectors = ctx.saved_tensors
        by_left, by_vectors = needed_inputs(ctx)
        return (
            _Directional.apply(vectors, cotangent) if by_left else None,
            _Contraction.apply(left, cotangent) if by_vectors else None,
        )
