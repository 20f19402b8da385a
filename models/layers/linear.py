"""Equivariant linear maps: one matrix per degree, acting on each node alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from farfield.models.so3.irreps import channel_parity, degree_of_row


class EquivariantLinear(nn.Module):
    """Channel mixing with one matrix per degree, ``out_l = x_l W_l`` (+ bias for true scalars): the
    "1x1" of the SE(3)-Transformer.

    ``forward(x (nodes, rows, channels_in)) -> (nodes, rows, channels_out)``. Weights start at
    variance 1 / channels_in.
    """

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
        self.weight = nn.Parameter(
            torch.randn(lmax + 1, channels_in, channels_out) / math.sqrt(channels_in)
        )
        self.bias = nn.Parameter(torch.zeros(channels_out - pseudo_out)) if bias else None
        same = channel_parity(channels_in, pseudo_in).view(-1, 1) == channel_parity(
            channels_out, pseudo_out
        )
        self.register_buffer(
            "mask", None if bool(same.all()) else same.to(self.weight.dtype), persistent=False
        )
        self.register_buffer("degree", degree_of_row(lmax), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, rows, channels_in) -> (nodes, rows, channels_out); one product for all rows,
        fewer steps than one for each degree.
        """
        weight = self.weight if self.mask is None else self.weight * self.mask
        out = torch.bmm(x.transpose(0, 1), weight.index_select(0, self.degree)).transpose(0, 1)
        if self.bias is None:
            return out
        bias = nn.functional.pad(
            self.bias[None], (0, out.shape[-1] - self.bias.shape[0], 0, out.shape[1] - 1)
        )  # (rows, channels_out)
        return out + bias
