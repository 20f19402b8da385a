"""Layers that act on each node alone: equivariant linear maps, norm and gate non-linearities,
attentive self-interaction.

All take and give features (nodes, (lmax + 1)^2, channels) (layout: ``irreps.py``). Pseudo channels
(the last ``pseudo`` ones) carry the opposite parity and are kept apart by masks on the weights;
with ``pseudo = 0`` nothing is masked.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from farfield.models.so3.irreps import channel_parity, degree_of_row, split_degrees


def degree_norms(x: Tensor, epsilon: float) -> Tensor:
    """``sqrt(sum_m x_lm^2 + epsilon^2)`` of every degree and channel: (nodes, rows, channels) ->
    (nodes, lmax + 1, channels).

    The epsilon inside the root keeps all derivatives finite at a zero feature.
    """
    sums = [part.sum(1) for part in split_degrees(x.square())]
    return (torch.stack(sums, 1) + epsilon**2).sqrt()


def layer_norm(x: Tensor, epsilon: float) -> Tensor:
    """``(x - mean) / sqrt(variance + epsilon)`` over the last axis, with right derivatives of every
    order.

    The third derivative of ``torch.nn.functional.layer_norm`` is wrong on the CPU (torch 2.13);
    networks whose outputs are forces meet it when these are differentiated by positions and
    parameters.
    """
    centred = x - x.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + epsilon).rsqrt()


class LayerNorm(nn.Module):
    """:func:`layer_norm` with a learned scale and shift."""

    def __init__(self, size: int, epsilon: float = 1e-4):
        super().__init__()
        self.epsilon = epsilon
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.epsilon) * self.weight + self.bias


class NormNonlinearity(nn.Module):
    """``x_l -> x_l / n_l * phi(g(n_l))`` with n the norm of every channel (SE(3)-Transformer, sec.
    4; Thomas et al. 2018).

    g is a layer norm over channels (``kind="layer"``) or a learned shift (``kind="bias"``); phi =
    SiLU, so that forces stay smooth. ``x / n`` is smoothed by ``epsilon`` (n >= epsilon), which
    keeps first and second derivatives finite at zero-length features.
    """

    def __init__(self, lmax: int, channels: int, kind: str = "layer", epsilon: float = 1e-2):
        super().__init__()
        if kind not in NORM_MAPS:
            raise ValueError(f"norm must be one of {', '.join(NORM_MAPS)}, got {kind!r}")
        self.epsilon = epsilon
        self.map = NORM_MAPS[kind](lmax, channels)
        self.register_buffer("degree", degree_of_row(lmax), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        norm = degree_norms(x, self.epsilon)
        scale = nn.functional.silu(self.map(norm)) / norm
        return x * scale.index_select(1, self.degree)


class DegreeLayerNorm(nn.Module):
    """Layer norm over the channels of each degree with its own scale and shift: (nodes, lmax + 1,
    channels) of norms.
    """

    def __init__(self, lmax: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(lmax + 1, channels))
        self.shift = nn.Parameter(torch.full((lmax + 1, channels), 0.5))

    def forward(self, norm: Tensor) -> Tensor:
        return layer_norm(norm, 1e-4) * self.weight + self.shift


class DegreeBias(nn.Module):
    """A learned shift per degree and channel, ``n + b``: keeps the size of features, as the N-body
    networks of the literature do.
    """

    def __init__(self, lmax: int, channels: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(lmax + 1, channels))

    def forward(self, norm: Tensor) -> Tensor:
        return norm + self.shift


NORM_MAPS = {"layer": DegreeLayerNorm, "bias": DegreeBias}


class GatedNonlinearity(nn.Module):
    """SiLU on true scalars, and every other component times a sigmoid gate computed from the true
    scalars of the node (Weiler et al. 2018).
    """

    def __init__(self, lmax: int, channels: int, pseudo: int = 0):
        super().__init__()
        self.true = channels - pseudo
        self.lmax = lmax
        self.gates = nn.Linear(self.true, (lmax + 1) * channels)
        self.register_buffer("degree", degree_of_row(lmax), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scalars = x[:, 0, : self.true]
        gates = torch.sigmoid(self.gates(scalars)).view(-1, self.lmax + 1, x.shape[-1])
        gated = x * gates.index_select(1, self.degree)
        first = torch.cat([nn.functional.silu(scalars), gated[:, 0, self.true :]], -1).unsqueeze(1)
        return torch.cat([first, gated[:, 1:]], 1)


NONLINEARITIES: dict[
    str, Callable[[int, int, int], nn.Module]
] = {  # name -> (lmax, channels, pseudo) -> layer
    "layer": lambda lmax, channels, pseudo: NormNonlinearity(lmax, channels, "layer"),
    "bias": lambda lmax, channels, pseudo: NormNonlinearity(lmax, channels, "bias"),
    "gate": GatedNonlinearity,
}


class AttentiveSelfInteraction(nn.Module):
    """Channel mixing by weights that depend on the node: ``out_l = softmax_in(MLP_l(<x_la, x_lb>))
    x_l`` (SE(3)-Transformer, eq. 12).

    The Gram matrix of the channels of each degree (its upper triangle, invariants of channels of
    one kind) passes layer norm, SiLU and a linear map to (channels_out, channels_in) weights.
    ``forward(x (nodes, rows, channels_in)) -> (nodes, rows, channels_out)``.
    """

    def __init__(
        self,
        lmax: int,
        channels_in: int,
        channels_out: int,
        *,
        pseudo_in: int = 0,
        pseudo_out: int = 0,
    ):
        super().__init__()
        self.channels_in, self.channels_out = channels_in, channels_out
        kind_in, kind_out = (
            channel_parity(channels_in, pseudo_in),
            channel_parity(channels_out, pseudo_out),
        )
        first, second = torch.triu_indices(channels_in, channels_in)
        invariant = (first * channels_in + second)[kind_in[first] == kind_in[second]]
        self.register_buffer("invariant", invariant, persistent=False)
        foreign = kind_out.view(-1, 1) != kind_in
        self.register_buffer("foreign", foreign if bool(foreign.any()) else None, persistent=False)
        self.networks = nn.ModuleList(
            self._network(len(invariant), channels_in * channels_out) for _ in range(lmax + 1)
        )

    @staticmethod
    def _network(invariants: int, weights: int) -> nn.Module:
        return nn.Sequential(LayerNorm(invariants), nn.SiLU(), nn.Linear(invariants, weights))

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, rows, channels_in) -> (nodes, rows, channels_out)."""
        out = []
        for part, network in zip(
            split_degrees(x), self.networks, strict=True
        ):  # (nodes, 2l + 1, channels_in)
            gram = (part.transpose(1, 2) @ part).flatten(1).index_select(1, self.invariant)
            weights = network(gram).view(-1, self.channels_out, self.channels_in)
            if self.foreign is not None:
                weights = weights.masked_fill(self.foreign, -torch.inf)
            out.append(part @ torch.softmax(weights, -1).transpose(1, 2))
        return torch.cat(out, 1)
