"""Values of an atom from invariant features of any network: energy, force, noise or time.

    width -> width / 2 -> width / 4 -> outputs

after a layer norm, with GELU between and no bias at the end (the heads of the EdgeTransformer). A
vector read by it turns with the structure only as far as training taught it.

Cost: linear in atoms.
"""

from __future__ import annotations

from torch import nn

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
