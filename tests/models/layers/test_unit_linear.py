"""Values keep their size through maps that start with unit gain."""

from __future__ import annotations

import torch
from torch import nn

from farfield.models.layers.unit_linear import GELU_SCALE, unit_linear, unit_perceptron
from tests.support.draws import draw


def root_mean_square(x) -> float:
    return float(x.detach().square().mean().sqrt())


def test_sizes_are_kept(double):
    torch.manual_seed(0)
    x = draw(500, 300, seed=0)
    for network in (unit_linear(300, 300), unit_perceptron(300, 300, 300)):
        assert abs(root_mean_square(network(x)) - 1) <= 0.1
    assert abs(root_mean_square(unit_linear(300, 300, gain=2.0)(x)) - 2) <= 0.1
    assert abs(root_mean_square(nn.Linear(300, 300)(x)) - 1) > 0.3  # torch's own start


def test_the_scale_of_gelu():
    x = torch.linspace(-9, 9, 100001, dtype=torch.float64)
    weights = torch.exp(-x.square() / 2)
    mean = (weights * nn.functional.gelu(x).square()).sum() / weights.sum()
    assert abs(float(mean) ** -0.5 - GELU_SCALE) <= 1e-4


def test_no_constant():
    assert not unit_linear(3, 2).bias.any() and unit_linear(3, 2, bias=False).bias is None
