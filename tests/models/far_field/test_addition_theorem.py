"""Laws of the standing waves: closed form, addition theorem, size of the truncation."""

from __future__ import annotations

import pytest
import torch
from scipy.special import spherical_jn

from farfield.models.far_field.addition_theorem import (
    standing_waves,
    translation_table,
    translation_tables,
    truncation_degree,
    truncation_error,
)
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, num_rows
from tests.support.draws import draw


def waves(points: torch.Tensor, kappa: float, lmax: int, unit: float = 3.0) -> torch.Tensor:
    """All waves of one kappa, (points, rows)."""
    size = torch.tensor([kappa * unit], dtype=points.dtype)
    squared = kappa**2 * points.square().sum(-1)
    return standing_waves(
        points / unit, squared[None], size, lmax, torch.arange(num_rows(lmax)), degree_of_row(lmax)
    ).T


@pytest.mark.parametrize("unit", [0.5, 3.0, 40.0])
def test_waves_are_bessel_times_harmonic(unit):
    points = 4 * draw(20, 3, seed=0)
    x = 0.7 * points.norm(dim=1).numpy()
    degrees = [l for l in range(13) for _ in range(2 * l + 1)]
    expected = torch.stack(
        [torch.as_tensor(spherical_jn(l, x)) for l in degrees], 1
    ) * spherical_harmonics(points, 12)
    torch.testing.assert_close(waves(points, 0.7, 12, unit), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0])
def test_addition_theorem(scale):
    """Waves of a - b, l <= 3, from waves of a and of b, to rounding where nothing is truncated."""
    a, b = scale * draw(30, 3, seed=1), scale * draw(30, 3, seed=2)
    truncation = 34 if scale > 1 else 20
    matrix = translation_table(3, truncation)
    spread = (matrix @ waves(a, 1.0, truncation + 3).T).unflatten(0, (num_rows(3), -1))
    found = torch.einsum("tpn,np->nt", spread, waves(b, 1.0, truncation))
    torch.testing.assert_close(
        found, waves(a - b, 1.0, 3), rtol=1e-9 if scale < 1 else 1e-11, atol=1e-14
    )


def test_tables_of_several_kappas_are_those_of_each():
    """Blocks of one matrix, for every component of the kernel, and the transpose."""
    tables = translation_tables(1, (2, 0), torch.float64, torch.device("cpu"))
    matrix, transposed = (table.to_dense() for table in tables)
    assert torch.equal(matrix, transposed.T)
    components = matrix.unflatten(0, (num_rows(1), -1))  # (rows, moments of both, waves of both)
    large = translation_table(1, 2).to_dense().unflatten(0, (num_rows(1), -1))
    small = translation_table(1, 0).to_dense().unflatten(0, (num_rows(1), -1))
    expected = torch.stack([torch.block_diag(a, b) for a, b in zip(large, small, strict=True)])
    assert torch.equal(components, expected)


@pytest.mark.parametrize(
    ("tolerance", "a", "b"), [(1e-3, 0.92, 1.2), (1e-5, 1.98, 1.3), (1e-7, 2.99, 1.3)]
)
def test_truncation_follows_the_fitted_law(tolerance, a, b):
    """L_t = Y + a Y^(1/3) + b was fitted to absolute errors of l <= 2.

    Our errors are relative and the worst at the surface; the degree is at most two off.
    """
    for size in (1.0, 2.0, 6.0, 12.0, 24.0, 32.0):
        law = size + a * size ** (1 / 3) + b
        assert abs(truncation_degree(size, tolerance, 2) - law) <= 2
    sizes = [truncation_degree(x / 4, tolerance, 3) for x in range(1, 60)]
    assert sizes == sorted(sizes)
    # A kernel of degree 3 needs sources of degree 3 at any size.
    assert truncation_degree(1e-3, tolerance, 3) >= 3


def test_expected_error_inverts_the_law():
    degree = truncation_degree(6.0, 1e-4, 2)
    assert truncation_error(6.0, degree, 2) <= 1e-4 < truncation_error(6.0, degree - 1, 2)
    assert truncation_error(12.0, degree, 2) > 1e-2
