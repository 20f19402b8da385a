"""Laws of the equivariant norms: symmetry, resulting size, derivatives at zero features."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.models.layers.norms import NORMS, EquivariantNorm
from farfield.models.so3.irreps import num_rows, split_degrees
from tests.support.turns import orthogonal, relative_error, turned

LAWS = settings(max_examples=8, deadline=None, derandomize=True, database=None)
LMAX, CHANNELS = 3, 6
EVERY_NORM = pytest.mark.parametrize("kind", NORMS)


def norm(kind: str, epsilon: float = 1e-4, moved: bool = True) -> EquivariantNorm:
    """In float64, with random parameters if ``moved``."""
    made = EquivariantNorm(kind, LMAX, CHANNELS, epsilon).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters() if moved else ():
            parameter.add_(
                0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            )
    return made


def features(seed: int = 0, nodes: int = 4) -> Tensor:
    return torch.randn(
        nodes,
        num_rows(LMAX),
        CHANNELS,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )


def degree_sizes(x: Tensor) -> Tensor:
    """Mean square over orders and channels (nodes, lmax + 1)."""
    return torch.stack([part.square().mean((1, 2)) for part in split_degrees(x)], 1)


@EVERY_NORM
@LAWS
@given(seed=st.integers(0, 10_000), proper=st.booleans())
def test_equivariant_under_rotations_and_reflections(kind, seed, proper):
    made, matrix, x = norm(kind), orthogonal(seed, proper), features(seed)
    with torch.no_grad():
        assert relative_error(made(turned(x, matrix, LMAX)), turned(made(x), matrix, LMAX)) <= 1e-12


@EVERY_NORM
@LAWS
@given(scale=st.floats(0.1, 1e3), seed=st.integers(0, 10_000))
def test_size_of_the_input_does_not_matter(kind, scale, seed):
    made, x = norm(kind, epsilon=0.0), features(seed)
    torch.testing.assert_close(made(scale * x), made(x), rtol=1e-10, atol=1e-10)


@EVERY_NORM
def test_scalars_have_mean_zero_and_no_mean_matters(kind):
    made, x = norm(kind, moved=False), features()
    assert float(made(x).detach()[:, 0].mean(-1).abs().max()) <= 1e-14
    shifted = torch.cat([x[:, :1] + 7.0, x[:, 1:]], 1)
    torch.testing.assert_close(made(shifted), made(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "groups"),
    [
        ("rms_norm_sh", [[0, 1, 2, 3]]),
        ("layer_norm_sh", [[0], [1, 2, 3]]),
        ("layer_norm", [[0], [1], [2], [3]]),
    ],
)
def test_which_degrees_share_a_size(kind, groups):
    """The mean size of each group of degrees is 1 afterwards.

    The ratios inside a group are as before.
    """
    x = features() * torch.tensor([0.5, 2.0, 3.0, 1.0]).repeat_interleave(
        torch.tensor([1, 3, 5, 7])
    ).view(1, -1, 1)
    centred = torch.cat([x[:, :1] - x[:, :1].mean(-1, keepdim=True), x[:, 1:]], 1)
    before, after = degree_sizes(centred), degree_sizes(norm(kind, epsilon=0.0, moved=False)(x))
    for group in groups:
        torch.testing.assert_close(after[:, group].mean(1), torch.ones(4, dtype=torch.float64))
        torch.testing.assert_close(
            after[:, group] / after[:, group[:1]], before[:, group] / before[:, group[:1]]
        )


@EVERY_NORM
def test_finite_and_right_derivatives_at_zero_features(kind):
    made = norm(kind)
    zero = torch.zeros(2, num_rows(LMAX), CHANNELS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(made, (features(nodes=1).requires_grad_(True),), atol=1e-6)
    (gradient,) = torch.autograd.grad(made(zero).square().sum(), zero, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), zero)
    assert torch.isfinite(gradient).all() and torch.isfinite(second).all()


def test_scalars_alone():
    """lmax 0 is a layer norm for every kind."""
    x = torch.randn(3, 1, CHANNELS, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.layer_norm(x, (CHANNELS,), eps=1e-4)
    for kind in NORMS:
        torch.testing.assert_close(EquivariantNorm(kind, 0, CHANNELS, 0.3)(x), expected)


@EVERY_NORM
def test_features_that_vanish_stay_small(kind):
    """Degrees above 0 of rounding size grow by epsilon^(-1/2), or by what scalars grow."""
    x = features()
    x[:, 1:] *= 1e-7
    made = norm(kind, epsilon=0.25, moved=False)
    growth = made(x)[:, 1:].detach().norm() / x[:, 1:].norm()
    assert 1.9 <= float(growth) <= 2.5


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="rms_norm_sh, layer_norm_sh, layer_norm, got 'batch'"):
        EquivariantNorm("batch", LMAX, CHANNELS, 0.3)
