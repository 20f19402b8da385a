"""A rounded layer is near the layer itself while it trains, and the layer itself otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from farfield.models.layers.linear import EquivariantLinear
from farfield.models.layers.rounded_products import RoundedLinear
from tests.support.turns import relative_error

LAYERS = {
    "linear": (lambda: RoundedLinear(6, 5), (7, 6)),
    "no bias": (lambda: RoundedLinear(6, 5, bias=False), (7, 6)),
    "equivariant": (lambda: EquivariantLinear(2, 6, 5, bias=True), (7, 9, 6)),
    "pseudo": (lambda: EquivariantLinear(2, 6, 4, pseudo_in=2, pseudo_out=2), (7, 9, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_it_rounds_while_it_trains_and_only_if_asked(name):
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer, x = build(), torch.randn(shape, requires_grad=True)
    exact = layer(x)
    by_x, by_weight = torch.autograd.grad(exact.square().sum(), [x, layer.weight])

    layer.rounded = True
    rounded = layer(x)
    found = torch.autograd.grad(rounded.square().sum(), [x, layer.weight])
    pairs = [(rounded, exact), (found[0], by_x), (found[1], by_weight)]
    for value, expected in pairs:
        assert value.dtype == torch.float32
        assert 1e-5 < relative_error(value, expected) < 2e-2
    assert torch.equal(layer.eval()(x), exact)


def test_a_rounded_linear_map_starts_and_is_saved_as_any_other():
    torch.manual_seed(0)
    plain = nn.Linear(6, 5)
    torch.manual_seed(0)
    rounded = RoundedLinear(6, 5)
    assert plain.state_dict().keys() == rounded.state_dict().keys()
    x = torch.randn(3, 6)
    assert torch.equal(plain(x), rounded(x))
