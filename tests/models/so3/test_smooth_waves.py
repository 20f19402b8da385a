"""Waves ``j_l(kappa r) Y_lm`` without a division by r: no overflow, Helmholtz' equation."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from farfield.models.so3.bessel import leading_term, scaled_bessel, spherical_bessel
from farfield.models.so3.harmonics import solid_harmonics, spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, degree_slice
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw


def smooth_waves(vectors: Tensor, kappa: float, size: float, lmax: int) -> Tensor:
    """j_l(kappa r) Y_lm without a division by r."""
    radial = leading_term(vectors.new_tensor(kappa * size), lmax) * scaled_bessel(
        (kappa * vectors).square().sum(-1), lmax
    )
    return radial[..., degree_of_row(lmax)] * solid_harmonics(vectors / size, lmax)


@pytest.mark.parametrize(
    ("dtype", "bar"), [(torch.float32, 1e-5), (torch.float64, 2e-14)], ids=["float32", "float64"]
)
@pytest.mark.parametrize("kappa", [0.02, 0.3, 1.6])
def test_smooth_waves_neither_overflow_nor_lose_digits(kappa, dtype, bar):
    """In a ball of radius 20 to degree 40, against the product of the two functions in float64."""
    lmax, size = 40, 20.0
    directions = draw(50, 3, seed=2)
    lengths = torch.linspace(0, size, 50, dtype=torch.float64)[:, None]
    vectors = (lengths * directions / directions.norm(dim=-1, keepdim=True)).to(dtype)
    found = smooth_waves(vectors, kappa, size, lmax).double()
    exact_vectors = vectors.double()
    radial = spherical_bessel(kappa * exact_vectors.norm(dim=-1), lmax)[:, degree_of_row(lmax)]
    expected = radial * spherical_harmonics(exact_vectors, lmax)
    assert float((found - expected).abs().max()) <= bar
    largest = spherical_bessel(kappa * lengths[:, 0], lmax).abs().amax(0)
    for l in range(lmax + 1):
        if largest[l] > 1e-30:
            assert float((found - expected)[:, degree_slice(l)].abs().max()) <= 10 * bar * float(
                largest[l]
            )


def test_smooth_waves_obey_helmholtz():
    """Laplacian B = -kappa^2 B, at r = 0 as elsewhere, for every component."""
    kappa, lmax = 0.8, 5
    vectors = draw(4, 3, seed=3)
    vectors[0] = 0
    vectors.requires_grad_(True)
    waves = smooth_waves(vectors, kappa, 3.0, lmax)
    for row in range(waves.shape[1]):
        (gradient,) = torch.autograd.grad(waves[:, row].sum(), vectors, create_graph=True)
        laplacian = sum(
            torch.autograd.grad(gradient[:, a].sum(), vectors, retain_graph=True)[0][:, a]
            for a in range(3)
        )
        torch.testing.assert_close(
            laplacian, -(kappa**2) * waves[:, row].detach(), rtol=0, atol=1e-13
        )
    call = functools.partial(smooth_waves, kappa=kappa, size=3.0, lmax=lmax)
    assert_all_derivatives(call, [vectors])
