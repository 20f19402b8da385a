"""The one heavy operation of the near field: over the edges of a node, the sum of weight x harmonic
x source features.

    out_i[m, r, c] = sum_{e: j -> i} Y_e[m] w_e[c] x_j[r, c]

m: components of a kernel (2 l + 1), r: rows of the features, c: channels. Written with edges, it
needs (edges, r, c) numbers several times over, in the value and in both derivatives that a network
trained on forces takes, and all time goes into moving them. Here it is one operation with all its
derivatives. They close on themselves: with the form

    T(G, Y, w, x) = sum_e sum_{m r c} G_i[m, r, c] Y_e[m] w_e[c] x_j[r, c],

linear in each argument, the sum is T without its G, its derivatives are T without Y, w or x, and
theirs are sums of T again. Each is evaluated chunk by chunk, a few receivers at a time that stay in
the processor's cache, and the sum over the slots of a receiver is one batched matrix product
(``neighbourhoods.py``). Nothing of size (edges, r, c) is ever made, nothing but the arguments is
kept.

Implementations (``KERNELS``):
    math               one fused weighted sum of DGL for each m (``graph_ops``); its derivatives
                       make (edges, r, c) tensors
    memory_efficient   the chunks above, in the type of the arguments: the same numbers
    flash              the chunks in bfloat16 (products are summed in float32, every sum is
                       rounded); logits, softmax and geometry are not touched. The relative error is
                       about 5e-3, in values and in derivatives, so forces and energies disagree by
                       as much
Cost: edges x m x r x c multiply-adds for the value, three times that for the first derivatives, six
times for the second. Measured by benchmarks/speed/bench_e2former_attention.py: three quarters of
the memory of ``math`` and 0.5 to 0.9 of its time at 64 channels on 370 atoms; ``flash`` gains
nothing on a CPU, where the chunks are cached anyway.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from farfield.models.graph_ops import weighted_sum
from farfield.models.kernels.edge_slots import EdgeSlots, ReceiverChunk
from farfield.models.kernels.needed_gradients import needed_inputs


def math_sum(edges: EdgeSlots, harmonics: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """Sums (targets, m, rows, channels) of harmonics (edges, m), weights (edges, channels), x
    (sources, rows, channels).
    """
    missing = edges.num_targets - edges.num_sources
    if missing > 0:
        x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, missing))
    parts = [
        weighted_sum(edges.graph, x, (weights * harmonic).unsqueeze(1))
        for harmonic in harmonics.split(1, 1)
    ]
    return torch.stack(parts, 1)[: edges.num_targets]


def memory_efficient_sum(edges: EdgeSlots, harmonics: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """The same sums, chunk by chunk, in the type of the arguments."""
    return _Sum.apply(edges, x.dtype, harmonics, weights, x)


def flash_sum(edges: EdgeSlots, harmonics: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """The same sums, chunk by chunk, with products in bfloat16."""
    return _Sum.apply(edges, torch.bfloat16, harmonics, weights, x)


KERNELS = {"math": math_sum, "memory_efficient": memory_efficient_sum, "flash": flash_sum}


class _Slots:
    """Arguments of the form T as the chunks read them, in the type of the products, and the
    contractions of one chunk.

    Results of a chunk are written over those of the chunk before: fresh memory costs more than the
    arithmetic.
    """

    def __init__(self, edges: EdgeSlots, dtype: torch.dtype, x: Tensor):
        self.rows, self.channels = x.shape[1:]
        self.layout, self.dtype, self.type_of_results = (
            edges.layout(self.rows * self.channels),
            dtype,
            x.dtype,
        )
        self.scratch = x.new_empty(0, dtype=dtype)
        self.largest = max((len(chunk.src) for chunk in self.layout.chunks), default=0)
        self.buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, slots: int) -> Tensor:
        """Memory (slots, rows, channels) that keeps its content until the name is asked for
        again.
        """
        if name not in self.buffers:
            self.buffers[name] = self.scratch.new_empty(self.largest, self.rows, self.channels)
        return self.buffers[name][:slots]

    def harmonics(self, values: Tensor) -> Tensor:
        """(edges, m) to (slots, m), zero in empty slots."""
        return self.layout.spread_filled(values.to(self.dtype))

    def weights(self, values: Tensor) -> Tensor:
        """(edges, channels) to (slots, 1, channels)."""
        return self.layout.spread(values.to(self.dtype)).unsqueeze(1)

    def features(self, x: Tensor) -> Tensor:
        """(sources, rows, channels), contiguous."""
        return x.to(self.dtype).contiguous()

    def sent(self, name: str, chunk: ReceiverChunk, features: Tensor) -> Tensor:
        """Features of the senders (slots, rows, channels)."""
        return torch.index_select(features, 0, chunk.src, out=self.buffer(name, len(chunk.src)))

    def by_target(self, chunk: ReceiverChunk, values: Tensor) -> Tensor:
        """Values of slots (slots, ...) as (receivers, slots of one, numbers)."""
        return values.view(chunk.targets.shape[0], chunk.size, -1)

    def products(
        self, name: str, chunk: ReceiverChunk, harmonics: Tensor, received: Tensor
    ) -> Tensor:
        """``sum_m Y_e[m] G_i[m, r, c]`` of received (receivers, m, rows channels): (slots, rows,
        channels).
        """
        out = self.buffer(name, len(chunk.src))
        torch.bmm(self.by_target(chunk, harmonics), received, out=self.by_target(chunk, out))
        return out

    def contracted(self, chunk: ReceiverChunk, harmonics: Tensor, values: Tensor) -> Tensor:
        """``sum_e Y_e[m] z_e[r, c]`` of (slots, rows, channels): (receivers, m, rows channels)."""
        return torch.bmm(
            self.by_target(chunk, harmonics).transpose(1, 2), self.by_target(chunk, values)
        )

    def overlap(self, chunk: ReceiverChunk, values: Tensor, received: Tensor) -> Tensor:
        """``sum_rc z_e[r, c] G_i[m, r, c]``: (slots, m)."""
        return torch.bmm(self.by_target(chunk, values), received.transpose(1, 2)).flatten(0, 1)

    def by_edge(
        self, harmonics: Tensor | None, weights: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of slots, (slots, m) and (slots, 1, channels), as those of edges in the type of
        the features.
        """
        found = (harmonics, None if weights is None else weights.squeeze(1))
        return tuple(
            None if part is None else self.layout.collect(part).to(self.type_of_results)
            for part in found
        )


