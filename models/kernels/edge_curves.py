"""Layers of edges that read one number of each edge, and keep values and slopes alone.

    y_e = L_n(.. L_1(b(r_e), s_e)),      L(x) = silu(x W + c),      y'_e = dy_e/dr_e

with basis functions b of the length r and scalars s of each edge. Torch keeps every temporary, and
once more those of the derivative where forces are trained on: twenty values for each of y. Here
values and slopes come together (forward differentiation). For a cotangent G, forces need nothing
but <G_e, y'_e>. A gradient by the weights then runs the layers once more, for values and slopes at
once and a few edges at a time:

    h = x W + c          by h  = silu'(h) G + silu''(h) h' G'       G, G': cotangents of x, x' one
    h' = x' W            by h' = silu'(h) G'                        layer up
    by W = x^T (by h) + x'^T (by h'),      by x = (by h) W^T,      by x' = (by h') W^T

Cost: about that of torch. Memory: y, y', s and r.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import Function

from farfield.models.kernels.needed_gradients import needed_inputs

EDGES_PER_CHUNK = 1 << 13

Basis = Callable[[Tensor], Tensor]
Cotangents = tuple[Tensor | None, Tensor | None]  # of values and of slopes


def silu_curves(
    basis: Basis, lengths: Tensor, scalars: Tensor, layers: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """``silu`` layers of ``cat([basis(lengths), scalars])``: (edges, outputs of the last layer).

    basis: (edges,) -> (edges, k), each edge for itself, without weights. scalars (edges, s), s >=
    0. layers: matrix (outputs, inputs) and shift (outputs,) of each, as ``nn.Linear`` has them.
    Differentiable to any order in all of them; beyond training on forces temporaries are kept.
    """
    # views: of a leaf a gradient would be computed whether it is needed or not
    arguments = [lengths, scalars, *(one for layer in layers for one in layer)]
    return _Curves.apply(basis, *(one.view_as(one) for one in arguments))[0]


class _Curves(Function):
    """Values and slopes (edges, k); arguments: basis, lengths, scalars, weights in a row."""

    @staticmethod
    def forward(ctx, basis: Basis, lengths: Tensor, scalars: Tensor, *weights: Tensor) -> tuple:
        """Chunk by chunk, each (edges, outputs of the last layer)."""
        ctx.basis = basis
        ctx.set_materialize_grads(False)
        values = lengths.new_empty(len(lengths), len(weights[-1]))
        slopes = torch.empty_like(values)
        for rows in _chunks(lengths):
            inputs = _Inputs.of(basis, lengths[rows], scalars[rows])
            *_, last = _forward(inputs, weights)
            torch.mul(last.h, last.sigmoid, out=values[rows])
            torch.mul(last.slope, last.dh, out=slopes[rows])
        ctx.save_for_backward(slopes, lengths, scalars, *weights)
        return values, slopes

    @staticmethod
    def backward(ctx, by_value: Tensor | None, by_slope: Tensor | None) -> tuple:
        """(None, one gradient per tensor): None where none is needed."""
        needed = needed_inputs(ctx)[1:]
        slopes, *given = ctx.saved_tensors
        found: list[Tensor | None] = [None] * len(given)

        if any(needed[1:]) or (needed[0] and by_slope is not None):
            # to train is to ask for no graph, and for no gradient by the lengths
            derive = _gradients
            if needed[0] and by_slope is not None:
                derive = _gradients_by_torch
            if torch.is_grad_enabled():
                derive = _gradients_with_graph
            found = derive(ctx.basis, given, needed, (by_value, by_slope))

        # slopes are an output of this function: what is made of them can be differentiated again
        if needed[0] and by_value is not None:
            along = torch.linalg.vecdot(by_value, slopes)
            found[0] = along if found[0] is None else found[0] + along
        return None, *found


def _chunks(lengths: Tensor) -> list[slice]:
    """Edges of each chunk."""
    starts = range(0, len(lengths), EDGES_PER_CHUNK)
    return [slice(start, start + EDGES_PER_CHUNK) for start in starts]


def _with_slopes(curves: Basis, lengths: Tensor, create_graph: bool) -> tuple[Tensor, Tensor]:
    """Values and slopes (edges, k) of functions of each length (edges,), which needs a gradient.

    sum_k v_k y'_k is a backward pass, and its gradient by v is y'.
    """
    with torch.enable_grad():
        values = curves(lengths)
        along = torch.ones_like(values).requires_grad_(True)
        (sums,) = torch.autograd.grad(values, lengths, along, create_graph=True)
        (slopes,) = torch.autograd.grad(sums.sum(), along, create_graph=create_graph)
    return values, slopes


@dataclasses.dataclass
class _Inputs:
    """Inputs of the first layer: x (edges, k + s), and x' (edges, k) of the basis alone."""

    x: Tensor
    dx: Tensor

    @classmethod
    def of(cls, basis: Basis, lengths: Tensor, scalars: Tensor) -> _Inputs:
        """Values and slopes of the basis, and the scalars behind them."""
        values, slopes = _with_slopes(basis, lengths.detach().requires_grad_(True), False)
        return cls(torch.cat([values.detach(), scalars], 1), slopes)


