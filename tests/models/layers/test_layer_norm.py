"""The layer norm is the one of torch, with a right third derivative."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.layers.layer_norm import layer_norm
from tests.support.draws import draw


def test_third_derivative_of_the_layer_norm():
    """Against central differences of the second one; values as torch has them."""
    x = draw(3, 5, seed=0).requires_grad_(True)
    first, second, third, move = (draw(3, 5, seed=seed) for seed in (1, 2, 3, 4))
    torch.testing.assert_close(layer_norm(x, 1e-4), nn.functional.layer_norm(x, (5,), eps=1e-4))

    def slope(at: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(
            (layer_norm(at, 1e-4) * first).sum(), at, create_graph=True
        )
        (curvature,) = torch.autograd.grad((gradient * second).sum(), at, create_graph=True)
        return (curvature * third).sum()

    (found,) = torch.autograd.grad(slope(x), x)
    step = 1e-5
    expected = (slope(x + step * move) - slope(x - step * move)) / (2 * step)
    assert abs(float(((found * move).sum() - expected).detach())) <= 1e-7 * max(
        1.0, abs(float(expected.detach()))
    )
