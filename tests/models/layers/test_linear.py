"""The linear map is one matrix per degree, within one kind of channel."""

from __future__ import annotations

import pytest
import torch

from farfield.models.layers.linear import EquivariantLinear
from farfield.models.so3.irreps import channel_parity, degree_of_row, num_rows
from tests.support.draws import draw
from tests.support.node_layers import CHANNELS, KINDS, LMAX, OUT, features, layer


@KINDS
def test_linear_map_keeps_degrees_and_kinds_apart(pseudo_in, pseudo_out):
    """A unit of one degree, component and channel only reaches the same component.

    There it reaches the channels of its own kind.
    """
    made = layer("linear", pseudo_in, pseudo_out)
    kind_in, kind_out = channel_parity(CHANNELS, pseudo_in), channel_parity(OUT, pseudo_out)
    for row in range(num_rows(LMAX)):
        units = torch.zeros(CHANNELS, num_rows(LMAX), CHANNELS, dtype=torch.float64)
        units[:, row] = torch.eye(CHANNELS, dtype=torch.float64)
        reached = made(units).ne(0)
        assert not reached[:, torch.arange(num_rows(LMAX)) != row].any()
        assert torch.equal(reached[:, row], kind_in.view(-1, 1) == kind_out)


def test_linear_map_is_one_matrix_per_degree_and_a_scalar_bias():
    made, x = layer("linear, bias", 0, 0), features(4)
    expected = torch.einsum("nri,rio->nro", x, made.weight[degree_of_row(LMAX)])
    expected[:, 0] += made.bias
    torch.testing.assert_close(made(x), expected, rtol=0, atol=1e-13)
    assert made.bias.any()


def test_linear_map_keeps_the_variance_at_the_start():
    torch.manual_seed(0)
    x = draw(50, num_rows(2), 64, seed=0)
    out = EquivariantLinear(2, 64, 64).double()(x)
    assert float(out.detach().var()) == pytest.approx(1, abs=0.1)