@dataclasses.dataclass
class _Layer:
    """h = x W + c and h' = x' W of one layer, and silu of them.

    weight (outputs, inputs). x, dx: what it reads. h, dh (edges, outputs). sigmoid of h; slope:
    silu'(h).
    """

    weight: Tensor
    x: Tensor
    dx: Tensor
    h: Tensor
    dh: Tensor
    sigmoid: Tensor
    slope: Tensor

    @classmethod
    def of(cls, weight: Tensor, shift: Tensor, x: Tensor, dx: Tensor) -> _Layer:
        """Of inputs x (edges, inputs), and x' of the first ones alone; the others have none."""
        h = torch.addmm(shift, x, weight.T)
        dh = dx @ weight.T[: dx.shape[1]]
        sigmoid = torch.sigmoid(h)
        # silu' = s + h s (1 - s)
        slope = torch.addcmul(sigmoid, h, sigmoid).addcmul_(h, sigmoid.square(), value=-1)
        return cls(weight, x, dx, h, dh, sigmoid, slope)

    def bend(self) -> Tensor:
        """``silu''(h) = s (1 - s) (2 + h (1 - 2 s))``."""
        steep = torch.addcmul(self.sigmoid, self.sigmoid, self.sigmoid, value=-1)
        return torch.addcmul(self.h, self.h, self.sigmoid, value=-2).add_(2).mul_(steep)


def _forward(inputs: _Inputs, weights: Sequence[Tensor]) -> list[_Layer]:
    """All layers of some edges."""
    layers: list[_Layer] = []
    x, dx = inputs.x, inputs.dx
    for weight, shift in zip(weights[::2], weights[1::2], strict=True):
        if layers:
            last = layers[-1]
            x, dx = last.h * last.sigmoid, last.slope * last.dh
        layers.append(_Layer.of(weight, shift, x, dx))
    return layers


def _gradients(
    basis: Basis, given: Sequence[Tensor], needed: Sequence[bool], by: Cotangents
) -> list[Tensor | None]:
    """Gradients of <G, y> + <G', y'> by scalars and weights, chunk by chunk."""
    lengths, scalars, *weights = given
    by_scalars = torch.zeros_like(scalars) if needed[1] else None
    totals = [torch.zeros_like(weight) for weight in weights]

    for rows in _chunks(lengths):
        layers = _forward(_Inputs.of(basis, lengths[rows], scalars[rows]), weights)
        like = layers[-1].h
        by_x, by_dx = (torch.zeros_like(like) if one is None else one[rows] for one in by)
        for place, layer in reversed(list(enumerate(layers))):
            # by h = silu' G + silu'' h' G',  by h' = silu' G'
            by_h = layer.bend().mul_(layer.dh).mul_(by_dx).addcmul_(layer.slope, by_x)
            by_dh = layer.slope.mul_(by_dx)

            # slopes of scalars are zero
            totals[2 * place].addmm_(by_h.T, layer.x)
            totals[2 * place][:, : layer.dx.shape[1]].addmm_(by_dh.T, layer.dx)
            totals[2 * place + 1].add_(by_h.sum(0))
            if place:
                by_x, by_dx = by_h @ layer.weight, by_dh @ layer.weight
        if by_scalars is not None:
            width = layers[0].dx.shape[1]
            torch.mm(by_h, layers[0].weight[:, width:], out=by_scalars[rows])
    found = [total if use else None for total, use in zip(totals, needed[2:], strict=True)]
    return [None, by_scalars, *found]


def _gradients_by_torch(
    basis: Basis, given: Sequence[Tensor], needed: Sequence[bool], by: Cotangents
) -> list[Tensor | None]:
    """Gradients of <G, y(r0)> + <G', y'(r)> chunk by chunk, those by lengths among them."""
    found = [torch.zeros_like(one) if use else None for one, use in zip(given, needed, strict=True)]
    for rows in _chunks(given[0]):
        part = [one[rows] if place < 2 else one for place, one in enumerate(given)]
        leaves = [one.detach().requires_grad_() for one in part]
        along = tuple(None if one is None else one[rows] for one in by)
        gradients = _gradients_with_graph(basis, leaves, needed, along)
        for place, gradient in enumerate(gradients):
            if gradient is not None:
                total = found[place]
                (total[rows] if place < 2 else total).add_(gradient)
    return found


def _gradients_with_graph(
    basis: Basis, given: Sequence[Tensor], needed: Sequence[bool], by: Cotangents
) -> list[Tensor | None]:
    """Gradients of <G, y(r0)> + <G', y'(r)> with a graph where one is asked for, all edges at once.

    r0: the lengths held fixed; the gradient by them is <G, y'>.
    """
    is_differentiated = torch.is_grad_enabled()
    lengths, *others = given
    with torch.enable_grad():
        # one argument may be computed from another, but no view is
        others = [one.view_as(one) for one in others]
        if not lengths.requires_grad:
            lengths = lengths.detach().requires_grad_(True)
        lengths = lengths.view_as(lengths)

    def curves(r: Tensor) -> Tensor:
        x = torch.cat([basis(r), others[0]], 1)
        for weight, shift in zip(others[1::2], others[2::2], strict=True):
            x = torch.nn.functional.silu(torch.nn.functional.linear(x, weight, shift))
        return x

    values, slopes = _with_slopes(curves, lengths, True)

    def derived(pairs: list[tuple[Tensor, Tensor | None]], by_what: list[Tensor]) -> list:
        """Gradients of what has a graph."""
        pairs = [(of, along) for of, along in pairs if along is not None and of.requires_grad]
        if not pairs or not by_what:
            return [None] * len(by_what)
        of, along = zip(*pairs, strict=True)
        options = {"create_graph": is_differentiated, "retain_graph": True, "allow_unused": True}
        return list(torch.autograd.grad(of, by_what, along, **options))

    by_value, by_slope = by
    by_length = derived([(slopes, by_slope)], [lengths]) if needed[0] else [None]
    chosen = [one for one, use in zip(others, needed[1:], strict=True) if use]
    found = iter(derived([(values, by_value), (slopes, by_slope)], chosen))
    return [*by_length, *(next(found) if use else None for use in needed[1:])]
