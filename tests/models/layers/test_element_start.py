"""Elements of one group start alike, and nothing else changes."""

import torch
from torch import nn

from farfield.models.layers.element_start import (
    ELEMENT_STARTS,
    SHARE,
    element_properties,
    shells,
    start_from_periodic_table,
)

FLUORINE, CHLORINE, SODIUM, IRON = 9, 17, 11, 26


def test_shells_of_known_elements():
    assert shells(1, 1) == (1, 0, 0, 0)
    assert shells(FLUORINE, 2) == (2, 5, 0, 0)
    assert shells(IRON, 4) == (2, 0, 6, 0)
    assert shells(64, 6) == (2, 0, 0, 8)  # gadolinium, by the order of filling
    assert shells(79, 6) == (2, 0, 9, 14)  # gold
    assert shells(118, 7) == (2, 6, 10, 14)


def test_properties_are_standardised():
    table = element_properties()
    assert table.shape == (118, 6)
    torch.testing.assert_close(
        table.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(table.std(0, correction=0), torch.ones(6, dtype=torch.float64))


def test_halogens_start_nearer_to_each_other_than_to_metals():
    torch.manual_seed(0)
    table = nn.Embedding(119, 512)
    padding = table.weight[0].clone()
    start_from_periodic_table(table)
    weight = table.weight.detach()
    distance = torch.cdist(weight, weight)
    assert distance[FLUORINE, CHLORINE] < 0.8 * distance[FLUORINE, SODIUM]
    assert distance[FLUORINE, CHLORINE] < 0.8 * distance[CHLORINE, IRON]
    assert torch.equal(weight[0], padding)

    # the spread stays that of the random start, and no two elements are equal
    assert abs(float(weight[1:].std()) - 1) < 0.05
    apart = distance[1:, 1:] + 1e9 * torch.eye(118)
    assert float(apart.min()) > 0.5 * (2 * 512 * (1 - SHARE)) ** 0.5


def test_a_random_start_is_kept():
    table = nn.Embedding(119, 4)
    before = table.weight.clone()
    ELEMENT_STARTS["random"](table)
    assert torch.equal(table.weight, before)
