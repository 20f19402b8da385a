"""The far message of scalars, summed over all pairs of each graph, with closed derivatives.

    out_i = sum_j F_ij W_j,    F_ij = sum_p C_p B_p(r_ij^2),    B_p(x) = x^p exp(-x / 2 s^2)

for every head h, with coefficients C and values W of its own. The derivative by x stays among the
same functions, F' = sum_p (C M)_p B_p with M below, so no new function is evaluated for a force:

    dB_p / dx = p B_(p-1) - B_p / 2 s^2 = sum_q M_pq B_q.

With G the cotangent of out, A_ij = G_i . W_j, r = x_i - x_j, and sums over j or i by columns and
rows, the first derivatives are

    dW_j = sum_i F_ij G_i,    dC_p = sum_ij A_ij B_p,
    dx_i = sum_j S_ij r,      dx_j = -sum_i S_ij r,           S = 2 sum_h A F'.

Let a, b, c be cotangents of dx, dC and dW, and t = 2 r . (a_i - a_j) the change of r^2 along a. The
second derivatives, those of a . dx + b . dC + c . dW, are

    H = F' t + sum_p b_p B_p,    K_ij = G_i . c_j
    by G     sum_j H W_j + F c_j             by W     sum_i H G_i
    by C_p   sum_ij A t (M B)_p + K B_p
    by x     the pair forces  S (a_i - a_j) + 2 r sum_h (A (F'' t + (b M B)) + K F').

Derivatives of higher order are taken by torch through the plain formula.

Cost: quadratic in the atoms of a graph; one exponential a pair and, for each head, terms + values
multiply-adds for the sum, twice and five times as many for its derivatives. Functions of pairs, 3 +
terms + heads values a pair, are kept for the backward pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from farfield.models.kernels.needed_gradients import needed_inputs
from farfield.models.so3.irreps import table


def gaussian_powers(x: Tensor, terms: int, scale: float = 1.0) -> Tensor:
    """``x^p exp(-x / 2 scale^2)``, p < terms, of x (...), flat: (terms, n)."""
    rows = [torch.exp(x.flatten() * (-0.5 / scale**2))]
    while len(rows) < terms:
        rows.append(rows[-1] * x.flatten())
    return torch.stack(rows)


def gaussian_pair_sum(
    scale: float, receivers: slice, positions: Tensor, coefficients: Tensor, values: Tensor
) -> Tensor:
    """``out_i`` of some atoms of g graphs of one size: (g, receivers, heads, V).

    scale: s, Angstrom. receivers: which atoms i of each graph. positions: of all its atoms j, (g,
    atoms, 3), Angstrom. coefficients: C (heads, terms). values: W (g, atoms, heads, V).
    Differentiable to any order.
    """
    return _GaussianPairSum.apply(_Pairing(scale, receivers), positions, coefficients, values)


class _Pairing(NamedTuple):
    """Which pairs there are, and the width of their functions. scale: s. receivers: atoms i."""

    scale: float
    receivers: slice

    def differences(self, vectors: Tensor) -> Tensor:
        """``x_i - x_j`` of vectors (g, atoms, 3): (3, g, receivers, atoms)."""
        vectors = vectors.permute(2, 0, 1)
        return vectors[:, :, self.receivers].unsqueeze(3) - vectors.unsqueeze(2)

    def collected(self, forces: Tensor) -> Tensor:
        """Forces (3, g, receivers, atoms) of j on i, and their opposites on j: (g, atoms, 3)."""
        total = forces.sum(2).neg_()
        total[:, :, self.receivers] += forces.sum(3)
        return total.permute(1, 2, 0)

    def basis(self, squared: Tensor, terms: int) -> Tensor:
        """B of r^2 (g, receivers, atoms): (terms, g, receivers, atoms)."""
        return gaussian_powers(squared, terms, self.scale).unflatten(1, squared.shape)

    def matrix(self, like: Tensor) -> Tensor:
        """M of ``like`` (., terms): (terms, terms)."""
        return _derivative_matrix(like.shape[1], self.scale, like.dtype, like.device)


@table
def _derivative_matrix(
    terms: int, scale: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    lower = torch.diag(torch.arange(1, terms, dtype=torch.float64), -1)
    same = torch.eye(terms, dtype=torch.float64) / (2 * scale**2)
    return (lower - same).to(device, dtype)


def _mixture(coefficients: Tensor, basis: Tensor) -> Tensor:
    """``sum_p C_p B_p`` of C (heads, terms): (heads, g, receivers, atoms)."""
    return (coefficients @ basis.flatten(1)).unflatten(1, basis.shape[1:])


def _overlap(pairs: Tensor, basis: Tensor) -> Tensor:
    """``sum_ij z_ij B_p`` of z (heads, g, receivers, atoms): (heads, terms)."""
    return pairs.flatten(1) @ basis.flatten(1).T


def _heads_first(values: Tensor) -> Tensor:
    """(g, atoms, heads, V) -> (heads, g, atoms, V)."""
    return values.permute(2, 0, 1, 3)


def _heads_last(values: Tensor) -> Tensor:
    """(heads, g, atoms, V) -> (g, atoms, heads, V)."""
    return values.permute(1, 2, 0, 3).contiguous()


class _GaussianPairSum(Function):
    """out of one layout of pairs; functions of pairs are kept for both derivatives."""

    @staticmethod
    def forward(ctx, pairing: _Pairing, positions, coefficients: Tensor, values: Tensor) -> Tensor:
        """(g, receivers, heads, V)."""
        away = pairing.differences(positions)
        basis = pairing.basis(away.square().sum(0), coefficients.shape[1])
        kernel = _mixture(coefficients, basis)

        ctx.pairing = pairing
        ctx.save_for_backward(positions, coefficients, values, away, basis, kernel)
        return _heads_last(kernel @ _heads_first(values))

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        *arguments, away, basis, kernel = ctx.saved_tensors
        needed, kept = needed_inputs(ctx)[1:], (away, basis, kernel)
        return None, *_GaussianPairSlopes.apply(ctx.pairing, needed, kept, cotangent, *arguments)


class _GaussianPairSlopes(Function):
    """dx, dC and dW; None for each that ``needed`` (three bools) denies.

    kept: ``r``, B and F of all pairs, which follow from the other arguments.
    """

    @staticmethod
    def forward(
        ctx, pairing: _Pairing, needed, kept, cotangent, positions, coefficients, values
    ) -> tuple[Tensor | None, ...]:
        """The shapes of positions, coefficients and values."""
        away, basis, kernel = kept
        received, sent = _heads_first(cotangent), _heads_first(values)
        products = received @ sent.transpose(2, 3)  # A
        slope = _mixture(coefficients @ pairing.matrix(coefficients), basis)  # F'
        force = (products * slope).sum(0).mul_(2)  # S

        ctx.pairing = pairing
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            cotangent, positions, coefficients, values, *kept, products, slope, force
        )
        by_positions = pairing.collected(force * away) if needed[0] else None
        by_coefficients = _overlap(products, basis) if needed[1] else None
        by_values = _heads_last(kernel.transpose(2, 3) @ received) if needed[2] else None
        return by_positions, by_coefficients, by_values

    @staticmethod
    def backward(ctx, a: Tensor | None, b: Tensor | None, c: Tensor | None) -> tuple:
        if a is None and b is None and c is None:
            return (None,) * 7
        arguments, kept = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        if torch.is_grad_enabled():
            found = _second_composed(ctx.pairing, arguments, (a, b, c))
        else:
            _, positions, _, values = arguments
            a = torch.zeros_like(positions) if a is None else a
            c = torch.zeros_like(values) if c is None else c
            found = _second(ctx.pairing, arguments, kept, a, b, c)
        return None, None, None, *found


def _second(
    pairing: _Pairing,
    arguments: tuple[Tensor, ...],
    kept: tuple[Tensor, ...],
    a: Tensor,
    b: Tensor | None,
    c: Tensor,
) -> tuple[Tensor, ...]:
    """Derivatives of a . dx + b . dC + c . dW by G, x, C and W; b is seldom there."""
    cotangent, _, coefficients, values = arguments
    away, basis, kernel, products, slope, force = kept
    received, sent, moved = (_heads_first(one) for one in (cotangent, values, c))
    matrix = pairing.matrix(coefficients)

    # Along a, b and c: the separations, r^2, the kernel, and the factors that multiply 2 r.
    parted = pairing.differences(a)
    along = (away * parted).sum(0).mul_(2)  # t
    crossed = received @ moved.transpose(2, 3)  # K
    turned = products * along  # A t
    change = slope * along  # H
    bend = _mixture(coefficients @ matrix @ matrix, basis)  # F''
    pull = bend.mul_(turned).addcmul_(crossed, slope)
    if b is not None:
        change += _mixture(b, basis)
        pull += products * _mixture(b @ matrix, basis)

    by_cotangent = (change @ sent).add_(kernel @ moved)
    by_values = change.transpose(2, 3) @ received
    by_coefficients = _overlap(turned, basis) @ matrix.T + _overlap(crossed, basis)
    forces = (away * pull.sum(0).mul_(2)).addcmul_(parted, force)
    return (
        _heads_last(by_cotangent),
        pairing.collected(forces),
        by_coefficients,
        _heads_last(by_values),
    )


def _second_composed(
    pairing: _Pairing, arguments: tuple[Tensor, ...], changes: tuple[Tensor | None, ...]
) -> tuple[Tensor, ...]:
    """The same by torch, for derivatives of any order."""
    # Views: one argument may follow from another, and slopes by one leave the other as it is.
    arguments = [
        one.view_as(one) if one.requires_grad else one.clone().requires_grad_(True)
        for one in arguments
    ]
    cotangent, *inputs = arguments
    slopes = torch.autograd.grad(_plain_sum(pairing, *inputs), inputs, cotangent, create_graph=True)
    mixed = sum(
        (change * slope).sum()
        for change, slope in zip(changes, slopes, strict=True)
        if change is not None
    )
    return torch.autograd.grad(mixed, arguments, create_graph=True, allow_unused=True)


def _plain_sum(
    pairing: _Pairing, positions: Tensor, coefficients: Tensor, values: Tensor
) -> Tensor:
    """out, by operations of torch."""
    squared = pairing.differences(positions).square().sum(0)
    kernel = _mixture(coefficients, pairing.basis(squared, coefficients.shape[1]))
    return _heads_last(kernel @ _heads_first(values))
