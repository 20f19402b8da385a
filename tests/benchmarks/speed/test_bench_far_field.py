"""The programs that the far field's benchmark compares compute the same sum."""

import torch

from benchmarks.speed.bench_far_field import exponents
from benchmarks.speed.far_field_programs import (
    LMAX,
    RADIUS,
    PlaneWaveBaseline,
    inputs,
    reduced,
    wave_numbers,
)
from farfield.models.far_field.expansions.pairwise import PairwiseExpansion


def test_programs_agree():
    arguments = inputs(30, 4, 8, RADIUS)
    exact = PairwiseExpansion(wave_numbers(RADIUS), LMAX)(*arguments)
    baseline = PlaneWaveBaseline(wave_numbers(RADIUS), LMAX, RADIUS)(*arguments)
    torch.testing.assert_close(
        baseline, exact, rtol=1e-4, atol=1e-5 * float(exact.detach().abs().max())
    )
    (multipole,) = reduced(30, 4, 8, RADIUS, RADIUS).run()
    torch.testing.assert_close(
        multipole,
        exact.flatten(1).mean(1),
        rtol=1e-3,
        atol=1e-5 * float(exact.detach().abs().max()),
    )


def test_exponents_are_those_of_a_power_law():
    rows = [
        {
            "law": "fixed to the ball",
            "shape": "d=8 C=16",
            "atoms": n,
            "train": 3 * n**1.5,
            "memory": 2 * n,
        }
        for n in (10, 100, 1000)
    ]
    assert exponents([*rows, {"law": "fixed in space", "shape": "d=8 C=16"}]).endswith(
        "time ~ atoms^1.50, memory ~ atoms^1.00"
    )