class _Sum(Function):
    """T without G."""

    @staticmethod
    def forward(ctx, edges, dtype, harmonics: Tensor, weights: Tensor, x: Tensor) -> Tensor:
        """(targets, m, rows, channels)."""
        ctx.edges, ctx.dtype = edges, dtype
        ctx.save_for_backward(harmonics, weights, x)
        slots = _Slots(edges, dtype, x)
        y, w, features = slots.harmonics(harmonics), slots.weights(weights), slots.features(x)
        out = x.new_zeros(edges.num_targets, harmonics.shape[1], slots.rows * slots.channels)
        for chunk in slots.layout.chunks:
            message = slots.sent("message", chunk, features).mul_(w[chunk.slots])
            out.index_copy_(
                0, chunk.targets, slots.contracted(chunk, y[chunk.slots], message).to(x.dtype)
            )
        return out.view(*out.shape[:2], slots.rows, slots.channels)

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        harmonics, weights, x = ctx.saved_tensors
        wanted = needed_inputs(ctx)[2:]
        return (
            None,
            None,
            *_Derivatives.apply(ctx.edges, ctx.dtype, wanted, cotangent, harmonics, weights, x),
        )


class _Derivatives(Function):
    """T without Y, without w and without x; None for those that ``wanted`` (three truths) leaves
    out: constants need no derivative.
    """

    @staticmethod
    def forward(
        ctx, edges, dtype, wanted, cotangent: Tensor, harmonics: Tensor, weights: Tensor, x: Tensor
    ) -> tuple[Tensor | None, ...]:
        """(edges, m), (edges, channels), (sources, rows, channels)."""
        ctx.edges, ctx.dtype = edges, dtype
        ctx.save_for_backward(cotangent, harmonics, weights, x)
        slots = _Slots(edges, dtype, x)
        y, w, features = slots.harmonics(harmonics), slots.weights(weights), slots.features(x)
        targets = cotangent.to(dtype).flatten(2)
        by_harmonic, by_weight, by_x = (
            torch.zeros_like(like) if use else None
            for like, use in zip((y, w, x), wanted, strict=True)
        )
        for chunk in slots.layout.chunks:
            part, received = chunk.slots, targets.index_select(0, chunk.targets)
            back = slots.products("back", chunk, y[part], received)
            sent = slots.sent("sent", chunk, features)
            if by_weight is not None:
                torch.sum(
                    torch.mul(sent, back, out=slots.buffer("both", len(sent))),
                    1,
                    keepdim=True,
                    out=by_weight[part],
                )
            if by_harmonic is not None:
                by_harmonic[part] = slots.overlap(chunk, sent.mul_(w[part]), received)
            if by_x is not None:
                by_x.index_add_(0, chunk.src, back.mul_(w[part]).to(x.dtype))
        return *slots.by_edge(by_harmonic, by_weight), by_x

    @staticmethod
    def backward(
        ctx, d_harmonics: Tensor | None, d_weights: Tensor | None, d_x: Tensor | None
    ) -> tuple:
        tensors = (*ctx.saved_tensors, d_harmonics, d_weights, d_x)
        derive = _second_derivatives_composed if torch.is_grad_enabled() else _second_derivatives
        return None, None, None, *derive(ctx.edges, ctx.dtype, needed_inputs(ctx)[4:], *tensors)


