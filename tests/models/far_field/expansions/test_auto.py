"""Laws of the choice between expansions: the same sum, and never decided by the batch."""

from __future__ import annotations

import pytest
import torch

from farfield.models.far_field.expansion import ExpansionOptions
from farfield.models.far_field.expansions.auto import AutoExpansion
from farfield.models.far_field.expansions.lattice import LatticeExpansion
from farfield.models.far_field.expansions.multipole import MultipoleExpansion
from farfield.models.far_field.expansions.pairwise import PairwiseExpansion
from farfield.models.far_field.spectrum import RadialSpectrum, SpectrumOptions
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.far_field_clouds import CORNERS, ball, batch, features

OPTIONS = ExpansionOptions(tolerance=1e-2, design_radius=6.0)
KAPPA = (0.3, 0.9)


class Mixed(AutoExpansion):
    """Graphs of fewer than six atoms by pairs."""

    def prefers_pairs(
        self, sizes: torch.Tensor, heads: int, keys: int, values: int
    ) -> torch.Tensor:
        return sizes < 6


def test_each_graph_gets_its_own_expansion_in_its_own_place():
    """A coarse multipole expansion, so that the two differ."""
    graph = batch([*CORNERS, 0, 7])
    inputs = graph, ball(graph, 6.0), *features(graph), draw(3, 2, 2, seed=8)
    found = Mixed(KAPPA, 2, OPTIONS)(*inputs)
    by_pairs = PairwiseExpansion(KAPPA, 2, OPTIONS)(*inputs)
    by_multipoles = MultipoleExpansion(KAPPA, 2, OPTIONS)(*inputs)
    small = (graph.nodes_per_graph < 6)[graph.graph_of_node]
    assert (by_pairs - by_multipoles).norm() > 1e-6 * by_pairs.norm()
    torch.testing.assert_close(found[small], by_pairs[small], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[~small], by_multipoles[~small], rtol=1e-12, atol=1e-12)


def test_the_batch_decides_nothing():
    graph = batch(CORNERS)
    positions, parts, coefficients = ball(graph, 6.0), features(graph), draw(3, 2, 2, seed=8)
    expansion = Mixed(KAPPA, 2, OPTIONS)
    together = expansion(graph, positions, *parts, coefficients)
    for g, size in enumerate(CORNERS):
        own = graph.graph_of_node == g
        alone = expansion(
            batch([size]), positions[own], *(part[own] for part in parts), coefficients
        )
        torch.testing.assert_close(together[own], alone, rtol=1e-12, atol=1e-12)


def test_derivatives_of_a_mixed_batch():
    graph = batch([6, 2])
    inputs = [
        part.requires_grad_()
        for part in (ball(graph, 2.0), *features(graph, (1, 1, 1)), draw(2, 1, 2, seed=8))
    ]
    expansion = Mixed(KAPPA, 1, ExpansionOptions(tolerance=0.1, design_radius=2.0))
    assert_all_derivatives(lambda *x: expansion(graph, *x), inputs)


def test_break_even_grows_with_moments_and_falls_with_the_cost_of_a_pair():
    """One change of mind, at the number of atoms that the two costs ask for."""
    sizes = torch.arange(1, 6000)

    def break_even(radius: float, keys: int, lmax: int = 2) -> int:
        by_pairs = AutoExpansion(KAPPA, lmax, ExpansionOptions(design_radius=radius)).prefers_pairs(
            sizes, 4, keys, 36
        )
        assert (by_pairs.diff().int() != 0).sum() == 1
        return int(by_pairs.sum())

    assert 20 < break_even(5.0, 8) < break_even(15.0, 8) < break_even(15.0, 32) < 5000


def test_cells_go_to_the_lattice_sum_and_wave_numbers_must_suit_it():
    spectrum = RadialSpectrum(1, 2, SpectrumOptions(num_kappa=4, kappa_max=2.0)).double()
    graph, cell = batch([5]), 7.0 * torch.eye(3, dtype=torch.float64)[None]
    inputs = graph, ball(graph, 3.0), *features(graph), spectrum().detach(), cell
    found = AutoExpansion(spectrum.wave_numbers, 1)(*inputs)
    torch.testing.assert_close(
        found, LatticeExpansion(spectrum.wave_numbers, 1)(*inputs), rtol=1e-12, atol=1e-14
    )
    with pytest.raises(ValueError, match="gauss_legendre"):
        AutoExpansion((1.0, 1.4), 1)(
            graph, ball(graph, 3.0), *features(graph), draw(2, 2, 2, seed=8), cell
        )
