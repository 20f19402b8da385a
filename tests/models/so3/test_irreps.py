"""The feature layout: where the rows of a degree stand, and which channels are pseudo ones."""

from __future__ import annotations

import pytest
import torch

from farfield.models.so3.irreps import (
    channel_parity,
    degree_of_row,
    degree_slice,
    num_rows,
    rows_by_order,
)


@pytest.mark.parametrize("lmax", range(6))
def test_layout_of_rows(lmax):
    degree = degree_of_row(lmax)
    assert len(degree) == num_rows(lmax)
    for l in range(lmax + 1):
        assert torch.equal(
            (degree == l).nonzero().flatten(), torch.arange(num_rows(lmax))[degree_slice(l)]
        )
    by_order = rows_by_order(lmax)
    assert torch.equal(by_order.sort().values, torch.arange(num_rows(lmax)))
    order = (by_order - degree[by_order] * (degree[by_order] + 1)).tolist()
    expected = [(0, l) for l in range(lmax + 1)]
    for m in range(1, lmax + 1):
        expected += [(m, l) for l in range(m, lmax + 1)] + [(-m, l) for l in range(m, lmax + 1)]
    assert list(zip(order, degree[by_order].tolist(), strict=True)) == expected


def test_pseudo_channels_are_the_last():
    assert channel_parity(4, 0).tolist() == [False] * 4
    assert channel_parity(4, 3).tolist() == [False, True, True, True]
    for pseudo in (-1, 4):
        with pytest.raises(
            ValueError, match=f"pseudo channels must be in 0 .. 3 .of 4 channels., got {pseudo}"
        ):
            channel_parity(4, pseudo)
