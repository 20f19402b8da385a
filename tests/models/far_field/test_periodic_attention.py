"""The attention in crystals: turns, supercells, and which batches it refuses."""

from __future__ import annotations

import pytest
import torch

from farfield.models.far_field.attention import FarFieldAttention, FarFieldOptions
from farfield.models.far_field.expansions.lattice import periodic_cell
from tests.support.crystals import CELLS, crystals
from tests.support.draws import draw
from tests.support.far_field_clouds import batch
from tests.support.turns import orthogonal, relative_error, turned


def attention(**options) -> FarFieldAttention:
    torch.manual_seed(0)
    choices = {
        "value_channels": 4,
        "kernel_lmax": 2,
        "expansion": "lattice",
        "feature_map": "elu",
    }
    kernel = {} if "kernel" in options else {"kernel": "standing_waves", "kappa_max": 0.8}
    return FarFieldAttention(6, 2, FarFieldOptions(**{**choices, **kernel, **options})).double()


@pytest.mark.parametrize("kernel", [{}, {"kernel": "screened"}, {"kernel": "coulomb"}], ids=str)
def test_attention_in_a_crystal_turns_with_it(kernel):
    """The module with its flags: wrapped, turned, and open where no direction is periodic."""
    graph, positions, cells = crystals(cells=CELLS * 2)
    x = draw(graph.num_nodes, 9, 6, seed=2)
    turn = orthogonal(1, False)
    every = torch.ones(3, 3, dtype=torch.bool)  # all directions of all structures
    model = attention(**kernel)
    here = model(graph, positions, x, cells)
    there = model(graph, positions @ turn.T + 3, turned(x, turn, 2), cells @ turn.T, every)
    assert relative_error(there, turned(here, turn, 2)) < 1e-12
    assert relative_error(model(graph, positions, x, cells * 1.01), here) > 1e-3
    open_model = attention(**kernel, expansion="pairwise")
    torch.testing.assert_close(
        open_model(graph, positions, x, cells, ~every), open_model(graph, positions, x)
    )


@pytest.mark.parametrize("normalisation", ["none", "attention"])
def test_open_and_periodic_structures_of_a_batch_are_each_alone(normalisation):
    """In any order, with their derivatives."""
    graph, positions, cells = crystals(cells=CELLS * 2)
    model = attention(kernel="screened", expansion="auto", normalisation=normalisation)
    x = draw(graph.num_nodes, 9, 6, seed=2)
    periodic = torch.tensor([True, False, True])[:, None].expand(3, 3).contiguous()
    positions.requires_grad_(True)
    found = model(graph, positions, x, cells, periodic)
    (slope,) = torch.autograd.grad(found.square().sum(), positions)

    for index, nodes in enumerate(torch.arange(graph.num_nodes).split(list(graph.sizes))):
        own = positions[nodes].detach().requires_grad_(True)
        row = slice(index, index + 1)
        alone = model(batch([len(nodes)]), own, x[nodes], cells[row], periodic[row])
        torch.testing.assert_close(found[nodes], alone)
        (expected,) = torch.autograd.grad(alone.square().sum(), own)
        torch.testing.assert_close(slope[nodes], expected)


@pytest.mark.parametrize("kernel", [{}, {"kernel": "screened"}], ids=str)
@pytest.mark.parametrize(("normalisation", "factor"), [("none", 1.0), ("attention", 0.5)])
def test_messages_of_a_supercell(normalisation, factor, kernel):
    graph, positions, cells = crystals([5], CELLS[:1] * 2)
    x, model = draw(5, 9, 6, seed=2), attention(normalisation=normalisation, **kernel)
    here = model(graph, positions, x, cells)
    double = cells * torch.tensor([2.0, 1, 1], dtype=torch.float64)[:, None]
    there = model(
        batch([10]), torch.cat([positions, positions + cells[0, 0]]), torch.cat([x, x]), double
    )
    assert relative_error(there, factor * torch.cat([here, here])) < 1e-12


def refused(message: str, call) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_lattice_sum_needs_cells():
    graph, positions, _ = crystals()
    refused(
        "LatticeExpansion needs periodic cells",
        lambda: attention()(graph, positions, draw(graph.num_nodes, 9, 6, seed=2)),
    )


@pytest.mark.parametrize(
    ("flags", "cell", "message"),
    [
        (
            [[1, 1, 1], [1, 1, 0]],
            True,
            r"all three directions or in none, got \[True, True, False\] for structure 1",
        ),
        ([[0, 0, 0], [1, 1, 1]], True, "open or periodic as a whole, got 1 periodic of 2"),
        (
            [[1, 1, 1], [1, 1, 1]],
            False,
            r"2 periodic structures need their cells \(2, 3, 3\), got none",
        ),
        ([[1, 1, 1]], True, r"periodic must be \(2, 3\) bool, got \(1, 3\)"),
    ],
)
def test_refuses_directions_in_one_line(flags, cell, message):
    refused(
        message,
        lambda: periodic_cell(
            2, CELLS[:2] if cell else None, torch.tensor(flags, dtype=torch.bool)
        ),
    )


@pytest.mark.parametrize("options", [{"kappa_min": 0.1}, {"kappa_grid": "uniform"}], ids=str)
def test_refuses_wave_numbers_that_are_no_quadrature(options):
    refused(
        "kappa_grid gauss_legendre with kappa_min 0",
        lambda: attention(**options, kernel="standing_waves"),
    )
