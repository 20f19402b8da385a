"""Sums over edges as single operations of a compiled network.

    message_sum         out[i, m, r, c] = sum_{e: j -> i} Y[e, m] w[e, c] x[j, r, c]
    message_slopes      its derivatives by Y, w and x, given the cotangent G of out
    message_curvatures  derivatives of the slopes by G, Y, w and x, given their cotangents
    sum_rows            out[n, k] = sum_{e: index[e] = n} values[e, k]

A compiler of tensor programs turns these sums into loops with the wrong innermost index, and
computes whatever feeds them again in every turn. So a compiled network (``models/compiled``) calls
``edge_sums.cpp``, which states the formulas as loops. The forms of torch in this file define what
the C++ has to give; they run where a trace is tried out on numbers.

Cost: linear in edges.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import Function

from farfield.models.tracing import NotTraceableError

SOURCE = Path(__file__).with_suffix(".cpp")
HARMONICS = (1, 3, 4, 5, 7, 9, 16, 25)  # numbers of components of Y that the C++ has loops for


@torch.library.custom_op("farfield::message_sum", mutates_args=())
def _message_sum(y: Tensor, w: Tensor, x: Tensor, src: Tensor, dst: Tensor) -> Tensor:
    messages = y[:, :, None, None] * (w.unsqueeze(1) * x[src]).unsqueeze(1)
    return x.new_zeros(x.shape[0], *messages.shape[1:]).index_add(0, dst, messages)


@_message_sum.register_fake
def _(y, w, x, src, dst):
    return x.new_empty(x.shape[0], y.shape[1], x.shape[1], x.shape[2])


@torch.library.custom_op("farfield::message_slopes", mutates_args=())
def _message_slopes(
    g: Tensor, y: Tensor, w: Tensor, x: Tensor, src: Tensor, dst: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    sent, back = x[src], torch.einsum("em,emrc->erc", y, g[dst])
    by_y = torch.einsum("emrc,ec,erc->em", g[dst], w, sent)
    by_x = torch.zeros_like(x).index_add(0, src, w.unsqueeze(1) * back)
    return by_y, (back * sent).sum(1), by_x


@_message_slopes.register_fake
def _(g, y, w, x, src, dst):
    return y.new_empty(y.shape), w.new_empty(w.shape), x.new_empty(x.shape)


@torch.library.custom_op("farfield::message_curvatures", mutates_args=())
def _message_curvatures(
    g: Tensor,
    y: Tensor,
    w: Tensor,
    x: Tensor,
    src: Tensor,
    dst: Tensor,
    dy: Tensor,
    dw: Tensor,
    dx: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # the slopes of T(G, dY, w, x) + T(G, Y, dw, x) + T(G, Y, w, dx)
    changed = [(dy, w, x), (y, dw, x), (y, w, dx)]
    by_g = sum(_message_sum(*arguments, src, dst) for arguments in changed)
    slopes = [_message_slopes(g, *arguments, src, dst) for arguments in changed]

    # each term has no slope by what its change stands for
    by_y, by_w, by_x = (
        sum(one[place] for term, one in enumerate(slopes) if term != place) for place in range(3)
    )
    return by_g, by_y, by_w, by_x


@_message_curvatures.register_fake
def _(g, y, w, x, src, dst, dy, dw, dx):
    return tuple(like.new_empty(like.shape) for like in (g, y, w, x))


@torch.library.custom_op("farfield::sum_rows", mutates_args=())
def _sum_rows(values: Tensor, index: Tensor, count: int) -> Tensor:
    return values.new_zeros(count, values.shape[1]).index_add(0, index, values)


@_sum_rows.register_fake
def _(values, index, count):
    return values.new_empty(count, values.shape[1])


MESSAGE_SUM = torch.ops.farfield.message_sum.default
MESSAGE_SLOPES = torch.ops.farfield.message_slopes.default
MESSAGE_CURVATURES = torch.ops.farfield.message_curvatures.default
SUM_ROWS = torch.ops.farfield.sum_rows.default

_TENSOR = "AtenTensorHandle {}"
_OUT = "AtenTensorHandle* {}"


def _declaration(name: str, *arguments: str) -> list[str]:
    return [f"AOTITorchError aoti_torch_cpu_{name}({', '.join(arguments)})"]


# the functions of the C++ file, as a compiled network declares them
DECLARATIONS = {
    MESSAGE_SUM: _declaration(
        "message_sum", *map(_TENSOR.format, ("y", "w", "x", "src", "dst")), _OUT.format("out")
    ),
    MESSAGE_SLOPES: _declaration(
        "message_slopes",
        *map(_TENSOR.format, ("g", "y", "w", "x", "src", "dst")),
        *map(_OUT.format, ("by_y", "by_w", "by_x")),
    ),
    MESSAGE_CURVATURES: _declaration(
        "message_curvatures",
        *map(_TENSOR.format, ("g", "y", "w", "x", "src", "dst", "dy", "dw", "dx")),
        *map(_OUT.format, ("by_g", "by_y", "by_w", "by_x")),
    ),
    SUM_ROWS: _declaration(
        "sum_rows",
        _TENSOR.format("values"),
        _TENSOR.format("index"),
        "int64_t count",
        _OUT.format("out"),
    ),
}


class _MessageSum(Function):
    """``message_sum``, differentiable twice."""

    @staticmethod
    def forward(ctx, y: Tensor, w: Tensor, x: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """(nodes, m, rows, channels)."""
        ctx.save_for_backward(y, w, x, src, dst)
        return MESSAGE_SUM(y, w, x, src, dst)

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        """By Y, w and x."""
        return *_MessageSlopes.apply(cotangent.contiguous(), *ctx.saved_tensors), None, None


class _MessageSlopes(Function):
    """``message_slopes``, differentiable once."""

    @staticmethod
    def forward(ctx, g: Tensor, *arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By Y (edges, m), w (edges, channels) and x (nodes, rows, channels)."""
        ctx.save_for_backward(g, *arguments)
        return MESSAGE_SLOPES(g, *arguments)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *changes: Tensor) -> tuple:
        """By G, Y, w and x."""
        changes = [change.contiguous() for change in changes]
        return *MESSAGE_CURVATURES(*ctx.saved_tensors, *changes), None, None


def traced_message_sum(y: Tensor, w: Tensor, x: Tensor, src: Tensor, dst: Tensor) -> Tensor:
    """The sum of messages, differentiable twice: (nodes, m, rows, channels).

    y (edges, m), m in :data:`HARMONICS`; w (edges, channels); x (nodes, rows, channels); src and
    dst (edges,), receivers among the nodes. Fastest on edges sorted by receiver. Raises
    :class:`NotTraceableError` for another m.
    """
    if y.shape[1] not in HARMONICS:
        raise NotTraceableError(f"sums with {y.shape[1]} components of the kernel")
    # copies are made out here: derivatives of the slopes have to reach what was copied
    return _MessageSum.apply(y.contiguous(), w.contiguous(), x.contiguous(), src, dst)
