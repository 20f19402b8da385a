"""Laws of every layer that acts on each node alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.models.so3.irreps import degree_slice, num_rows
from tests.support.derivatives import assert_all_derivatives
from tests.support.node_layers import CHANNELS, LMAX, MIXING, NONLINEAR, OUT, features, layer
from tests.support.turns import orthogonal, relative_error, turned

LAWS = settings(max_examples=8, deadline=None, derandomize=True, database=None)
SEEDS = st.integers(0, 10_000)
CASES = [(name, p, q) for name in MIXING for p, q in ((0, 0), (2, 1), (2, 0))]
CASES += [(name, p, p) for name in NONLINEAR for p in (0, 2)]
EVERY_LAYER = pytest.mark.parametrize(("name", "pseudo_in", "pseudo_out"), CASES)


@EVERY_LAYER
@LAWS
@given(seed=SEEDS, proper=st.booleans())
def test_equivariant_under_rotations_and_reflections(name, pseudo_in, pseudo_out, seed, proper):
    made, matrix, x = layer(name, pseudo_in, pseudo_out), orthogonal(seed, proper), features(seed)
    with torch.no_grad():
        before, after = made(x), made(turned(x, matrix, LMAX, pseudo_in))
    assert relative_error(after, turned(before, matrix, LMAX, pseudo_out)) <= 1e-12


@EVERY_LAYER
def test_each_node_alone(name, pseudo_in, pseudo_out):
    made, x = layer(name, pseudo_in, pseudo_out), features(0)
    together = made(x)
    assert together.shape == (4, num_rows(LMAX), OUT if name in MIXING else CHANNELS)
    for node in range(len(x)):
        torch.testing.assert_close(made(x[node : node + 1])[0], together[node], rtol=0, atol=1e-13)
    assert made(x[:0]).shape == (0, *together.shape[1:])


@EVERY_LAYER
def test_derivatives_match_differences(name, pseudo_in, pseudo_out):
    made = layer(name, pseudo_in, pseudo_out).requires_grad_(False)
    x = features(2, nodes=1).requires_grad_(True)
    assert_all_derivatives(made, [x])


@EVERY_LAYER
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("empty", ["everything", "degree 2", "all channels but one"])
def test_finite_derivatives_at_zero_features(name, pseudo_in, pseudo_out, dtype, empty):
    """First and second derivatives, in the features and of the gradient norm in the parameters."""
    made, x = layer(name, pseudo_in, pseudo_out).to(dtype), features(3).to(dtype)
    part = {
        "everything": (...,),
        "degree 2": (slice(None), degree_slice(2)),
        "all channels but one": (..., slice(1, None)),
    }[empty]
    x[part] = 0
    x.requires_grad_(True)
    out = made(x)
    (first,) = torch.autograd.grad((out + out.square()).sum(), x, create_graph=True)
    leaves = [x, *made.parameters()]
    second = torch.autograd.grad((first + first.square()).sum(), leaves, materialize_grads=True)
    assert all(torch.isfinite(value).all() for value in (out, first, *second))


@EVERY_LAYER
def test_zero_stays_zero_above_scalars(name, pseudo_in, pseudo_out):
    """Only true scalars may come from nothing."""
    out = layer(name, pseudo_in, pseudo_out)(torch.zeros(2, num_rows(LMAX), CHANNELS).double())
    assert not out[:, 1:].any() and not out[:, 0, out.shape[-1] - pseudo_out :].any()
