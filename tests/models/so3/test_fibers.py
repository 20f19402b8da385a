"""The layout of features with a number of channels of its own for each degree."""

from __future__ import annotations

import torch

from farfield.models.so3.fibers import (
    degree_widths,
    fiber_width,
    join_fiber,
    split_fiber,
    widened,
)
from farfield.models.so3.irreps import num_rows, split_degrees
from tests.support.draws import draw

FIBER = (4, 3, 2)


def test_widths():
    assert degree_widths(FIBER) == [4, 9, 10]
    assert fiber_width(FIBER) == 23 and fiber_width((5,)) == 5
    assert widened(FIBER, 6) == (10, 3, 2)


def test_split_and_join_undo_each_other():
    x = draw(5, fiber_width(FIBER), seed=0)
    parts = split_fiber(x, FIBER)
    assert [part.shape for part in parts] == [(5, 1, 4), (5, 3, 3), (5, 5, 2)]
    assert torch.equal(join_fiber(parts), x)


def test_parts_are_views():
    x = torch.zeros(5, fiber_width(FIBER))
    split_fiber(x, FIBER)[1][2, 1, 0] = 1.0
    # behind the scalars, component by component
    assert x.nonzero().tolist() == [[2, 4 + 3]]


def test_equal_channels_are_the_layout_of_rows_and_channels():
    rows = draw(5, num_rows(2), 3, seed=0)
    parts = split_fiber(rows.flatten(1), (3, 3, 3))
    assert all(torch.equal(*pair) for pair in zip(parts, split_degrees(rows), strict=True))


def test_no_nodes():
    parts = split_fiber(torch.zeros(0, fiber_width(FIBER)), FIBER)
    assert join_fiber(parts).shape == (0, 23)
