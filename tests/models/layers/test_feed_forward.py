"""Laws of the feed-forward networks and of their grid.

Exact symmetry, non-linearity in every degree, derivatives; exactness of the grid.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.models.layers import feed_forward
from farfield.models.layers.feed_forward import FEED_FORWARDS, grid_maps, sphere_grid
from farfield.models.so3.harmonics import solid_harmonics
from farfield.models.so3.irreps import num_rows, split_degrees
from tests.support.turns import orthogonal, relative_error, turned

LAWS = settings(max_examples=6, deadline=None, derandomize=True, database=None)
CHANNELS, HIDDEN = 5, 7
EVERY_KIND = pytest.mark.parametrize("kind", FEED_FORWARDS)


def layer(kind: str, lmax: int, channels: int = CHANNELS, hidden: int = HIDDEN) -> torch.nn.Module:
    """In float64, with no parameter at its symmetric start."""
    torch.manual_seed(0)
    made = FEED_FORWARDS[kind](lmax, channels, hidden).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def features(lmax: int, seed: int = 0, nodes: int = 4, channels: int = CHANNELS) -> Tensor:
    return torch.randn(
        nodes,
        num_rows(lmax),
        channels,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )


@EVERY_KIND
@LAWS
@given(seed=st.integers(0, 10_000), proper=st.booleans(), lmax=st.integers(1, 4))
def test_equivariant_under_rotations_and_reflections(kind, seed, proper, lmax):
    made, matrix, x = layer(kind, lmax), orthogonal(seed, proper), features(lmax, seed)
    with torch.no_grad():
        assert relative_error(made(turned(x, matrix, lmax)), turned(made(x), matrix, lmax)) <= 1e-12


@EVERY_KIND
def test_every_degree_is_non_linear(kind):
    made, x = layer(kind, 2), features(2)
    with torch.no_grad():
        doubled, once, zero = made(2 * x), made(x), made(0 * x)
    bend = doubled - 2 * once + zero
    assert all(float(part.abs().max()) > 1e-2 for part in split_degrees(bend))


@EVERY_KIND
@pytest.mark.parametrize("lmax", [0, 1, 2, 3])
def test_keeps_the_size_of_features(kind, lmax):
    torch.manual_seed(0)
    made, x = FEED_FORWARDS[kind](lmax, 64, 64).double(), features(lmax, nodes=40, channels=64)
    for part in split_degrees(made(x).detach()):
        assert 0.3 <= float(part.square().mean()) <= 3


@EVERY_KIND
def test_second_derivatives(kind):
    made = layer(kind, 2, 2, 2)
    x = features(2, nodes=1, channels=2)
    assert torch.autograd.gradgradcheck(made, (x.requires_grad_(True),), atol=1e-6)


@EVERY_KIND
def test_each_node_alone(kind):
    made, x = layer(kind, 2), features(2)
    torch.testing.assert_close(made(x[1:2])[0], made(x)[1], rtol=0, atol=1e-13)
    assert made(x[:0]).shape == (0, num_rows(2), CHANNELS)


@pytest.mark.parametrize("degree", [0, 1, 4, 6, 9])
def test_grid_is_exact_for_its_degree(degree):
    """All harmonics of degree 1 .. ``degree`` have mean 0 on the grid.

    It holds unit vectors and positive weights of sum 1.
    """
    points, weights = sphere_grid(degree)
    assert float(weights.min()) > 0 and abs(float(weights.sum()) - 1) <= 1e-14
    torch.testing.assert_close(points.norm(dim=1), torch.ones(len(points), dtype=torch.float64))
    means = weights @ solid_harmonics(points, degree)
    assert float(means[1:].abs().sum()) <= 1e-12 and abs(float(means[0]) - 1) <= 1e-13


def test_grid_takes_features_there_and_back():
    to_grid, from_grid = grid_maps(2, 4, torch.float64, torch.device("cpu"))
    both = from_grid @ to_grid
    torch.testing.assert_close(both, both[0, 0] * torch.eye(9, dtype=torch.float64))
    # a constant is a scalar
    torch.testing.assert_close(from_grid.sum(1), torch.eye(9, dtype=torch.float64)[0])


def test_a_coarser_grid_would_turn_features_wrongly(monkeypatch):
    """The exactness 3 lmax is needed: with one degree less the layer is not equivariant."""
    made, matrix, x = layer("sphere_grid", 2), orthogonal(0), features(2)
    coarse = grid_maps(2, 5, torch.float64, torch.device("cpu"))
    monkeypatch.setattr(feed_forward, "grid_maps", lambda *arguments: coarse)
    with torch.no_grad():
        assert relative_error(made(turned(x, matrix, 2)), turned(made(x), matrix, 2)) > 1e-6
