"""Equivariant convolution over edges, in the frame of the edge.

A kernel that commutes with rotations mixes, in the frame whose polar axis is the edge, only
components of equal |m| (Passaro & Zitnick 2023, eq. 6):

    y_(l,+m) = sum_l' A_m x_(l',+m) + B_m x_(l',-m),
    y_(l,-m) = sum_l' A_m x_(l',-m) - B_m x_(l',+m).

min(l, l') + 1 weights A are the kernels of even parity (l + l' + J even), min(l, l') weights B the
odd ones; together they are the 2 min(l, l') + 1 paths of the Clebsch-Gordan form. Odd kernels turn
tensors into pseudo-tensors, so B acts only between true and pseudo channels; without pseudo
channels it is absent.

Radial dependence. A dense kernel needs channels_in x channels_out radial functions per path and
edge. We give each input (m, l', channel) one radial function and mix with weights shared by all
edges,

    A_m[(l', c'), (l, c)](edge) = R_m[l', c'](edge) W_m[(l', c'), (l, c)],

a factorised (depthwise-separable) kernel: (lmax + 1)(lmax + 2)/2 radial values per channel and
edge, 10 instead of 44 channels_out at lmax 3. Every output is still a free combination of
channels_in (lmax + 1) radial functions per order.

Cost per edge: two batched rotations, 2 rows^2 channels, and sum_m (2 - [m=0]) (lmax + 1 - m)^2
channels^2 multiply-adds: O(L^3), no kernel tensors. ``tests/support/kernel_convolution.py`` has the
Clebsch-Gordan form of the same map.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from farfield.models.so3.irreps import channel_parity


class EdgeFrameConvolution(nn.Module):
    """Messages of all edges from source features, one matrix product per order |m|.

    radial_hidden: width of the radial trunk. pseudo_in, pseudo_out: pseudo channels, the last ones.
    """

    def __init__(
        self,
        lmax: int,
        channels_in: int,
        channels_out: int,
        radial_hidden: int,
        *,
        pseudo_in: int = 0,
        pseudo_out: int = 0,
    ):
        super().__init__()
        self.lmax, self.channels_in, self.channels_out = lmax, channels_in, channels_out
        self.sizes = [(lmax + 1 - m) * channels_in for m in range(lmax + 1)]  # inputs of order m
        self.rows = [(2 if m else 1) * (lmax + 1 - m) for m in range(lmax + 1)]
        self.radial = nn.Linear(radial_hidden, sum(self.sizes))
        nn.init.ones_(self.radial.bias)

        # mixed: there are channels of both kinds, between which only odd kernels act
        kind_in = channel_parity(channels_in, pseudo_in)
        kind_out = channel_parity(channels_out, pseudo_out)
        same = kind_in.view(-1, 1) == kind_out
        self.mixed = not bool(same.all())
        self.even = nn.ParameterList(self._weight(size, m) for m, size in enumerate(self.sizes))
        self.odd = None
        if self.mixed:
            odd = (self._weight(size, m) for m, size in enumerate(self.sizes) if m)
            self.odd = nn.ParameterList(odd)

        # same_m (degrees channels_in, degrees channels_out): 1 between channels of one kind
        for m in range(lmax + 1):
            mask = None
            if self.mixed:
                degrees = lmax + 1 - m
                mask = same.repeat(degrees, degrees).to(torch.get_default_dtype())
            self.register_buffer(f"same_{m}", mask, persistent=False)

    def _weight(self, size: int, m: int) -> nn.Parameter:
        outputs = (self.lmax + 1 - m) * self.channels_out
        return nn.Parameter(torch.randn(size, outputs) / math.sqrt(size))

    def order_weights(self, m: int) -> tuple[Tensor, Tensor | None]:
        """Even and odd mixing weights of order m, with the masks of parity applied.

        Each is (degrees channels_in, degrees channels_out); the odd ones are None where there are
        none.
        """
        if not self.mixed:
            return self.even[m], None
        same = getattr(self, f"same_{m}")
        return self.even[m] * same, self.odd[m - 1] * (1 - same) if m else None

    def forward(
        self, source: Tensor, rotation: Tensor, hidden: Tensor, along: Tensor | None = None
    ) -> Tensor:
        """Messages (edges, rows, channels_out) of sources (edges, rows, channels_in).

        rotation (edges, rows, rows):
        :meth:`farfield.models.near_field.edge_frames.EdgeBasis.rotation`. hidden (edges,
        radial_hidden): from :class:`farfield.models.layers.radial.RadialTrunk`. along (edges,):
        length of a vector along the edge that is added to the first degree-1 channel of the source
        (relative position "add"), or None.
        """
        edges = source.shape[0]
        framed = torch.bmm(rotation, source)  # rows ordered by |m|
        if along is not None:
            framed[:, 1, 0] += along  # row 1 is (l = 1, m = 0), the component along the edge

        # one product for each order, on all degrees at once
        parts = framed.split(self.rows, 1)
        radial = self.radial(hidden).split(self.sizes, -1)
        messages = []
        for m, size in enumerate(self.sizes):
            # (edges, signs of m, degrees channels_in)
            part = parts[m].reshape(edges, 2 if m else 1, size) * radial[m].unsqueeze(1)
            even, odd = self.order_weights(m)
            mixed = part @ even
            if odd is not None:
                crossed = part @ odd
                mixed = mixed + torch.stack([crossed[:, 1], -crossed[:, 0]], 1)
            messages.append(mixed.view(edges, self.rows[m], self.channels_out))
        return torch.bmm(rotation.transpose(1, 2), torch.cat(messages, 1))
