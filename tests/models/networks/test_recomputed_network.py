"""A network that makes temporaries again predicts and learns what it does otherwise: energy,
forces, stress and the gradient of a loss on all of them, in less memory.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.factory import build_model
from farfield.models.kernels import edge_curves, edge_slots
from farfield.models.potential import Potential
from tests.support.live_bytes import LiveBytes
from tests.support.small_e2former import LATTICE, crystal, draw, made


def gradients(model: Potential, batch: AtomBatch) -> list[Tensor]:
    """All predictions, and the gradients of a loss on them; random numbers of depth are fixed."""
    torch.manual_seed(0)
    out = model(batch)
    loss = sum(value.square().sum() for value in out.values())
    weights = list(model.parameters())
    found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return [*(value.detach() for value in out.values()), *found]


def assert_same(batch: AtomBatch, **options) -> None:
    model = made(**options).train()
    expected = gradients(model, batch)
    model.network.recompute_parts()
    for found, value in zip(gradients(model, batch), expected, strict=True):
        scale = max(float(value.abs().max()), 1.0)
        torch.testing.assert_close(found, value, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "hybrid-first-order", "feed_forward": "sphere_grid"},
        {"schedule": "all-order", "near_score": "dot_alpha", "norm": "layer_norm"},
        {"schedule": "first-order", "feed_forward": "sphere_grid", "drop_path": 0.5},
        {"schedule": "second-order", "feed_forward": "two_body", "radial_basis": "bessel"},
        {"schedule": "first-order", "forces": "direct", "feed_forward": "sphere_grid"},
        {"schedule": "first-order", "charges": "latent", "norm": "layer_norm_sh"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_predictions_and_gradients_of_a_loss(options, double):
    assert_same(draw(), near_kernel_implementation="memory_efficient", **options)


def test_stress_of_a_crystal(double):
    assert_same(crystal(), **LATTICE, feed_forward="sphere_grid", stress=True)


def test_an_evaluation_is_the_same_bit_for_bit():
    model, batch = made(feed_forward="sphere_grid"), draw()
    before = model(batch)
    model.network.recompute_parts()
    for name, value in model(batch).items():
        assert torch.equal(value, before[name])


def test_a_training_step_takes_a_third_less_memory(monkeypatch):
    # temporaries of one chunk do not grow with a structure, but are most of a small one
    monkeypatch.setitem(edge_slots.VALUES_PER_CHUNK, "cpu", 1 << 11)
    monkeypatch.setattr(edge_curves, "EDGES_PER_CHUNK", 64)
    options = {"feed_forward": "sphere_grid", "radial_hidden": 64, "radial_size": 16}
    batch, peaks = draw(sizes=(60,)), []
    for recompute in (False, True):
        model = made(**options, near_kernel_implementation="memory_efficient").train()
        if recompute:
            model.network.recompute_parts()
        with LiveBytes() as live:
            out = model(batch)
            (out["energy"].sum() + out["forces"].square().sum()).backward(
                inputs=list(model.parameters())
            )
        peaks.append(live.peak)
    assert peaks[1] < 0.67 * peaks[0]


def test_other_networks_refuse():
    network = build_model({"name": "equiformer"}).network
    with pytest.raises(ValueError, match="leave it out") as refusal:
        network.recompute_parts()
    assert type(network).__name__ in str(refusal.value)
