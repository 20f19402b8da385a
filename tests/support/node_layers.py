"""The layers that act on each node alone, by name, with random parameters in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from farfield.models.layers.linear import EquivariantLinear
from farfield.models.layers.nonlinearities import GatedNonlinearity, NormNonlinearity
from farfield.models.layers.self_interaction import AttentiveSelfInteraction
from farfield.models.so3.irreps import num_rows
from tests.support.draws import draw

LMAX, CHANNELS, OUT = 3, 5, 4

# layers that mix channels, from (pseudo_in, pseudo_out)
MIXING = {
    "linear": lambda p, q: EquivariantLinear(LMAX, CHANNELS, OUT, pseudo_in=p, pseudo_out=q),
    "linear, bias": lambda p, q: EquivariantLinear(
        LMAX, CHANNELS, OUT, bias=True, pseudo_in=p, pseudo_out=q
    ),
    "attentive": lambda p, q: AttentiveSelfInteraction(
        LMAX, CHANNELS, OUT, pseudo_in=p, pseudo_out=q
    ),
}

# non-linearities keep their channels, from pseudo
NONLINEAR = {
    "norm, layer": lambda p: NormNonlinearity(LMAX, CHANNELS, "layer"),
    "norm, bias": lambda p: NormNonlinearity(LMAX, CHANNELS, "bias"),
    "gate": lambda p: GatedNonlinearity(LMAX, CHANNELS, p),
}
KINDS = pytest.mark.parametrize(("pseudo_in", "pseudo_out"), [(0, 0), (2, 1)])


def layer(name: str, pseudo_in: int, pseudo_out: int) -> nn.Module:
    """The layer with random parameters, so that no law holds only at the start of training."""
    made = MIXING[name](pseudo_in, pseudo_out) if name in MIXING else NONLINEAR[name](pseudo_in)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.double().parameters():
            change = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * change)
    return made


def features(seed: int, nodes: int = 4) -> Tensor:
    """Random features (nodes, rows, channels)."""
    return draw(nodes, num_rows(LMAX), CHANNELS, seed=seed)
