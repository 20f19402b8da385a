"""Features of pairs: no direction where there is none, smooth on every axis, turned or not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from farfield.models.layers.pair_embedding import DirectionWaves, LearnedGaussians, PairEmbedding
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw


@pytest.fixture
def embedding(double) -> PairEmbedding:
    torch.manual_seed(0)
    return PairEmbedding(6, gaussians=5, waves=4)


def of_vectors(embedding: PairEmbedding, vectors: Tensor) -> Tensor:
    """Features of the pairs of atom 0 with atoms at ``vectors``, without the atoms themselves."""
    positions = torch.cat([torch.zeros(1, 3), vectors]).unsqueeze(0)
    return embedding(positions, torch.zeros(1, len(positions), 6))[0, 0, 1:]


def test_pairs_are_the_sum_of_their_parts(embedding):
    positions, atoms = draw(2, 4, 3, seed=0), draw(2, 4, 6, seed=1)
    found = embedding(positions, atoms)
    for graph, i, j in [(0, 1, 3), (1, 2, 0), (1, 3, 3)]:
        vector = positions[graph, j] - positions[graph, i]
        length = (vector.square().sum() + 1e-4).sqrt()
        expected = embedding.distance(length) + embedding.direction(vector / length)
        expected = expected + embedding.first.weight @ atoms[graph, i]
        expected = expected + embedding.second.weight @ atoms[graph, j]
        torch.testing.assert_close(found[graph, i, j], expected)


def test_a_pair_without_direction_has_no_waves(embedding):
    waves = embedding.direction[0]
    assert not waves(torch.zeros(3)).any() and bool(waves(torch.tensor([0.0, 0.0, 1.0])).any())


SPECIAL = {
    "zero": [0.0, 0.0, 0.0],
    "nearly zero": [1e-9, 0.0, -1e-9],
    "pole": [0.0, 0.0, 1.2],
    "other pole": [0.0, 0.0, -1.2],
    "where the azimuth jumps": [-1.0, 0.0, 0.3],
    "usual": [0.4, -0.8, 0.5],
}


@pytest.mark.parametrize("vector", SPECIAL.values(), ids=SPECIAL)
def test_smooth_in_every_direction(embedding, vector):
    """First and second derivatives agree with differences, at poles and where the azimuth jumps."""
    point = torch.tensor([vector], requires_grad=True)
    if not any(vector):  # differences of the soft length need steps far below its softness
        slopes = torch.autograd.grad(of_vectors(embedding, point).sum(), point, create_graph=True)
        (second,) = torch.autograd.grad(slopes[0].sum(), point)
        assert torch.isfinite(slopes[0]).all() and torch.isfinite(second).all()
    elif max(map(abs, vector)) > 1e-3:
        assert_all_derivatives(lambda given: of_vectors(embedding, given), [point])
    else:
        near = of_vectors(embedding, torch.zeros(1, 3))
        assert float((of_vectors(embedding, point) - near).detach().abs().max()) <= 1e-6


def test_waves_have_lengths_from_a_quarter_to_four():
    waves = DirectionWaves(5)
    lengths = 2 * torch.pi / waves.wave_number
    torch.testing.assert_close(lengths[[0, -1]], torch.tensor([4.0, 0.25]))
    torch.testing.assert_close(lengths[1:] / lengths[:-1], torch.full((4,), 0.5))
    assert waves(torch.zeros(2, 3)).shape == (2, waves.size)


def test_without_waves_the_frame_is_not_seen(double):
    torch.manual_seed(0)
    plain = PairEmbedding(6, gaussians=5, waves=0)
    positions, atoms = draw(1, 4, 3, seed=0), draw(1, 4, 6, seed=1)
    turn, _ = torch.linalg.qr(draw(3, 3, seed=2))
    torch.testing.assert_close(plain(positions @ turn.T, atoms), plain(positions, atoms))


@pytest.mark.parametrize("size", [1, 7])
def test_gaussians_cover_the_range(size):
    gaussians = LearnedGaussians(size)
    torch.testing.assert_close(gaussians(gaussians.centre).diagonal(), torch.ones(size))
    assert gaussians(torch.tensor([[0.5, 1.0]])).shape == (1, 2, size)
