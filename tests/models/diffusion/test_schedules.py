"""Noise schedules against their closed forms, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from farfield.models.diffusion.process import DiffusionProcess, ProcessOptions
from farfield.models.diffusion.schedules import SCHEDULES, VARIANCES

EVERY_SCHEDULE = pytest.mark.parametrize("name", SCHEDULES)


def process(schedule: str, steps: int = 1000, variance: str = "lower") -> DiffusionProcess:
    return DiffusionProcess(ProcessOptions(schedule, steps, variance))


def close(found: float, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-15)


@pytest.mark.parametrize("steps", [10, 1000])
def test_polynomial_is_its_closed_form(steps):
    """Of all steps but the last the product of ratios telescopes."""
    kept = SCHEDULES["polynomial"](steps)
    plain = [(1 - (k / steps) ** 2) ** 2 for k in range(1, steps + 1)]
    plain[-1] = 1e-3 * plain[-2]  # the last ratio is zero, clipped
    for found, expected in zip(kept.tolist(), plain, strict=True):
        assert close(found, (1 - 2e-5) * expected + 1e-5)


def test_cosine_is_its_closed_form():
    def curve(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    kept = SCHEDULES["cosine"](100)
    for k in range(1, 100):
        assert close(float(kept[k - 1]), curve(k / 100) / curve(0))
    assert close(float(kept[99] / kept[98]), 1e-3)


def test_linear_is_its_closed_form():
    """At T = 1000 the betas of Ho et al.; at another T the same curve of abar, nearly."""
    product, kept = 1.0, SCHEDULES["linear"](1000)
    for t in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
        assert close(float(kept[t]), product)
    assert abs(float(SCHEDULES["linear"](500)[249] - kept[499])) < 1e-3


@EVERY_SCHEDULE
@pytest.mark.parametrize("steps", [25, 1000])
def test_the_share_of_the_molecule_falls_from_near_one_to_near_zero(name, steps):
    kept = process(name, steps).alpha_bar
    assert kept.dtype == torch.float64 and kept.shape == (steps,)
    assert bool((kept[1:] < kept[:-1]).all())
    assert float(kept[0]) > 0.95 and 0 < float(kept[-1]) < 2e-2


@EVERY_SCHEDULE
@pytest.mark.parametrize("variance", VARIANCES)
def test_what_follows_from_the_shares(name, variance):
    made = process(name, 50, variance)
    kept = made.alpha_bar.tolist()
    for t in range(50):
        alpha = kept[t] / kept[t - 1] if t else kept[0]
        assert close(float(made.alpha[t]), alpha) and close(float(made.beta[t]), 1 - alpha)
        assert close(float(made.beta_bar[t]), 1 - kept[t])

        # entry 0 is that of t = 1, of the lower bound
        at = max(t, 1)
        ratio = 1 - kept[at] / kept[at - 1]
        lower = ratio * (1 - kept[at - 1]) / (1 - kept[at])
        expected = {"lower": lower, "upper": ratio if t else lower, "zero": 0.0}[variance]
        assert math.isclose(float(made.variance[t]), expected, rel_tol=1e-10)
    assert variance == "zero" or bool((made.variance > 0).all())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"variance": "middle"}, "variance must be one of lower, upper, zero"),
        ({"time_steps": 1}, "time_steps must be >= 2, got 1"),
        ({"schedule": "linear", "time_steps": 20}, "time_steps of the linear schedule must be"),
    ],
)
def test_bad_processes_are_one_line(options, words):
    with pytest.raises(ValueError, match=words) as error:
        DiffusionProcess(ProcessOptions(**options))
    assert "\n" not in str(error.value)
