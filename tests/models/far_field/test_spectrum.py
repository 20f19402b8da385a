"""Laws of the radial functions: closed forms, tails, which coefficients are shared."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import erf, spherical_jn

from farfield.models.far_field.spectrum import MODES, RadialSpectrum, SpectrumOptions


def radial_function(spectrum: RadialSpectrum, l: int, distances: torch.Tensor) -> torch.Tensor:
    """f_l0 at distances (n,): (n,)."""
    waves = spherical_jn(l, np.array(spectrum.wave_numbers) * distances.numpy()[:, None])
    return torch.as_tensor(waves) @ spectrum().detach().double()[l, 0]


def test_starts_as_a_smoothed_coulomb_kernel():
    """With s = 2 / kappa_max, f_0 is proportional to erf(r / (sqrt(2) s)) / r.

    That holds where the nodes resolve r and the band is wide enough.
    """
    spectrum = RadialSpectrum(
        0, 1, SpectrumOptions(num_kappa=40, kappa_max=4.0, low_kappa_bias=18.0)
    )
    width = 6 / 4.0
    distances = torch.linspace(1, 25, 30, dtype=torch.float64)
    ratio = (
        radial_function(spectrum, 0, distances)
        * distances
        / torch.as_tensor(erf((distances / (math.sqrt(2) * width)).numpy()))
    )
    assert (ratio / ratio.mean() - 1).abs().max() < 1e-3


@pytest.mark.parametrize("l", [0, 1, 2])
def test_tails_fall_like_multipoles(l):
    spectrum = RadialSpectrum(
        2, 1, SpectrumOptions(num_kappa=40, kappa_max=4.0, low_kappa_bias=18.0)
    )
    near, far = radial_function(
        spectrum, l, torch.tensor([12.0, 24.0], dtype=torch.float64)
    ).tolist()
    assert math.log2(near / far) == pytest.approx(l + 1, abs=0.02)


@pytest.mark.parametrize("mode", MODES)
def test_modes_share_what_they_say(mode):
    """A learned change of one entry reaches the degrees and heads that share it, and no other."""
    spectrum = RadialSpectrum(
        2,
        3,
        SpectrumOptions(radial_mode=mode, kappa_grid="uniform", kappa_min=0.2),
    )
    before = spectrum().detach()
    assert before.shape == (3, 3, 8)
    with torch.no_grad():
        spectrum.table[0, 0, 3] += 1
    changed = (spectrum() != before).any(-1)
    per_degree, per_head = MODES[mode]
    expected = torch.zeros(3, 3, dtype=torch.bool)
    expected[: 1 if per_degree else 3, : 1 if per_head else 3] = True
    assert torch.equal(changed, expected)


def test_fixed_coefficients_keep_a_learned_gain():
    spectrum = RadialSpectrum(1, 2, SpectrumOptions(learnable_radial=False, radial_scale=0.05))
    assert [name for name, _ in spectrum.named_parameters()] == ["gain"]
    assert float(spectrum()[0].sum(-1)[0].detach()) == pytest.approx(0.05)


def test_original_grid():
    """The band 1.0 .. 1.4 of the public program falls by exp(-bias), the same for all degrees."""
    spectrum = RadialSpectrum(
        2, 1, SpectrumOptions(8, 1.0, 1.4, kappa_grid="uniform", low_kappa_bias=2.0)
    )
    assert spectrum.wave_numbers[0] == 1.0 and spectrum.wave_numbers[-1] == pytest.approx(1.4)
    coefficients = spectrum().detach()
    assert float(coefficients[0, 0, 0] / coefficients[0, 0, -1]) == pytest.approx(
        math.exp(2), rel=1e-5
    )
    assert torch.equal(coefficients[0], coefficients[2])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("kappa_max", 0.0),
        ("kappa_max", -1.0),
        ("kappa_max", math.nan),
        ("kappa_min", 1.9),
        ("num_kappa", 0),
        ("radial_mode", "per_head"),
        ("kappa_grid", "chebyshev"),
    ],
)
def test_refuses_in_one_line(option, value):
    with pytest.raises(ValueError, match=option) as caught:
        SpectrumOptions(**{option: value})
    assert str(value) in str(caught.value) and "\n" not in str(caught.value)
