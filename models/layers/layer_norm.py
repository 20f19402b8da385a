"""Layer norm of invariants, with right derivatives of every order.

    y = (x - mean) / sqrt(variance + epsilon)

over the last axis (Ba et al. 2016). Equivariant features have norms of their own, ``norms.py``. The
third derivative of ``torch.nn.functional.layer_norm`` is wrong on the CPU (torch 2.13); a network
whose outputs are forces meets it when the forces are differentiated by positions and parameters.

Cost: linear in the values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NORM_EPSILON = 1e-4


def layer_norm(x: Tensor, epsilon: float = NORM_EPSILON) -> Tensor:
    """``(x - mean) / sqrt(variance + epsilon)`` over the last axis of x (..., size)."""
    centred = x - x.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + epsilon).rsqrt()


class LayerNorm(nn.Module):
    """:func:`layer_norm` of x (..., size) with a learned scale and shift."""

    def __init__(self, size: int, epsilon: float = NORM_EPSILON):
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size)."""
        return layer_norm(x, self.epsilon) * self.weight + self.bias
