"""Options of an E2Former: spellings, presets, and what is refused."""

from __future__ import annotations

import pytest

from farfield.models.factory import build_model
from farfield.models.networks.e2former_options import PRESETS, parse_irreps
from tests.support.small_e2former import (
    draw,
)


def test_irreps_in_both_spellings():
    assert parse_irreps("128x0e+128x1o+128x2e") == parse_irreps("128x0e+128x1e+128x2e") == (128, 2)
    assert parse_irreps("4x0e") == (4, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8x0e+8x2e",
        "8x0e+4x1o",
        "8x1o",
        "8x0o+8x1e",
        "8x0e+8x1o+8x2o",
        "8x0e+8x0e",
        "0x0e+0x1o",
        "eight",
        "8x1o+8x0e",
    ],
)
def test_other_irreps_are_refused(text):
    with pytest.raises(ValueError, match="write e.g. 32x0e") as error:
        parse_irreps(text)
    assert repr(text) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_learn(name):
    model, batch = build_model({"name": "e2former", **PRESETS[name]}).train(), draw()
    out = model(batch)
    (out["energy"].square().sum() + out["forces"].square().sum()).backward()
    assert all(
        parameter.grad is None or bool(parameter.grad.isfinite().all())
        for parameter in model.parameters()
    )
    forces = out["forces"].detach()
    assert bool(forces.any()) and float(forces.sum(0).abs().max()) <= 1e-4 * float(
        forces.abs().max()
    )
