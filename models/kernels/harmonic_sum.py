"""The one heavy operation of the near field: the sum of messages over the edges of a node.

    out_i[m, r, c] = sum_{e: j -> i} Y_e[m] w_e[c] x_j[r, c]

m: components of a kernel (2 l + 1), r: rows of the features, c: channels. Written with edges, it
needs (edges, r, c) values several times over, in the value and in both derivatives that a network
trained on forces takes, and all time goes into moving them. Here it is one operation with all its
derivatives. They close on themselves: with the form

    T(G, Y, w, x) = sum_e sum_{m r c} G_i[m, r, c] Y_e[m] w_e[c] x_j[r, c],

linear in each argument, the sum is T without its G, its derivatives are T without Y, w or x, and
their derivatives are sums of T again. Each is evaluated chunk by chunk, a few receivers at a time
that stay in the processor's cache, and the sum over the slots of a receiver is one batched matrix
product (``edge_slots.py``). Nothing of size (edges, r, c) is ever made, nothing but the arguments
is kept.

Implementations (``KERNELS``):
    math               one fused weighted sum of DGL for each m (``graph_ops``); its derivatives
                       make (edges, r, c) tensors
    memory_efficient   the chunks above, in the type of the arguments: the same values
    flash              the chunks in bfloat16 (products are summed in float32, every sum is
                       rounded); logits, softmax and geometry are not touched. The relative error is
                       about 5e-3, in values and in derivatives, and energies are a staircase: a
                       potential with it has no conservative forces and runs no dynamics

Cost: edges x m x r x c multiply-adds for the value, three times as many for the first derivatives,
six times for the second. Measured by benchmarks/speed/bench_e2former_attention.py:
``memory_efficient`` takes three quarters of the memory of ``math`` and 0.5 to 0.9 of its time at 64
channels on 370 atoms; ``flash`` gains nothing on a CPU, where the chunks are cached anyway.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function

from farfield.models.choices import Registry
from farfield.models.graph_ops import weighted_sum
from farfield.models.kernels.edge_slots import EdgeSlots, ReceiverChunk
from farfield.models.kernels.edge_sums import traced_message_sum
from farfield.models.kernels.needed_gradients import needed_inputs
from farfield.models.tracing import is_tracing

# name -> (edges, harmonics (edges, m), weights (edges, channels), x (sources, rows, channels)) ->
# sums (targets, m, rows, channels)
Kernel = Callable[[EdgeSlots, Tensor, Tensor, Tensor], Tensor]
KERNELS: Registry[Kernel] = Registry("kernel")


@KERNELS.register("math")
def math_sum(edges: EdgeSlots, harmonics: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """The sums as one fused product of DGL for each component of the kernel."""
    # DGL's graph has as many nodes as there are sources or targets, whichever are more
    missing = edges.num_targets - edges.num_sources
    if missing > 0:
        x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, missing))
    parts = [
        weighted_sum(edges.graph, x, (weights * harmonic).unsqueeze(1))
        for harmonic in harmonics.split(1, 1)
    ]
    return torch.stack(parts, 1)[: edges.num_targets]


@KERNELS.register("memory_efficient")
def memory_efficient_sum(edges: EdgeSlots, harmonics: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """The sums chunk by chunk, in the type of the arguments."""
    if is_tracing():  # chunks depend on the edges
        return traced_message_sum(harmonics, weights, x, edges.src, edges.dst)
    return _Sum.apply(edges, x.dtype, harmonics, weights, x)


@KERNELS.register("flash")
def flash_sum(edges: EdgeSlots, harmonics: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """The sums chunk by chunk, with products in bfloat16."""
    return _Sum.apply(edges, torch.bfloat16, harmonics, weights, x)


class _Workspace:
    """Arguments of the form T as the chunks read them, and the contractions of one chunk.

    dtype: type of the products. x: features, for their shape and type. The results of a chunk are
    written over the results of the chunk before: new memory costs more than the arithmetic.
    """

    def __init__(self, edges: EdgeSlots, dtype: torch.dtype, x: Tensor):
        self.rows, self.channels = x.shape[1:]
        self.layout = edges.layout(self.rows * self.channels)
        self.dtype, self.type_of_results = dtype, x.dtype
        self.scratch = x.new_empty(0, dtype=dtype)
        self.largest = max((len(chunk.src) for chunk in self.layout.chunks), default=0)
        self.buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, slots: int) -> Tensor:
        """Memory (slots, rows, channels) that keeps its content until ``name`` is asked again."""
        if name not in self.buffers:
            self.buffers[name] = self.scratch.new_empty(self.largest, self.rows, self.channels)
        return self.buffers[name][:slots]

    def harmonics(self, values: Tensor) -> Tensor:
        """(edges, m) to (slots, m), zero in empty slots."""
        return self.layout.spread_filled(values.to(self.dtype))

    def weights(self, values: Tensor) -> Callable[[slice], Tensor]:
        """(edges, channels) as a function of slots, which gives (slots, 1, channels)."""
        values = values.to(self.dtype).unsqueeze(1)
        return lambda slots: self.layout.spread_some(values, slots)

    def features(self, x: Tensor) -> Tensor:
        """(sources, rows, channels), contiguous."""
        return x.to(self.dtype).contiguous()

    def sent(self, name: str, chunk: ReceiverChunk, features: Tensor) -> Tensor:
        """Features of the senders ``x_j``: (slots, rows, channels)."""
        return torch.index_select(features, 0, chunk.src, out=self.buffer(name, len(chunk.src)))

    def by_target(self, chunk: ReceiverChunk, values: Tensor) -> Tensor:
        """Values of slots (slots, ...) as (receivers, slots of one receiver, values of a slot)."""
        return values.view(chunk.targets.shape[0], chunk.size, -1)

    def back(self, name: str, chunk: ReceiverChunk, harmonics: Tensor, received: Tensor) -> Tensor:
        """``sum_m Y_e[m] G_i[m, r, c]``: (slots, rows, channels).

        received: G (receivers, m, rows channels).
        """
        out = self.buffer(name, len(chunk.src))
        torch.bmm(self.by_target(chunk, harmonics), received, out=self.by_target(chunk, out))
        return out

    def summed(self, chunk: ReceiverChunk, harmonics: Tensor, values: Tensor) -> Tensor:
        """``sum_e Y_e[m] z_e[r, c]`` of z (slots, rows, channels).

        Returns (receivers, m, rows channels).
        """
        by_slot = self.by_target(chunk, harmonics).transpose(1, 2)
        return torch.bmm(by_slot, self.by_target(chunk, values))

    def overlap(self, chunk: ReceiverChunk, values: Tensor, received: Tensor) -> Tensor:
        """``sum_rc z_e[r, c] G_i[m, r, c]`` of z (slots, rows, channels): (slots, m)."""
        return torch.bmm(self.by_target(chunk, values), received.transpose(1, 2)).flatten(0, 1)

    def zeros(self, values: Tensor, needed: bool) -> Tensor | None:
        """Where a gradient by the weights (edges, channels) is written, (slots, 1, channels)."""
        if not needed:
            return None
        return self.scratch.new_zeros(self.layout.num_slots, 1, values.shape[1])

    def of_edges(self, values: Tensor | None) -> Tensor | None:
        """A gradient of slots (slots, k) as a gradient of edges (edges, k), in the type of x."""
        return None if values is None else self.layout.collect(values).to(self.type_of_results)


def _zeros(like: Tensor, needed: bool) -> Tensor | None:
    """Where a gradient is written; None for one that nothing uses."""
    return torch.zeros_like(like) if needed else None


def _channels_of(by_weight: Tensor | None) -> Tensor | None:
    """(slots, 1, channels) as (slots, channels)."""
    return None if by_weight is None else by_weight.squeeze(1)


class _Sum(Function):
    """T without G."""

    @staticmethod
    def forward(ctx, edges, dtype, harmonics: Tensor, weights: Tensor, x: Tensor) -> Tensor:
        """(targets, m, rows, channels)."""
        ctx.edges, ctx.dtype = edges, dtype
        ctx.save_for_backward(harmonics, weights, x)

        work = _Workspace(edges, dtype, x)
        y, w, features = work.harmonics(harmonics), work.weights(weights), work.features(x)
        out = x.new_zeros(edges.num_targets, harmonics.shape[1], work.rows * work.channels)
        for chunk in work.layout.chunks:
            message = work.sent("message", chunk, features).mul_(w(chunk.slots))
            sums = work.summed(chunk, y[chunk.slots], message)
            out.index_copy_(0, chunk.targets, sums.to(x.dtype))
        return out.view(*out.shape[:2], work.rows, work.channels)

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        needed = needed_inputs(ctx)[2:]
        arguments = (cotangent, *ctx.saved_tensors)
        return None, None, *_Derivatives.apply(ctx.edges, ctx.dtype, needed, *arguments)


class _Derivatives(Function):
    """T without Y, without w and without x; None for each that ``needed`` (three bools) denies."""

    @staticmethod
    def forward(
        ctx, edges, dtype, needed, cotangent: Tensor, harmonics: Tensor, weights: Tensor, x: Tensor
    ) -> tuple[Tensor | None, ...]:
        """By Y (edges, m), by w (edges, channels), by x (sources, rows, channels)."""
        ctx.edges, ctx.dtype = edges, dtype
        ctx.save_for_backward(cotangent, harmonics, weights, x)

        work = _Workspace(edges, dtype, x)
        y, w, features = work.harmonics(harmonics), work.weights(weights), work.features(x)
        targets = cotangent.to(dtype).flatten(2)  # (targets, m, rows channels)
        by_harmonic, by_weight = _zeros(y, needed[0]), work.zeros(weights, needed[1])
        by_x = _zeros(x, needed[2])

        for chunk in work.layout.chunks:
            part, received = chunk.slots, targets.index_select(0, chunk.targets)
            weight = w(part)
            back = work.back("back", chunk, y[part], received)
            sent = work.sent("sent", chunk, features)

            # by w: sum_r x back;  by Y: sum_rc w x G;  by x: w back
            if by_weight is not None:
                both = torch.mul(sent, back, out=work.buffer("both", len(sent)))
                torch.sum(both, 1, keepdim=True, out=by_weight[part])
            if by_harmonic is not None:
                by_harmonic[part] = work.overlap(chunk, sent.mul_(weight), received)
            if by_x is not None:
                by_x.index_add_(0, chunk.src, back.mul_(weight).to(x.dtype))
        return work.of_edges(by_harmonic), work.of_edges(_channels_of(by_weight)), by_x

    @staticmethod
    def backward(
        ctx, d_harmonics: Tensor | None, d_weights: Tensor | None, d_x: Tensor | None
    ) -> tuple:
        tensors = (*ctx.saved_tensors, d_harmonics, d_weights, d_x)
        derive = _second_derivatives_composed if torch.is_grad_enabled() else _second_derivatives
        return None, None, None, *derive(ctx.edges, ctx.dtype, needed_inputs(ctx)[4:], *tensors)


def _second_derivatives(
    edges, dtype, needed, cotangent, harmonics, weights, x, d_harmonics, d_weights, d_x
) -> tuple[Tensor | None, ...]:
    """Derivatives of T(G, dY, w, x) + T(G, Y, dw, x) + T(G, Y, w, dx) by G, Y, w and x.

    dY, dw and dx are cotangents of the first derivatives, None where they are zero. Derivatives by
    Y, w and x are None where ``needed`` (three bools) denies them.
    """
    work = _Workspace(edges, dtype, x)
    y, w, features = work.harmonics(harmonics), work.weights(weights), work.features(x)
    dy = work.harmonics(torch.zeros_like(harmonics) if d_harmonics is None else d_harmonics)
    dw = work.weights(torch.zeros_like(weights) if d_weights is None else d_weights)
    d_features = None if d_x is None else work.features(d_x)
    targets = cotangent.to(dtype).flatten(2)  # (targets, m, rows channels)
    by_target = torch.zeros_like(targets, dtype=x.dtype)
    by_harmonic, by_weight = _zeros(y, needed[0]), work.zeros(weights, needed[1])
    by_x = _zeros(x, needed[2])

    for chunk in work.layout.chunks:
        part, received = chunk.slots, targets.index_select(0, chunk.targets)
        weight, d_weight = w(part), dw(part)
        back = work.back("back", chunk, y[part], received)
        d_back = work.back("d_back", chunk, dy[part], received)
        sent = work.sent("sent", chunk, features)

        # by w: sum_r (x d_back + dx back);  messages w dx + dw x
        both = torch.mul(sent, d_back, out=work.buffer("both", len(sent)))
        if d_features is None:
            d_message = torch.mul(sent, d_weight, out=work.buffer("d_sent", len(sent)))
        else:
            d_sent = work.sent("d_sent", chunk, d_features)
            both.addcmul_(d_sent, back)
            d_message = d_sent.mul_(weight).addcmul_(sent, d_weight)
        if by_weight is not None:
            torch.sum(both, 1, keepdim=True, out=by_weight[part])

        # by Y: sum_rc G (w dx + dw x)
        if by_harmonic is not None:
            by_harmonic[part] = work.overlap(chunk, d_message, received)

        # by G: sum_e Y (w dx + dw x) + dY w x
        into = work.summed(chunk, y[part], d_message)
        into = into + work.summed(chunk, dy[part], sent.mul_(weight))
        by_target.index_copy_(0, chunk.targets, into.to(x.dtype))

        # by x: w d_back + dw back
        if by_x is not None:
            by_x.index_add_(0, chunk.src, d_back.mul_(weight).addcmul_(back, d_weight).to(x.dtype))
    of_edges = work.of_edges(by_harmonic), work.of_edges(_channels_of(by_weight))
    return by_target.view_as(cotangent), *of_edges, by_x


def _second_derivatives_composed(
    edges, dtype, needed, cotangent, harmonics, weights, x, *changes
) -> tuple[Tensor | None, ...]:
    """The same as sums of the differentiable operations above, for derivatives of any order."""
    arguments = (harmonics, weights, x)
    totals: list[Tensor | None] = [None] * 4
    for place, change in enumerate(changes):
        if change is None:
            continue

        # T with one argument replaced by its change; it has no derivative by that argument
        changed = list(arguments)
        changed[place] = change
        others = tuple(use and at != place for at, use in enumerate(needed))
        by_target = _Sum.apply(edges, dtype, *changed)
        by_others = _Derivatives.apply(edges, dtype, others, cotangent, *changed)
        totals = [
            _plus(one, other) for one, other in zip(totals, (by_target, *by_others), strict=True)
        ]
    return tuple(totals)


def _plus(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Sum of two gradients, None where both are zero."""
    if one is None or other is None:
        return other if one is None else one
    return one + other
