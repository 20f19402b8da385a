"""The far message of scalars, summed over all pairs of each graph, with closed derivatives.

    out_i = sum_j F_ij W_j,    F_ij = sum_p C_p B_p(r_ij^2),    B_p(x) = x^p exp(-x / 2 s^2)

for every head h, with coefficients C and values W of its own. Derivatives stay among the same
functions, so a force needs no new one: with ' = (1 / r) d / dr = 2 d / dx,

    B_p' = 2 p B_(p-1) - B_p / s^2 = sum_q D_pq B_q,    F' = (C D) B,    F'' = (C D D) B.

With G the cotangent of out, A_ij = G_i . W_j and r = x_i - x_j, the first derivatives are

    dW_j = sum_i F_ij G_i,    dC_p = sum_ij A_ij B_p,
    dx   = the pair forces S_ij r on i, and -S_ij r on j,         S = sum_h A F'.

Let a, b, c be cotangents of dx, dC and dW, and t = r . (a_i - a_j), the change of r^2 / 2 along a.
The second derivatives, those of a . dx + b . dC + c . dW, are

    by G    sum_j H W_j + F c_j            H = F' t + sum_p b_p B_p
    by W    sum_i H G_i
    by C_p  sum_ij A t (D B)_p + K B_p     K_ij = G_i . c_j
    by x    the pair forces S (a_i - a_j) + r sum_h (A (F'' t + (b D) B) + K F').

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
    """Which pairs there are, and the width of their functions. scale: s. receivers: atoms i.

    Pairs of all graphs, g x receivers x atoms of them, are the last dimension of a tensor.
    """

    scale: float
    receivers: slice

    def differences(self, vectors: Tensor) -> Tensor:
        """``x_i - x_j`` of vectors (g, atoms, 3): (3, pairs)."""
        vectors = vectors.permute(2, 0, 1)
        away = vectors[:, :, self.receivers].unsqueeze(3) - vectors.unsqueeze(2)
        return away.flatten(1)

    def collected(self, forces: Tensor, positions: Tensor) -> Tensor:
        """Forces (3, pairs) of j on i, and their opposites on j: the shape of positions."""
        graphs, atoms, _ = positions.shape
        forces = forces.view(3, graphs, -1, atoms)
        total = forces.sum(2).neg_()
        total[:, :, self.receivers].add_(forces.sum(3))
        return total.permute(1, 2, 0)

    def matrix(self, coefficients: Tensor) -> Tensor:
        """D (terms, terms), as C (heads, terms) needs it."""
        like = (coefficients.dtype, coefficients.device)
        return _derivative_matrix(coefficients.shape[1], self.scale, *like)


@table
def _derivative_matrix(
    terms: int, scale: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    lower = torch.diag(2 * torch.arange(1, terms, dtype=torch.float64), -1)
    return (lower - torch.eye(terms, dtype=torch.float64) / scale**2).to(device, dtype)


def _by_graph(values: Tensor) -> Tensor:
    """(g, atoms, heads, V) -> (heads g, atoms, V), one matrix for each head of each graph."""
    return values.permute(2, 0, 1, 3).flatten(0, 1)


def _by_atom(values: Tensor, heads: int) -> Tensor:
    """(heads g, atoms, V) -> (g, atoms, heads, V)."""
    return values.unflatten(0, (heads, -1)).permute(1, 2, 0, 3).contiguous()


def _pairs_by_graph(pairs: Tensor, sent: Tensor) -> Tensor:
    """(heads, pairs) -> (heads g, receivers, atoms); sent (heads g, atoms, V)."""
    return pairs.view(sent.shape[0], -1, sent.shape[1])


class _GaussianPairSum(Function):
    """out; functions of pairs are kept for both derivatives."""

    @staticmethod
    def forward(ctx, pairing: _Pairing, positions, coefficients: Tensor, values: Tensor) -> Tensor:
        """(g, receivers, heads, V)."""
        away, sent = pairing.differences(positions), _by_graph(values)
        heads, terms = coefficients.shape
        basis = gaussian_powers(away.square().sum(0), terms, pairing.scale)  # (terms, pairs)
        kernel = coefficients @ basis  # (heads, pairs)

        ctx.pairing = pairing
        ctx.save_for_backward(positions, coefficients, values, away, basis, kernel, sent)
        return _by_atom(torch.bmm(_pairs_by_graph(kernel, sent), sent), heads)

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        saved, needed = ctx.saved_tensors, needed_inputs(ctx)[1:]
        kept, arguments = saved[3:], saved[:3]
        return None, *_GaussianPairSlopes.apply(ctx.pairing, needed, kept, cotangent, *arguments)


class _GaussianPairSlopes(Function):
    """dx, dC and dW; None for each that ``needed`` (three bools) denies.

    kept: r, B and F of all pairs and W as matrices, which follow from the other arguments.
    """

    @staticmethod
    def forward(
        ctx, pairing: _Pairing, needed, kept, cotangent, positions, coefficients, values
    ) -> tuple[Tensor | None, ...]:
        """The shapes of positions, coefficients and values."""
        away, basis, kernel, sent = kept
        received = _by_graph(cotangent)
        products = torch.bmm(received, sent.transpose(1, 2)).view_as(kernel)  # A

        by_positions = by_coefficients = by_values = slope = force = None
        if needed[0]:
            slope = coefficients @ pairing.matrix(coefficients) @ basis  # F'
            force = (products * slope).sum(0)  # S
            by_positions = pairing.collected(force * away, positions)
        if needed[1]:
            by_coefficients = products @ basis.T
        if needed[2]:
            back = torch.bmm(_pairs_by_graph(kernel, sent).transpose(1, 2), received)
            by_values = _by_atom(back, len(kernel))

        ctx.pairing = pairing
        ctx.set_materialize_grads(False)
        arguments = (cotangent, positions, coefficients, values)
        ctx.save_for_backward(*arguments, *kept, received, products, slope, force)
        return by_positions, by_coefficients, by_values

    @staticmethod
    def backward(ctx, a: Tensor | None, b: Tensor | None, c: Tensor | None) -> tuple:
        """The second derivatives of the text above, for cotangents a, b and c."""
        if a is None and b is None and c is None:
            return (None,) * 7
        saved = ctx.saved_tensors
        arguments, kept = saved[:4], saved[4:]
        if torch.is_grad_enabled():
            found = _second_composed(ctx.pairing, arguments, (a, b, c))
        else:
            positions, values = arguments[1], arguments[3]
            a = torch.zeros_like(positions) if a is None else a
            c = torch.zeros_like(values) if c is None else c
            found = _second(ctx.pairing, needed_inputs(ctx)[3:], arguments, kept, a, b, c)
        return None, None, None, *found


def _second(
    pairing: _Pairing, needed, arguments, kept, a: Tensor, b: Tensor | None, c: Tensor
) -> tuple[Tensor | None, ...]:
    """Derivatives of a . dx + b . dC + c . dW by G, x, C and W, if ``needed`` (four bools).

    b is there only where something follows from dC, which a training never does.
    """
    _, positions, coefficients, _ = arguments
    away, basis, kernel, sent, received, products, slope, force = kept
    matrix, heads = pairing.matrix(coefficients), len(kernel)
    if slope is None:  # no dx was asked for, and a is zero
        slope = coefficients @ matrix @ basis

    # (pairs,) and (heads, pairs): t, H, A t and K
    parted, moved = pairing.differences(a), _by_graph(c)
    along = (away * parted).sum(0)
    change = slope * along
    if b is not None:
        change.addmm_(b, basis)
    turned = products * along
    crossed = torch.bmm(received, moved.transpose(1, 2)).view_as(kernel)

    by_cotangent = by_positions = by_coefficients = by_values = None
    if needed[0]:
        heard = torch.bmm(_pairs_by_graph(change, sent), sent)
        heard.baddbmm_(_pairs_by_graph(kernel, sent), moved)
        by_cotangent = _by_atom(heard, heads)
    if needed[1]:
        pull = (coefficients @ matrix @ matrix @ basis).mul_(turned).addcmul_(crossed, slope)
        if b is not None:
            pull.addcmul_(products, b @ matrix @ basis)
        forces = away * pull.sum(0)
        forces = forces if force is None else forces.addcmul_(parted, force)
        by_positions = pairing.collected(forces, positions)
    if needed[2]:
        by_coefficients = torch.addmm(crossed @ basis.T, turned @ basis.T, matrix.T)
    if needed[3]:
        back = torch.bmm(_pairs_by_graph(change, sent).transpose(1, 2), received)
        by_values = _by_atom(back, heads)
    return by_cotangent, by_positions, by_coefficients, by_values


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
    squared, sent = pairing.differences(positions).square().sum(0), _by_graph(values)
    kernel = coefficients @ gaussian_powers(squared, coefficients.shape[1], pairing.scale)
    return _by_atom(torch.bmm(_pairs_by_graph(kernel, sent), sent), len(kernel))
