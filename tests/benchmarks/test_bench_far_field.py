"""The programs that the far field's benchmark compares compute the same sum."""

import torch

from benchmarks.bench_far_field import LMAX, RADIUS, PlaneWaveBaseline, inputs, ours, wave_numbers
from models.far_field.pairwise import PairwiseExpansion


def test_programs_agree():
    arguments = inputs(30, 4, 8, RADIUS)
    exact = PairwiseExpansion(wave_numbers(RADIUS), LMAX)(*arguments)
    baseline = PlaneWaveBaseline(wave_numbers(RADIUS), LMAX, RADIUS)(*arguments)
    (multipole,) = ours(30, 4, 8, RADIUS).run()
    for found in (baseline, multipole):
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5 * float(exact.detach().abs().max()))
