"""Weights of the public package equiformer-pytorch 0.5.4 as weights of ours.

The function is the same with ``PUBLIC_CHOICES``: kernels for each pair of degrees with both
parities, no envelope, no smoothing, the published activation. What differs is the order of some
channels: keys and values of a head alternate there, and the length of an edge comes last.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.near_field.equiformer_attention import EquiformerAttention
from farfield.models.near_field.fiber_convolution import PairwiseConvolution
from farfield.models.networks.equiformer import Equiformer

PUBLIC_CHOICES = {
    "edge_kernel": "pairwise",
    "handed": True,
    "envelope": "none",
    "norm_epsilon": 1e-20,
    "attn_activation": "leaky_relu",
}
Kernels = dict[str, Tensor]  # "(in,out)" -> (2 min(in, out) + 1, 2 min(in, out) + 1)


@torch.no_grad()
def copy_public_weights(public: nn.Module, ours: Equiformer) -> None:
    """Give ``ours``, built with the same options and ``PUBLIC_CHOICES``, the weights of theirs."""
    for name in ("token_emb", "pos_emb", "edge_emb"):
        if getattr(public, name) is not None:
            getattr(ours, name).load_state_dict(getattr(public, name).state_dict())

    kernels, layers = public.basis, ours.layers
    _copy_convolution(public.tp_in, layers.embed, kernels)
    _copy_linear(public.tp_in.self_interact, layers.embed_own)
    for block, (attention, feed_forward) in zip(
        public.layers.blocks, layers.layers.pairs, strict=True
    ):
        theirs = (block.f.net, block.g.net) if hasattr(block, "f") else block
        _copy_attention(theirs[0], attention.attention, kernels)
        _copy_feed_forward(theirs[1], feed_forward.network)
    _copy_norm(public.norm, layers.norm)

    if public.ff_out is not None:
        copy = _copy_linear if ours.options.linear_out else _copy_feed_forward
        copy(public.ff_out, ours.out)


def _copy_linear(public: nn.Module, ours: nn.Module) -> None:
    for weight, source in zip(ours.weights, public.weights, strict=True):
        weight.copy_(source)


def _copy_norm(public: nn.Module, ours: nn.Module) -> None:
    for scale, source in zip(ours.scales, public.transforms, strict=True):
        scale.copy_(source[:, 0])


def _copy_feed_forward(public: nn.Module, ours: nn.Module) -> None:
    _copy_norm(public.prenorm, ours.norm)
    _copy_linear(public.project_in, ours.expand)
    _copy_linear(public.project_out, ours.reduce)


def _keys_first(weight: Tensor, heads: int) -> Tensor:
    """Outputs (inputs, heads (key, value)) -> (inputs, all keys and then all values)."""
    return weight.unflatten(-1, (heads, 2, -1)).transpose(-3, -2).flatten(-3)


def _copy_out(sources, targets, heads: tuple[int, ...] | None) -> None:
    """Last maps of all degrees; heads: of keys and values where these come out."""
    for l, (weight, source) in enumerate(zip(targets, sources, strict=True)):
        weight.copy_(source if heads is None else _keys_first(source, heads[l]))


def _copy_convolution(
    public: nn.Module,
    ours: PairwiseConvolution,
    kernels: Kernels,
    heads: tuple[int, ...] | None = None,
) -> None:
    _copy_linear(public.to_xi, ours.receiver)
    _copy_linear(public.to_xj, ours.sender)
    for target, pairs in enumerate(ours.pairs):
        for source, pair in enumerate(pairs):
            pair_name = f"({source},{target})"
            _copy_radial(public.kernel_unary[pair_name].rp, pair.radial)

            # row m of a kernel: even columns multiply x_m, odd ones x_-m
            kernel, m = kernels.get(pair_name), pair.order
            if kernel is None:
                pair.even.fill_(1.0)
            else:
                pair.even.copy_(kernel[m:, 0::2].sum(1))
                pair.odd.copy_(kernel[m + 1 :, 1::2].sum(1))
    _copy_out(public.to_out.weights, ours.out, heads)


def _copy_radial(public: nn.Sequential, ours: nn.Sequential) -> None:
    """Linear, SiLU, norm, linear, SiLU, norm, linear."""
    for place in (0, 3, 6):
        weight = public[place].weight
        # edge features stand before the length there, behind it here
        ours[place].weight.copy_(weight.roll(1, 1) if place == 0 else weight)
        ours[place].bias.copy_(public[place].bias)
    for place in (2, 5):
        ours[place].weight.copy_(public[place].gamma)


def _copy_attention(public: nn.Module, ours: EquiformerAttention, kernels: Kernels) -> None:
    _copy_norm(public.prenorm, ours.norm)
    reading, heads = ours.reading, None
    if hasattr(public, "to_kv"):
        product, heads = public.to_kv, ours.sizes.value_heads
        _copy_linear(public.to_q, reading.query)
    else:
        product = public.to_attn_and_v
        _copy_linear(public.to_values[1], reading.value)
        for score, source in zip(reading.score, public.to_attn_logits, strict=True):
            score.weight.copy_(source[1].weight)

    _copy_convolution(product, reading.convolution, kernels, heads)
    if product.self_interaction:
        _copy_out(product.self_interact.weights, reading.own.weights, heads)
    if public.attn_head_gates is not None:
        ours.gates.load_state_dict(public.attn_head_gates[1].state_dict())
    if public.has_linear_attn:
        _copy_global_heads(public.linear_attn, ours.everywhere)
    _copy_linear(public.to_out, ours.out)


def _copy_global_heads(public: nn.Module, ours: nn.Module) -> None:
    """Linear attention; each map is the first layer of a sequence there."""
    weights = public.state_dict()
    ours.load_state_dict({name.replace(".0.", "."): w for name, w in weights.items()})
