"""The benchmark of rounded products sees the steps of an energy, and none without rounding."""

from __future__ import annotations

import torch

from benchmarks.accuracy.bench_precision import SLOPE_STEPS, rounded_copy, slope_errors
from farfield.models.factory import build_model
from farfield.models.potential import Potential
from tests.support.small_e2former import SMALL, random_batch


def test_rounding_parts_the_force_from_the_slope():
    torch.manual_seed(0)
    model = build_model(SMALL).eval()
    assert isinstance(model, Potential) and model.forces == "conservative"
    model.set_reference(dict.fromkeys((1, 6, 8), 0.0))
    batch = random_batch([5, 7], torch.Generator().manual_seed(0))

    smooth = slope_errors(model.double(), batch.to(dtype=torch.float64))
    steps = slope_errors(rounded_copy(model.float()), batch)
    fine, coarse = SLOPE_STEPS
    assert smooth[fine] < 0.02 * smooth[coarse]  # central differences: the square of the step
    assert steps[fine] > 100 * smooth[fine]
