"""Values of an atom from invariant features of any network: energy, force, dipole, noise or time.

    width -> width / 2 -> width / 4 -> outputs

after a layer norm, with GELU between and no bias at the end (the heads of the EdgeTransformer). A
vector read by it turns with the structure only as far as training taught it.

In a diffusion the noise is read from the features and the time t of an atom, one more feature:

    eps_i = MLP([x_i, t_i])  (3),        t_i = MLP(x_i)  (1)

Readouts of molecules (``property_readouts.py``), the dipole among them, read features of degrees 0
and 1; :class:`DegreesOfNode` gives them these.

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


class DegreesOfNode(nn.Module):
    """Features of degrees 0 and 1 from those of an atom: ``forward(x (nodes, width)) -> (nodes, 4,
    width)``, row 0 is x.

    directed: whether x knows directions; without them the rows of degree 1 are zero, and whatever
    is read turns with the structure.
    """

    def __init__(self, width: int, directed: bool):
        super().__init__()
        self.vectors = NodeMLP(width, 3 * width) if directed else None

    def forward(self, x: Tensor) -> Tensor:
        if self.vectors is None:
            return torch.nn.functional.pad(x.unsqueeze(1), (0, 0, 0, 3))
        return torch.cat([x, self.vectors(x)], 1).unflatten(1, (4, -1))


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
