"""Boys functions against their integral, and all their derivatives."""

import math

import numpy as np
import pytest
import torch

from farfield.models.kernels.boys import SERIES_BELOW, boys, boys_values
from tests.support.derivatives import assert_all_derivatives

ARGUMENTS = torch.cat(
    [
        torch.tensor([0.0, 1e-12, 1e-3], dtype=torch.float64),
        SERIES_BELOW + torch.tensor([-1e-9, 0.0, 1e-9], dtype=torch.float64),
        torch.linspace(0.05, 60.0, 40, dtype=torch.float64),
        torch.tensor([200.0, 1000.0], dtype=torch.float64),
    ]
)


def integral(x: torch.Tensor, order: int) -> torch.Tensor:
    """``int_0^1 u^(2 m) exp(-x u^2) du`` by Gauss-Legendre quadrature of 200 nodes."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    nodes, weights = torch.from_numpy(nodes + 1) / 2, torch.from_numpy(weights) / 2
    return nodes ** (2 * order) * torch.exp(-x.unsqueeze(-1) * nodes.square()) @ weights


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_values_are_the_integral(dtype, bar):
    for order, found in enumerate(boys_values(ARGUMENTS.to(dtype), 4)):
        expected = integral(ARGUMENTS.to(dtype).double(), order)
        assert float(((found.double() - expected) / expected).abs().max()) <= bar, order


def test_derivatives_of_every_order():
    x = ARGUMENTS.clone()[3:20].requires_grad_(True)
    assert_all_derivatives(boys, [x])
    value, sign = boys(x), 1
    for order in range(1, 5):
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        sign = -sign
        torch.testing.assert_close(value, sign * integral(x.detach(), order), rtol=1e-11, atol=0)


def test_a_smeared_charge_is_smooth_at_zero_and_a_point_far_away():
    """erf(r) / r by the definition, and its limits."""
    r = torch.linspace(0.3, 9.0, 30, dtype=torch.float64)
    found = 2 / math.sqrt(math.pi) * boys(r.square())
    torch.testing.assert_close(found, torch.erf(r) / r, rtol=1e-14, atol=0)
    assert float(boys(torch.zeros(1, dtype=torch.float64))) == 1.0
