"""Laws of padded batches: the rows come and go unchanged, with all derivatives."""

from __future__ import annotations

import pytest
import torch

from farfield.models.kernels.padding import Padding
from tests.support.draws import draw

MASKS = {
    "prefix": [[1, 1, 0], [1, 0, 0], [1, 1, 1]],
    "holes": [[0, 1, 0, 1], [1, 0, 0, 1]],
    "empty graph": [[0, 0], [1, 1], [0, 0]],
    "full": [[1, 1], [1, 1]],
    "no node": [[0, 0]],
}


@pytest.fixture(params=MASKS, ids=str)
def mask(request) -> torch.Tensor:
    return torch.tensor(MASKS[request.param], dtype=torch.bool)


def values(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Values of any type, no two floats alike."""
    return (
        draw(*shape, seed=0).gt(0)
        if dtype == torch.bool
        else (1e3 * draw(*shape, seed=0)).to(dtype)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
@pytest.mark.parametrize("tail", [(), (3,), (2, 0), (2, 5)])
def test_rows_are_those_of_a_loop(mask, dtype, tail):
    """Graph after graph, place after place, and back with the fill in between."""
    padding = Padding.of(mask)
    dense = values((*mask.shape, *tail), dtype)
    rows = padding.ragged(dense)
    places = [(g, p) for g, row in enumerate(mask.tolist()) for p, here in enumerate(row) if here]
    assert rows.dtype == dtype and rows.shape == (len(places), *tail)
    assert all(torch.equal(row, dense[place]) for row, place in zip(rows, places, strict=True))

    back = padding.padded(rows, fill=1)
    assert back.dtype == dtype and torch.equal(padding.ragged(back), rows)
    assert torch.equal(back[mask], dense[mask]) and bool((back[~mask] == 1).all())
    assert not padding.padded(rows)[~mask].any()


def test_counts_and_places_describe_the_mask(mask):
    padding = Padding.of(mask)
    assert padding.counts.dtype == torch.int64 and padding.counts.tolist() == mask.sum(1).tolist()
    assert padding.num_nodes == int(mask.sum())
    assert torch.equal(mask.flatten()[padding.places], torch.ones(padding.num_nodes) > 0)


@pytest.mark.parametrize("sizes", [[2, 0, 3], [1], [0, 0], [], [4, 4]])
def test_counts_make_a_prefix(sizes):
    padding = Padding.of_counts(torch.tensor(sizes, dtype=torch.int64))
    assert padding.counts.tolist() == sizes
    assert padding.mask.shape == (len(sizes), max(sizes, default=0))
    assert all(row[:size].all() for row, size in zip(padding.mask, sizes, strict=True))


def test_both_ways_have_all_derivatives(mask):
    """First and second derivatives against differences, of values that are not linear."""
    padding = Padding.of(mask)
    dense = draw(*mask.shape, 2, seed=1).requires_grad_()
    rows = draw(padding.num_nodes, 2, seed=2).requires_grad_()
    for function, argument in (
        (lambda x: padding.ragged(x.sin()).exp(), dense),
        (lambda x: padding.padded(x.sin(), fill=0.5).exp(), rows),
    ):
        if argument.numel():
            assert torch.autograd.gradcheck(function, argument)
            assert torch.autograd.gradgradcheck(function, argument)


def test_padding_gets_no_gradient_and_gives_none(mask):
    padding = Padding.of(mask)
    dense = draw(*mask.shape, 2, seed=1)
    dense[~mask] = torch.nan
    dense.requires_grad_()
    back = padding.padded(padding.ragged(dense))
    (gradient,) = torch.autograd.grad(back.sum(), dense)
    assert torch.equal(gradient, mask.unsqueeze(-1).expand_as(dense).double())


@pytest.mark.parametrize(
    ("call", "quoted"),
    [
        (lambda: Padding.of(torch.ones(2, 3)), ["bool", "float32", "(2, 3)"]),
        (lambda: Padding.of(torch.ones(3, dtype=torch.bool)), ["(graphs, longest)", "(3,)"]),
        (lambda: Padding.of_counts(torch.tensor([[1]])), ["nodes_per_graph", "(1, 1)"]),
        (lambda: Padding.of_counts(torch.tensor([2, -1])), ["nodes_per_graph", "[2, -1]"]),
        (lambda: three_nodes().ragged(torch.ones(3, 2)), ["(2, 2)", "(3, 2)"]),
        (lambda: three_nodes().padded(torch.ones(4, 2)), ["3 nodes", "(4, 2)"]),
        (lambda: three_nodes().padded(torch.tensor(1.0)), ["3 nodes", "()"]),
    ],
)
def test_bad_shapes_are_quoted(call, quoted):
    with pytest.raises(ValueError) as error:
        call()
    assert all(part in str(error.value) for part in quoted) and "\n" not in str(error.value)


def three_nodes() -> Padding:
    return Padding.of_counts(torch.tensor([2, 1]))
