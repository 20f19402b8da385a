"""Linear maps whose values start as large as what comes in.

    weight ~ N(0, gain^2 / inputs),      bias = 0

Torch's own start makes values smaller by sqrt(3) at each map, and what geometry gives a network
fades on the way. GELU takes normal values to a root mean square of 0.65, which the gain
:data:`GELU_SCALE` of the next map undoes.

Cost: that of a linear map.
"""

from __future__ import annotations

from torch import nn

GELU_SCALE = 1.5335  # 1 / root mean square of GELU of a normal variable


def unit_linear(inputs: int, outputs: int, bias: bool = True, gain: float = 1.0) -> nn.Linear:
    """A linear map (..., inputs) -> (..., outputs) that starts as above."""
    linear = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(linear.weight, std=gain / inputs**0.5)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def unit_perceptron(inputs: int, hidden: int, outputs: int, gain: float = 1.0) -> nn.Sequential:
    """Linear, GELU, linear; gain: of the first map."""
    return nn.Sequential(
        unit_linear(inputs, hidden, gain=gain),
        nn.GELU(),
        unit_linear(hidden, outputs, gain=GELU_SCALE),
    )
