"""From pairs to atoms: the formulas in loops, and padding without a part."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from farfield.models.layers.pair_decomposers import DECOMPOSERS
from tests.support.draws import draw

AVERAGE = 3.0


def slow_pooling(module: nn.Module, x: Tensor) -> Tensor:
    rows = []
    for i in range(len(x)):
        total = 0.0
        for j in range(len(x)):
            total = total + module.pairs(x[i, j])[:4] + module.pairs(x[j, i])[4:]
        rows.append(module.atoms(total / AVERAGE))
    return torch.stack(rows)


def slow_diagonal(module: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([module.atoms(x[i, i]) for i in range(len(x))])


SLOW = {"pooling": slow_pooling, "diagonal": slow_diagonal}


@pytest.mark.parametrize("name", DECOMPOSERS)
def test_decomposers_are_their_formulas(name, double):
    torch.manual_seed(0)
    module = DECOMPOSERS[name](4, AVERAGE).requires_grad_(False)
    x = draw(2, 5, 5, 4, seed=0)
    real = torch.tensor([[True] * 5, [True, True, True, False, False]])
    x[1, 3:] = x[1, :, 3:] = 1e9
    torch.testing.assert_close(module(x[:1], None)[0], SLOW[name](module, x[0]))
    found = module(x, real)
    torch.testing.assert_close(found[0], SLOW[name](module, x[0]))
    torch.testing.assert_close(found[1, :3], SLOW[name](module, x[1, :3, :3]))
