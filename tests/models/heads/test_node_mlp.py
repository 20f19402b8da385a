"""The head of every value of an atom: its widths, and no constant at the end."""

from __future__ import annotations

import pytest
import torch

from farfield.models.heads.node_mlp import NodeMLP, NodeNoise, NodeTime
from tests.support.draws import draw


@pytest.mark.parametrize(("width", "widths"), [(16, [16, 8, 4]), (3, [3, 1, 1]), (1, [1, 1, 1])])
def test_widths_halve(width, widths):
    head = NodeMLP(width, 3)
    linear = [layer for layer in head if isinstance(layer, torch.nn.Linear)]
    assert [layer.in_features for layer in linear] == widths
    assert linear[-1].out_features == 3 and linear[-1].bias is None


def test_every_atom_alone(double):
    torch.manual_seed(0)
    head, x = NodeMLP(8, 2), draw(5, 8, seed=0)
    found = head(x)
    assert found.shape == (5, 2) and head(x[:0]).shape == (0, 2)
    for row, value in zip(x, found, strict=True):
        torch.testing.assert_close(head(row), value)
    # the layer norm comes first
    torch.testing.assert_close(head(100 * x), found, rtol=1e-2, atol=1e-3)


def test_noise_and_time_of_an_atom(double):
    """The time is one more feature, of the noise alone."""
    torch.manual_seed(0)
    noise, time, x, t = NodeNoise(8), NodeTime(8), draw(5, 8, seed=0), draw(5, seed=1)
    expected = noise.vector(torch.cat([x, t.view(5, 1)], 1))
    torch.testing.assert_close(noise(x, t), expected)
    assert noise(x, t).shape == (5, 3) and float((noise(x, t) - noise(x, t + 1)).abs().max()) > 0.01
    torch.testing.assert_close(time(x), time.scalar(x)[:, 0])
