"""Values of an atom from invariant features of any network: energy, force, noise or time.

    width -> width / 2 -> width / 4 -> outputs

after a layer norm, with GELU between and no bias at the end (the heads of the EdgeTransformer). A
vector read by it turns with the structure only as far as training taught it.

In a diffusion the noise is read from the features and the time t of an atom, one more feature:

    eps_i = MLP([x_i, t_i])  (3),        t_i = MLP(x_i)  (1)

Cost: linear in atoms.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.layers.layer_norm import LayerNorm
from farfield.models.layers.unit_linear import GELU_SCALE, unit_linear, unit_perceptron


class NodeMLP(nn.Sequential):
    """``forward(x (nodes, width)) -> (nodes, outputs)``."""

    def __init__(self, width: int, outputs: int):
        half, quarter = max(width // 2, 1), max(width // 4, 1)
        super().__init__(
            LayerNorm(width),
            *unit_perceptron(width, half, quarter),
            nn.GELU(),
            unit_linear(quarter, outputs, bias=False, gain=GELU_SCALE),
        )


class NodeNoise(nn.Module):
    """Noise of each atom: ``forward(x (nodes, width), time (nodes,)) -> (nodes, 3)``."""

    def __init__(self, width: int):
        super().__init__()
        self.vector = NodeMLP(width + 1, 3)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.vector(torch.cat([x, time.unsqueeze(1)], 1))


class NodeTime(nn.Module):
    """Time of each atom: ``forward(x (nodes, width)) -> (nodes,)``."""

    def __init__(self, width: int):
        super().__init__()
        self.scalar = NodeMLP(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scalar(x).squeeze(-1)
