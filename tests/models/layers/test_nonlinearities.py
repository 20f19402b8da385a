"""The non-linearities of a node, by their formulas."""

from __future__ import annotations

import pytest
import torch

from farfield.models.layers.nonlinearities import NORM_MAPS, NormNonlinearity, degree_norms
from farfield.models.so3.irreps import degree_slice
from tests.support.node_layers import CHANNELS, LMAX, features, layer


@pytest.mark.parametrize("epsilon", [1e-2, 0.5])
def test_norms_by_the_formula(epsilon):
    x = features(5)
    found = degree_norms(x, epsilon)
    for l in range(LMAX + 1):
        expected = torch.sqrt(x[:, degree_slice(l)].norm(dim=1) ** 2 + epsilon**2)
        torch.testing.assert_close(found[:, l], expected, rtol=1e-14, atol=0)
    at_zero = degree_norms(torch.zeros_like(x), epsilon)
    torch.testing.assert_close(at_zero, torch.full_like(at_zero, epsilon), rtol=1e-15, atol=0)


@pytest.mark.parametrize("kind", NORM_MAPS)
def test_norm_nonlinearity_by_the_formula(kind):
    """Every degree and channel keeps its direction and takes the length |x| / n silu(g(n)).

    ``n^2 = |x|^2 + epsilon^2``.
    """
    made, x = layer(f"norm, {kind}", 0, 0), features(6)
    out, norm = made(x), degree_norms(x, made.epsilon)
    if kind == "bias":
        shifted = norm + made.map.shift
    else:
        centred = norm - norm.mean(-1, keepdim=True)
        shifted = (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-4).sqrt() * made.map.weight
            + made.map.shift
        )
    scale = shifted * torch.sigmoid(shifted) / norm
    for l in range(LMAX + 1):
        torch.testing.assert_close(
            out[:, degree_slice(l)],
            x[:, degree_slice(l)] * scale[:, l : l + 1],
            rtol=1e-12,
            atol=1e-14,
        )


def test_layer_made_in_inference_mode_spoils_no_other():
    """The layers share the table of degrees; no other test makes the table of lmax 7."""
    with torch.inference_mode():
        NormNonlinearity(7, 2)
    x = torch.randn(2, 64, 2, requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(NormNonlinearity(7, 2)(x).sum(), x)[0]).all()


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm must be one of layer, bias, got 'batch'"):
        NormNonlinearity(1, 2, "batch")


@pytest.mark.parametrize("pseudo", [0, 2])
def test_gate_by_the_formula(pseudo):
    """silu on true scalars; all else times a sigmoid of a linear map of the node's true scalars."""
    made, x = layer("gate", pseudo, pseudo), features(7)
    out, true = made(x), CHANNELS - pseudo
    scalars = x[:, 0, :true]
    torch.testing.assert_close(
        out[:, 0, :true], scalars * torch.sigmoid(scalars), rtol=1e-13, atol=0
    )
    gates = torch.sigmoid(scalars @ made.gates.weight.T + made.gates.bias).view(
        len(x), LMAX + 1, CHANNELS
    )
    torch.testing.assert_close(
        out[:, 0, true:], x[:, 0, true:] * gates[:, 0, true:], rtol=1e-13, atol=0
    )
    for l in range(1, LMAX + 1):
        torch.testing.assert_close(
            out[:, degree_slice(l)], x[:, degree_slice(l)] * gates[:, l : l + 1], rtol=1e-13, atol=0
        )
