"""Self-interactions: how each node mixes the channels of its own features.

    linear      out_l = x_l W_l, one matrix for each degree
    attentive   out_l = x_l W_l(x), a matrix that depends on the node (SE(3)-Transformer, eq. 12)

Features are (nodes, (lmax + 1)^2, channels), see ``so3/irreps.py``. Pseudo channels, the last ones,
have the opposite parity and are kept apart by masks on the weights.

Cost: nodes x rows x channels_in x channels_out multiply-adds; the attentive one needs (channels_in
channels_out)^2 / 2 more for each node and degree.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.choices import Registry
from farfield.models.layers.layer_norm import LayerNorm
from farfield.models.layers.linear import EquivariantLinear
from farfield.models.so3.irreps import channel_parity, split_degrees

# name -> (lmax, channels_in, channels_out, pseudo_in, pseudo_out) -> layer
SELF_INTERACTIONS: Registry[type[nn.Module]] = Registry("self-interaction")
SELF_INTERACTIONS.register("linear")(EquivariantLinear)


@SELF_INTERACTIONS.register("attentive")
class AttentiveSelfInteraction(nn.Module):
    """Channel mixing by weights of the node: ``out_l = softmax_in(MLP_l(<x_la, x_lb>)) x_l``.

    The Gram matrix of the channels of each degree (its upper triangle, as far as it is invariant:
    channels of one kind) passes layer norm, SiLU and a linear map to (channels_out, channels_in)
    weights.
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
        kind_in = channel_parity(channels_in, pseudo_in)
        kind_out = channel_parity(channels_out, pseudo_out)

        # which entries of the flat Gram matrix are used: a product of two kinds is not invariant
        first, second = torch.triu_indices(channels_in, channels_in)
        invariant = (first * channels_in + second)[kind_in[first] == kind_in[second]]
        self.register_buffer("invariant", invariant, persistent=False)

        # weights (channels_out, channels_in) between two kinds are switched off
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
        for part, network in zip(split_degrees(x), self.networks, strict=True):
            # part: (nodes, 2l + 1, channels_in)
            gram = (part.transpose(1, 2) @ part).flatten(1).index_select(1, self.invariant)
            weights = network(gram).view(-1, self.channels_out, self.channels_in)
            if self.foreign is not None:
                weights = weights.masked_fill(self.foreign, -torch.inf)
            out.append(part @ torch.softmax(weights, -1).transpose(1, 2))
        return torch.cat(out, 1)
