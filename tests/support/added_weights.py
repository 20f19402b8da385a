"""What the weights of a part that an option adds are held to: others stay, and all learn."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch


def assert_no_other_weight_changes(
    plain: Mapping[str, Tensor], found: Mapping[str, Tensor], part: str
):
    """Weights ``found`` with a part, whose names contain ``part``, are ``plain`` and its own."""
    shared = {name: value for name, value in found.items() if part not in name}
    assert shared.keys() == plain.keys() and len(found) > len(plain)
    assert all(torch.equal(shared[name], value) for name, value in plain.items())


def silent_weights(model: nn.Module, batch: AtomBatch, part: str = "") -> list[str]:
    """Names of the weights of ``part`` without a gradient from energy and forces of the batch."""
    out = model.train()(batch)
    (out["forces"].square().sum() + out["energy"].square().sum()).backward()
    return [
        name
        for name, weight in model.named_parameters()
        if part in name and (weight.grad is None or not bool(weight.grad.abs().sum() > 0))
    ]
