"""Equivariant linear maps: one matrix per degree, acting on each node alone.

    out_l = x_l W_l + b [l = 0]

(the "1x1" of the SE(3)-Transformer). Features are (nodes, (lmax + 1)^2, channels), see
``so3/irreps.py``. Cost: nodes x rows x channels_in x channels_out multiply-adds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from farfield.models.layers.rounded_products import rounded_product, rounds_products
from farfield.models.so3.irreps import channel_parity, degree_of_row


class EquivariantLinear(nn.Module):
    """Channel mixing with one matrix per degree, ``out_l = x_l W_l``.

    bias: learned, added to true scalars. pseudo_in, pseudo_out: number of pseudo channels, the last
    ones, which never mix with the others. Weights start at variance 1 / channels_in. rounded:
    compute the product in bfloat16 while training.
    """

    rounded = False

    def __init__(
        self,
        lmax: int,
        channels_in: int,
        channels_out: int,
        *,
        bias: bool = False,
        pseudo_in: int = 0,
        pseudo_out: int = 0,
    ):
        super().__init__()
        weight = torch.randn(lmax + 1, channels_in, channels_out) / math.sqrt(channels_in)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(channels_out - pseudo_out)) if bias else None

        # (channels_in, channels_out): 1 between channels of one kind; None where there is one kind
        kind_in = channel_parity(channels_in, pseudo_in)
        kind_out = channel_parity(channels_out, pseudo_out)
        same = kind_in.view(-1, 1) == kind_out
        mask = None if bool(same.all()) else same.to(self.weight.dtype)
        self.register_buffer("mask", mask, persistent=False)

        self.register_buffer("degree", degree_of_row(lmax), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, rows, channels_in) -> (nodes, rows, channels_out)."""
        # one product for all rows takes fewer steps than one for each degree
        weight = self.weight if self.mask is None else self.weight * self.mask
        product = rounded_product if rounds_products(self) else torch.bmm
        out = product(x.transpose(0, 1), weight.index_select(0, self.degree)).transpose(0, 1)
        if self.bias is None:
            return out

        # (rows, channels_out), zero but for the true scalars
        rows, channels = out.shape[1:]
        padding = (0, channels - self.bias.shape[0], 0, rows - 1)
        return out + nn.functional.pad(self.bias[None], padding)
