"""Products of linear maps in bfloat16 while a network trains.

    out = float32( bf16(x) bf16(W) )

bfloat16 has 8 bits: a product rounds by up to 4e-3 of its terms. Only maps that mix the channels of
a node are rounded, with one matrix for all rows of a degree, so rounding breaks equivariance by as
much and no more. Weights, their gradients once they leave the product, biases and all else stay in
the number type of the network. In evaluation mode nothing is rounded.

A layer takes part that has an attribute ``rounded`` and asks :func:`rounds_products`;
``Network.round_products`` sets it. Cost: on hardware with fast bfloat16 half of the memory traffic
and time of a product; elsewhere the casts cost more than they save.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def rounds_products(layer: nn.Module) -> bool:
    """Whether a layer with an attribute ``rounded`` computes in bfloat16 now: while it trains."""
    return layer.rounded and layer.training


def rounded_product(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight`` in bfloat16, in the number type of ``x``."""
    return (x.to(torch.bfloat16) @ weight.to(torch.bfloat16)).to(x.dtype)


class RoundedLinear(nn.Linear):
    """``nn.Linear`` whose product may be rounded.

    rounded: compute it in bfloat16 while training.
    """

    rounded = False

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        if not rounds_products(self):
            return super().forward(x)
        out = rounded_product(x, self.weight.T)
        return out if self.bias is None else out + self.bias
