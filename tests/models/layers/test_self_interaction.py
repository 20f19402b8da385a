"""The attentive self-interaction takes weighted means of channels, by weights of the node."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.models.so3.irreps import channel_parity, degree_of_row, degree_slice
from tests.support.node_layers import CHANNELS, KINDS, LMAX, OUT, features, layer
from tests.support.turns import relative_error

LAWS = settings(max_examples=8, deadline=None, derandomize=True, database=None)
SEEDS = st.integers(0, 10_000)


@KINDS
@LAWS
@given(seed=SEEDS)
def test_attentive_mixing_is_a_convex_combination(pseudo_in, pseudo_out, seed):
    """Each output component lies between the smallest and the largest input of its kind.

    Equal channels come out unchanged.
    """
    made, x = layer("attentive", pseudo_in, pseudo_out), features(seed)
    for pseudo in (False, True) if pseudo_in else (False,):
        source = channel_parity(CHANNELS, pseudo_in) == pseudo
        target = channel_parity(OUT, pseudo_out) == pseudo
        out = made(x)[..., target]
        low, high = x[..., source].amin(-1, keepdim=True), x[..., source].amax(-1, keepdim=True)
        assert (out >= low - 1e-12).all() and (out <= high + 1e-12).all()
        equal = x.clone()
        equal[..., source] = x[..., source][..., :1]
        same = made(equal)[..., target]
        torch.testing.assert_close(
            same, equal[..., source][..., :1].expand_as(same), rtol=0, atol=1e-13
        )


def test_attentive_weights_depend_on_the_node():
    """The map is not linear: the answer to a sum of features is not the sum of the answers."""
    made, x, y = layer("attentive", 0, 0), features(8), features(11)
    assert relative_error(made(x + y), made(x) + made(y)) > 1e-2


def test_attentive_weights_of_a_degree_come_from_that_degree():
    made, x = layer("attentive", 0, 0), features(9)
    other = x.clone()
    other[:, degree_slice(2)] = features(10)[:, degree_slice(2)]
    kept = degree_of_row(LMAX) != 2
    assert torch.equal(made(other)[:, kept], made(x)[:, kept])
    assert not torch.allclose(made(other)[:, ~kept], made(x)[:, ~kept])
