"""Networks of the published sizes hold the laws in float32 as well, with the bounds of laws.md."""

from __future__ import annotations

import pytest
import torch
from ase.build import molecule

from farfield.dataloader.from_ase import batch_from_atoms
from farfield.models.batch import AtomBatch
from farfield.models.factory import build_model, default_config
from farfield.models.turned_batches import turned_batch
from tests.support.turns import orthogonal

PROPERTIES = {"targets": "mu,gap", "bond_kinds": False}
BOUND = 1e-5
DEEP_LAYER_NORMS = 1e-4  # seven layers with the lengths of vectors in a layer norm

CASES = {
    "e2former": ({"name": "e2former", "preset": "paper"}, BOUND),
    "e2former, properties": (
        {"name": "e2former_properties", "preset": "published", **PROPERTIES},
        BOUND,
    ),
    "equiformer": ({"name": "equiformer", "preset": "published"}, BOUND),
    "equiformer, properties": (
        {"name": "equiformer_properties", "preset": "published", **PROPERTIES},
        BOUND,
    ),
}
SE3 = {"name": "se3_transformer_properties", "preset": "published", **PROPERTIES}
CASES |= {
    f"se3_transformer, {norm}": ({**SE3, "norm": norm}, bound)
    for norm, bound in {"gate": BOUND, "bias": BOUND, "layer": DEEP_LAYER_NORMS}.items()
}


def molecules() -> AtomBatch:
    """Three molecules, two of them nearly symmetric: float64."""
    found = [molecule(name) for name in ("C6H6", "CH3CH2OCH3", "C4H4NH")]
    for seed, one in enumerate(found):
        one.rattle(0.05, seed=seed)
    return batch_from_atoms(found, cutoff=12.0, dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
def test_rotation_in_float32(name):
    options, bound = CASES[name]
    options = dict(options)
    torch.manual_seed(0)
    config = default_config(options["name"], options.pop("preset")) | options
    network = build_model(config).eval()

    batch = molecules()
    matrix = orthogonal(1)
    turned = turned_batch(batch, matrix.expand(batch.num_graphs, 3, 3))
    found = network(batch.to(dtype=torch.float32))
    found_turned = network(turned.to(dtype=torch.float32))
    for output, values in found.items():
        expected = values.detach().double()
        if output == "forces":
            expected = expected @ matrix.mT
        error = (found_turned[output].detach().double() - expected).abs().max()
        assert float(error / expected.abs().max()) < bound, output
