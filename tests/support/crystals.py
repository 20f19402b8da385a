"""Crystals for the tests of the lattice sum: cells, atoms in them, and a spectrum."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from farfield.models.far_field.spectrum import RadialSpectrum, SpectrumOptions
from farfield.models.graph_ops import GraphIndex, broadcast_nodes
from tests.support.draws import draw
from tests.support.far_field_clouds import batch
from tests.support.turns import orthogonal

TRICLINIC = torch.tensor([[6.0, 0.3, -0.5], [1.2, 7.0, 0.4], [-0.8, 1.5, 8.0]], dtype=torch.float64)
CELLS = torch.stack(
    [
        TRICLINIC,
        TRICLINIC @ orthogonal(9) * 1.2,
        torch.diag(torch.tensor([9.0, 5.0, 7.0], dtype=torch.float64)),
    ]
)
SIZES = [5, 1, 7]


def nodes(count: int, kappa_max: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights of (0, kappa_max]."""
    x, weights = np.polynomial.legendre.leggauss(count)
    return kappa_max * (x + 1) / 2, kappa_max * weights / 2


def crystals(
    sizes: list[int] = SIZES, cells: Tensor = CELLS, seed: int = 0
) -> tuple[GraphIndex, Tensor, Tensor]:
    """Graph, positions somewhere in and around the cells, and cells."""
    graph = batch(sizes)
    fractional = 2 * draw(graph.num_nodes, 3, seed=seed)
    return graph, (fractional.unsqueeze(1) @ broadcast_nodes(graph, cells)).squeeze(1), cells


def default_spectrum(lmax: int = 3) -> tuple[tuple[float, ...], Tensor]:
    """The default wave numbers up to 2.4 / Angstrom, random coefficients of two heads."""
    spectrum = RadialSpectrum(lmax, 2, SpectrumOptions(kappa_max=2.4))
    return spectrum.wave_numbers, draw(lmax + 1, 2, len(spectrum.wave_numbers), seed=8)
