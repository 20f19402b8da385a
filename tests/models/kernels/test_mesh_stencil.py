"""Laws of spread and read: their dense definition, one result by every way."""

from __future__ import annotations

import pytest
import torch

from farfield.models.kernels.mesh_stencil import (
    MeshStencil,
    counted_bags,
    gathered_dots,
    sampled_dots,
    sorted_bags,
)
from farfield.models.kernels.mesh_window import window_table
from tests.support.draws import draw

SHAPE = (6, 4, 10)


def dense_window(distance: torch.Tensor, order: int) -> torch.Tensor:
    """The window at distances in grid steps, read from its pieces."""
    pieces = window_table(order, 0, torch.float64, distance.device)
    piece = (order / 2 - distance).floor()
    s = distance + piece - order / 2 + 0.5
    inside = (piece >= 0) & (piece < order)
    powers = torch.linalg.vander(s, N=pieces.shape[0])
    values = (powers * pieces.T[piece.clamp(0, order - 1).long()]).sum(-1)
    return torch.where(inside, values, 0.0)


@pytest.mark.parametrize("order", [4, 5])
def test_weights_are_the_window_of_all_images(order):
    """Dense weights with the images of every grid point; order 5 is wider than four points."""
    places = 20 * draw(7, 3, seed=0)
    stencil = MeshStencil(places, SHAPE, order, torch.float64)
    dense = torch.ones(7, 1, dtype=torch.float64)
    for axis, size in enumerate(SHAPE):
        inside = places[:, axis, None, None] % size
        distance = inside - torch.arange(size)[:, None] + size * torch.arange(-3, 4)
        along = dense_window(distance, order).sum(2)  # (atoms, size)
        dense = (dense[:, :, None] * along[:, None, :]).flatten(1)

    mesh, sources = draw(240, 2, seed=1), draw(7, 2, seed=2)
    torch.testing.assert_close(stencil.read(mesh), dense @ mesh)
    torch.testing.assert_close(stencil.spread(sources), dense.T @ sources)


@pytest.mark.parametrize("order", [3, 6, 13])
def test_pieces_of_the_window_meet(order):
    """Each ends where the next begins, and the first and the last end at zero."""
    pieces = window_table(order, 0, torch.float64, torch.device("cpu"))
    ends = (
        torch.linalg.vander(torch.tensor([-0.5, 0.5], dtype=torch.float64), N=pieces.shape[0])
        @ pieces
    )  # (2, order)
    zero = torch.zeros(1, dtype=torch.float64)
    left, right = torch.cat([ends[1], zero]), torch.cat([zero, ends[0]])
    # to the rounding of the fit, far below the error of the window
    assert (left.flip(0) - right.flip(0)).abs().max() < 1e-3 * 10.0 ** (1 - order) + 1e-14


def test_bags_by_sorting_and_by_counting():
    points = torch.randint(0, 40, (30, 27), generator=torch.Generator().manual_seed(0)).int()
    for one, other in zip(counted_bags(points, 40), sorted_bags(points, 40), strict=True):
        assert torch.equal(one, other)


def test_dots_by_sampling_and_by_gathering(monkeypatch):
    """Also with points that come twice, and a few atoms at a time."""
    monkeypatch.setattr("farfield.models.kernels.mesh_stencil.VALUES_PER_TEMPORARY", 200)
    points = torch.randint(0, 40, (30, 27), generator=torch.Generator().manual_seed(0)).int()
    mesh, sources = draw(40, 3, seed=1), draw(30, 3, seed=2)
    dense = (sources @ mesh.T).gather(1, points.long())
    torch.testing.assert_close(sampled_dots(points, mesh, sources), dense)
    torch.testing.assert_close(gathered_dots(points, mesh, sources), dense)


def test_too_many_atoms_are_refused():
    places = torch.zeros(1, 3, dtype=torch.float64).expand(10**7, 3)
    with pytest.raises(ValueError, match="limit is 9942053: use a larger tolerance"):
        MeshStencil(places, SHAPE, 6, torch.float32)
