"""Products on a grid: their definition, the same in chunks, and all derivatives."""

from __future__ import annotations

import pytest
import torch

from farfield.models.kernels import grid_product
from farfield.models.kernels.grid_product import GridForm
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw

POINTS, ROWS, NODES, CHANNELS = 6, 4, 5, 3


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    return draw(POINTS, ROWS, seed=8), draw(ROWS, POINTS, seed=9)


def features(*seeds: int) -> list[torch.Tensor]:
    return [draw(ROWS, NODES, CHANNELS, seed=seed).requires_grad_(True) for seed in seeds]


@pytest.mark.parametrize("budget", [1, 2 * POINTS * CHANNELS, 2**20])
def test_definition_in_chunks_of_nodes(budget, monkeypatch):
    monkeypatch.setattr(grid_product, "VALUES_PER_CHUNK", budget)
    (to_grid, from_grid), (first, second) = maps(), features(0, 1)
    found = grid_product.grid_product(to_grid, from_grid, first, second)
    values = torch.einsum("pr,rnc->pnc", to_grid, first) * torch.einsum(
        "pr,rnc->pnc", to_grid, second
    )
    expected = torch.einsum("rp,pnc->rnc", from_grid, values)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_all_derivatives(monkeypatch):
    monkeypatch.setattr(grid_product, "VALUES_PER_CHUNK", 2 * POINTS * CHANNELS)
    to_grid, from_grid = maps()

    def product(first, second):
        return grid_product.grid_product(to_grid, from_grid, first, second)

    assert_all_derivatives(product, features(0, 1))


def test_one_sweep_gives_what_single_contractions_give():
    form = GridForm(*maps())
    given = dict(zip(form.arguments, features(0, 1, 2), strict=True))
    together = form.contract(set(form.arguments), given)
    for name, found in together.items():
        others = {other: value for other, value in given.items() if other != name}
        torch.testing.assert_close(found, form.contract({name}, others)[name], rtol=0, atol=0)