def _second_derivatives(
    edges, dtype, wanted, cotangent, harmonics, weights, x, d_harmonics, d_weights, d_x
) -> tuple[Tensor | None, ...]:
    """Derivatives of T(G, dY, w, x) + T(G, Y, dw, x) + T(G, Y, w, dx) by G, Y, w and x. dY, dw and
    dx are cotangents of the first derivatives, None where they are zero; those by Y, w and x are
    None unless wanted.
    """
    slots = _Slots(edges, dtype, x)
    y, dy = (
        slots.harmonics(harmonics),
        slots.harmonics(torch.zeros_like(harmonics) if d_harmonics is None else d_harmonics),
    )
    w, dw = (
        slots.weights(weights),
        slots.weights(torch.zeros_like(weights) if d_weights is None else d_weights),
    )
    features, d_features = slots.features(x), None if d_x is None else slots.features(d_x)
    targets = cotangent.to(dtype).flatten(2)
    by_target = torch.zeros_like(targets, dtype=x.dtype)
    by_harmonic, by_weight, by_x = (
        torch.zeros_like(like) if use else None for like, use in zip((y, w, x), wanted, strict=True)
    )
    for chunk in slots.layout.chunks:
        part, received = chunk.slots, targets.index_select(0, chunk.targets)
        back = slots.products("back", chunk, y[part], received)
        d_back = slots.products("d_back", chunk, dy[part], received)
        sent = slots.sent("sent", chunk, features)
        both = torch.mul(sent, d_back, out=slots.buffer("both", len(sent)))
        if d_features is None:
            d_message = torch.mul(sent, dw[part], out=slots.buffer("d_sent", len(sent)))
        else:
            d_sent = slots.sent("d_sent", chunk, d_features)
            both.addcmul_(d_sent, back)
            d_message = d_sent.mul_(w[part]).addcmul_(sent, dw[part])
        if by_weight is not None:
            torch.sum(both, 1, keepdim=True, out=by_weight[part])
        if by_harmonic is not None:
            by_harmonic[part] = slots.overlap(chunk, d_message, received)
        into = slots.contracted(chunk, y[part], d_message) + slots.contracted(
            chunk, dy[part], sent.mul_(w[part])
        )
        by_target.index_copy_(0, chunk.targets, into.to(x.dtype))
        if by_x is not None:
            by_x.index_add_(0, chunk.src, d_back.mul_(w[part]).addcmul_(back, dw[part]).to(x.dtype))
    return by_target.view_as(cotangent), *slots.by_edge(by_harmonic, by_weight), by_x


def _second_derivatives_composed(
    edges, dtype, wanted, cotangent, harmonics, weights, x, *changes
) -> tuple[Tensor | None, ...]:
    """The same as sums of the differentiable operations above, for derivatives of any order."""
    arguments = (harmonics, weights, x)
    totals: list[Tensor | None] = [None] * 4
    for place, change in enumerate(changes):
        if change is None:
            continue
        changed = tuple(
            change if at == place else argument for at, argument in enumerate(arguments)
        )
        others = tuple(use and at != place for at, use in enumerate(wanted))
        parts = (
            _Sum.apply(edges, dtype, *changed),
            *_Derivatives.apply(edges, dtype, others, cotangent, *changed),
        )
        totals = [
            one if other is None else other if one is None else one + other
            for one, other in zip(totals, parts, strict=True)
        ]
    return tuple(totals)
