"""Readouts against what they must do with size, origin and rotation; scalings against least squares
and against each other.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from farfield.models.graph_ops import GraphIndex
from farfield.models.heads.property_heads import PROPERTIES, PropertyHeads, choose_readouts
from farfield.models.heads.property_readouts import READOUTS
from farfield.models.heads.target_scaling import (
    TargetScaling,
    compositions,
    fit_scaling,
    references,
)
from tests.support.derivatives import assert_all_derivatives
from tests.support.turns import orthogonal, turned

pytestmark = pytest.mark.usefixtures("double")

NONE = torch.empty(0, dtype=torch.long)
SIZES = [4, 1, 3]
GRAPH = GraphIndex(NONE, NONE, torch.tensor(SIZES))
NUMBERS = torch.tensor([6, 1, 8, 1, 7, 6, 6, 1])
EVERY_READOUT = pytest.mark.parametrize("name", READOUTS)
POOLED = pytest.mark.parametrize("name", ["mean", "max", "attention"])


def readout(name: str, channels: int = 4) -> torch.nn.Module:
    torch.manual_seed(0)
    return READOUTS[name](channels, 5.0)


def atoms(count: int = 8, channels: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (count, 9, channels) and positions (count, 3)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 9, channels, generator=generator), 2 * torch.randn(
        count, 3, generator=generator
    )


def constant(network: torch.nn.Module, values: list[float]) -> None:
    """Make a network say the same of every atom."""
    torch.nn.init.zeros_(network[-1].weight)
    with torch.no_grad():
        network[-1].bias.copy_(torch.tensor(values))


@EVERY_READOUT
def test_readout_turns_with_the_molecule(name):
    model, (x, positions) = readout(name), atoms()
    before = model(GRAPH, x, positions, NUMBERS)
    assert before.shape == ((3, 3) if name == "dipole" else (3,)) and before.abs().max() > 1e-3
    for seed, proper in ((0, True), (1, False)):
        matrix = orthogonal(seed, proper)
        after = model(GRAPH, turned(x, matrix, 2), positions @ matrix.T, NUMBERS)
        expected = before @ matrix.T if name == "dipole" else before
        torch.testing.assert_close(after, expected, rtol=1e-12, atol=1e-13)


@EVERY_READOUT
def test_readout_is_independent_of_the_origin(name):
    model, (x, positions) = readout(name), atoms()
    moved = positions + torch.tensor([300.0, -70.0, 20.0])
    torch.testing.assert_close(
        model(GRAPH, x, moved, NUMBERS), model(GRAPH, x, positions, NUMBERS), rtol=0, atol=1e-11
    )


@EVERY_READOUT
def test_derivatives_match_differences(name):
    model, (x, positions) = readout(name, 2), atoms(3, 2)
    graph, tensors = (
        GraphIndex(NONE, NONE, torch.tensor([2, 1])),
        [x[:, :4].requires_grad_(True), positions.requires_grad_(True)],
    )
    assert_all_derivatives(lambda x, r: model(graph, x, r, NUMBERS[:3]), tensors)


def test_sum_grows_with_the_molecule():
    """Two molecules read as one are the sum of both, whatever lies between."""
    model, (x, positions) = readout("sum"), atoms()
    one = GraphIndex(NONE, NONE, torch.tensor([8]))
    torch.testing.assert_close(
        model(one, x, positions, NUMBERS)[0], model(GRAPH, x, positions, NUMBERS).sum()
    )


@POOLED
def test_pooled_readouts_do_not_grow(name):
    """Two copies of a molecule read as one molecule are as the molecule."""
    model, (x, positions) = readout(name), atoms()
    twice = GraphIndex(NONE, NONE, torch.tensor([8]))
    double = model(twice, x[:4].repeat(2, 1, 1), positions[:4].repeat(2, 1), NUMBERS[:4].repeat(2))
    torch.testing.assert_close(double[0], model(GRAPH, x, positions, NUMBERS)[0])


def test_pools_are_those_of_their_names():
    model, (x, _) = readout("max"), atoms()
    hidden = model.encode(x[:, 0])
    parts = hidden.split(SIZES)
    for name, pool in (("mean", lambda part: part.mean(0)), ("max", lambda part: part.amax(0))):
        torch.testing.assert_close(
            READOUTS[name].pool(model, GRAPH, hidden), torch.stack([pool(part) for part in parts])
        )
    attention = readout("attention")
    expected = torch.stack(
        [(torch.softmax(attention.logits(part), 0) * part).sum(0) for part in parts]
    )
    torch.testing.assert_close(attention.pool(GRAPH, hidden), expected)
    torch.nn.init.zeros_(attention.logits.weight)
    torch.nn.init.zeros_(attention.logits.bias)
    torch.testing.assert_close(
        attention.pool(GRAPH, hidden), torch.stack([part.mean(0) for part in parts])
    )


def test_dipole_of_fixed_charges():
    """Charges q_i = scalar of the atom: sum_i (q_i - mean q) r_i, by hand; a molecule far away does
    not count.
    """
    model, (x, positions) = readout("dipole"), atoms()
    model.network = torch.nn.Linear(4, 5, bias=False)
    torch.nn.init.zeros_(model.network.weight)
    with torch.no_grad():
        model.network.weight[0, 0] = 1.0  # the charge is the first scalar, atomic dipoles are zero
    found = model(GRAPH, x, positions, NUMBERS) * 5.0**0.5
    for index, (charge, place) in enumerate(
        zip(x[:, 0, 0].split(SIZES), positions.split(SIZES), strict=True)
    ):
        torch.testing.assert_close(
            found[index], (charge - charge.mean()) @ place, rtol=0, atol=1e-12
        )


def test_dipole_of_fixed_atomic_dipoles():
    """Equal charges make no dipole of a neutral molecule; what is left is the sum of the degree-1
    features that the weights choose.
    """
    model, (x, positions) = readout("dipole"), atoms()
    constant(model.network, [7.0, 0.0, 1.0, 0.0, 0.0])
    found = model(GRAPH, x, positions, NUMBERS) * 5.0**0.5
    expected = torch.stack([part.sum(0) for part in (x[:, 1:4, 1] / 4**0.5).split(SIZES)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_extent_of_fixed_charges():
    """Equal charges q, own extents t, atomic dipoles v: sum q |r - c|^2 + 2 (r - c) v + t about the
    centre of nuclear charge.
    """
    model, (x, positions) = readout("spatial_extent"), atoms()
    constant(model.network, [2.0, 0.5, 1.0, 0.0, 0.0, 0.0])
    found = model(GRAPH, x, positions, NUMBERS) * 5.0
    parts = zip(
        NUMBERS.split(SIZES),
        positions.split(SIZES),
        (x[:, 1:4, 0] / 4**0.5).split(SIZES),
        strict=True,
    )
    for index, (number, place, dipole) in enumerate(parts):
        place = place - (number.double() @ place) / number.sum()
        torch.testing.assert_close(
            found[index], 2 * place.square().sum() + 2 * (place * dipole).sum() + 0.5 * len(place)
        )


def test_vanishing_dipole_is_zero_with_finite_derivatives():
    """The norm of a zero vector has a zero gradient, and a finite one of that."""
    model = readout("dipole_norm")
    x = torch.zeros(8, 9, 4, requires_grad=True)
    positions = torch.zeros(8, 3, requires_grad=True)
    value = model(GRAPH, x, positions, NUMBERS)
    assert torch.equal(value, torch.zeros(3))
    gradients = torch.autograd.grad(
        (value + value.square()).sum(), [x, positions], create_graph=True
    )
    (second,) = torch.autograd.grad(
        sum((gradient + 1).square().sum() for gradient in gradients),
        model.network[-1].weight,
        allow_unused=True,
    )
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)
    assert second is None or torch.isfinite(second).all()


def test_pseudo_channels_are_not_read():
    torch.manual_seed(0)
    heads, (x, positions) = PropertyHeads({"mu": "dipole_norm", "U0": "sum"}, 3, 5.0), atoms()
    other = torch.cat([x[..., :3], 2 * x[..., 3:]], -1)
    before, after = (heads.raw(GRAPH, features, positions, NUMBERS) for features in (x, other))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_standard_readouts():
    assert choose_readouts("homo, U0,mu") == {"homo": "attention", "U0": "sum", "mu": "dipole_norm"}
    assert choose_readouts("alpha,homo", "alpha=mean,homo = max") == {
        "alpha": "mean",
        "homo": "max",
    }
    assert len(PROPERTIES) == 20 and set(PROPERTIES.values()) <= set(READOUTS)


# scaling


def molecules(count: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 12, size=count)
    return rng.choice([1, 6, 8], size=counts.sum()), counts


ATOMIC = np.array([-13.587222780835477, -1029.4889999855063, -2041.9816003861047])


def test_references_of_a_sum_are_found():
    numbers, counts = molecules()
    noise = np.random.default_rng(1).normal(scale=0.01, size=60)
    exact = compositions(numbers, counts, [1, 6, 8]) @ ATOMIC
    fitted = fit_scaling(numbers, counts, {"U0": exact + noise}, {"U0": "sum"})
    np.testing.assert_allclose(fitted["U0"]["references"], ATOMIC, atol=0.01)
    assert (
        fitted["U0"]["constant"] == 0 and 0.5 * noise.std() < fitted["U0"]["scale"] <= noise.std()
    )
    residual = exact + noise - references(numbers, counts, fitted, "U0")
    assert abs(residual.std() - fitted["U0"]["scale"]) < 1e-12


def test_references_of_a_mean_are_averages():
    """A property that is the mean over atoms of what the element has: nothing is left, and twice
    the molecule is the same.
    """
    numbers, counts = molecules()
    values = 7 + compositions(numbers, counts, [1, 6, 8]) @ np.array([-0.5, 0.2, 1.0]) / counts
    fitted = fit_scaling(numbers, counts, {"homo": values}, {"homo": "attention"})
    np.testing.assert_allclose(references(numbers, counts, fitted, "homo"), values, atol=1e-12)
    assert abs(fitted["homo"]["constant"] - values.mean()) < 1e-12
    assert fitted["homo"]["scale"] == 1.0  # nothing left to scale
    twice = np.concatenate([numbers[: counts[0]]] * 2), counts[:1] * 2
    np.testing.assert_allclose(references(*twice, fitted, "homo"), values[:1], atol=1e-12)


@pytest.mark.parametrize(
    ("target", "name"), [("mu", "dipole_norm"), ("r2", "spatial_extent"), ("dipole", "dipole")]
)
def test_moments_have_a_scale_alone(target, name):
    numbers, counts = molecules()
    values = np.random.default_rng(1).normal(3, 2, size=(60, 3) if name == "dipole" else 60)
    entry = fit_scaling(numbers, counts, {target: values}, {target: name})[target]
    assert entry["constant"] == 0 and not any(entry["references"])
    assert not references(numbers, counts, {target: entry}, target).any()
    expected = np.sqrt(np.mean(values**2)) if name == "dipole" else values.std()
    assert abs(entry["scale"] - expected) < 1e-12
    assert (
        (values - references(numbers, counts, {target: entry}, target)) / entry["scale"]
    ).shape == values.shape


def test_one_molecule_has_the_mean_of_its_atoms():
    """Compositions that tell elements not apart: every atom counts the same."""
    fitted = fit_scaling(
        np.array([6, 1, 1, 1, 1]), np.array([5]), {"U0": np.array([-10.0])}, {"U0": "sum"}
    )
    np.testing.assert_allclose(fitted["U0"]["references"], [-2.0, -2.0])
    assert fitted["U0"]["scale"] == 1.0


def every_scaling() -> tuple[dict[str, str], dict]:
    readouts = choose_readouts("alpha,homo,gap,mu,dipole,r2", "gap=mean")
    numbers, counts = molecules()
    rng = np.random.default_rng(2)
    values = {name: rng.normal(5, 2, size=(60, 3) if name == "dipole" else 60) for name in readouts}
    return readouts, fit_scaling(numbers, counts, values, readouts)


def test_module_and_numpy_say_the_same():
    readouts, scaling = every_scaling()
    module = TargetScaling({name: READOUTS[readout].kind for name, readout in readouts.items()})
    module.set(json.loads(json.dumps(scaling)))
    assert module.values() == scaling
    numbers = torch.where(NUMBERS == 7, 8, NUMBERS)
    raw = {
        name: torch.randn((3, 3) if name == "dipole" else 3, dtype=torch.float32)
        for name in readouts
    }
    for name, value in module(GRAPH, numbers, raw).items():
        expected = (
            references(numbers.numpy(), np.array(SIZES), scaling, name)
            + scaling[name]["scale"] * raw[name].double().numpy()
        )
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize(
    "cast",
    [
        lambda m: m.float(),
        lambda m: m.half(),
        lambda m: m.to("cpu", torch.float32),
        lambda m: m.double(),
    ],
)
def test_scaling_keeps_type_and_digits(cast):
    readouts, scaling = every_scaling()
    heads = PropertyHeads(readouts, 4, 5.0)
    heads.scaling.set(scaling)
    again = PropertyHeads(readouts, 4, 5.0)
    again.load_state_dict(heads.state_dict(), strict=True)
    for module in (cast(heads), cast(again)):
        assert module.scaling.values() == scaling
        assert (
            module.scaling.scale.dtype == torch.float64 and module.scaling.known.dtype == torch.bool
        )


def test_without_a_scaling_raw_numbers_pass():
    torch.manual_seed(0)
    heads, (x, positions) = PropertyHeads({"U0": "sum", "homo": "max"}, 4, 5.0), atoms()
    raw, out = heads.raw(GRAPH, x, positions, NUMBERS), heads(GRAPH, x, positions, NUMBERS)
    assert all(torch.equal(raw[name], out[name]) for name in raw)


def test_scalings_of_another_run_are_refused():
    readouts, scaling = every_scaling()
    module = TargetScaling({"alpha": "sum"})
    for wrong, quoted in (
        ({}, "target must be one of .*got 'alpha'"),
        ({"alpha": scaling["homo"]}, "alpha is of kind 'mean', its readout of kind 'sum'"),
        ({"alpha": {**scaling["alpha"], "scale": 0.0}}, "scale > 0, got scale 0.0"),
        ({"alpha": {**scaling["alpha"], "constant": float("nan")}}, "finite"),
    ):
        with pytest.raises(ValueError, match=quoted):
            module.set(wrong)
    assert (
        module.values()["alpha"]["scale"] == 1.0 and not module.reference.any()
    )  # a refused scaling changes nothing


def test_unknown_elements_are_refused():
    _, scaling = every_scaling()
    module = TargetScaling({"alpha": "sum"})
    module.set(scaling)
    with pytest.raises(
        ValueError, match=r"unknown element N \(Z = 7\); this model was trained on H, C, O"
    ):
        module(GRAPH, NUMBERS, {"alpha": torch.zeros(3)})
    with pytest.raises(
        ValueError, match=r"unknown element N \(Z = 7\); this model was trained on H, C, O"
    ):
        references(NUMBERS.numpy(), np.array(SIZES), scaling, "alpha")


@pytest.mark.parametrize(
    ("counts", "values", "quoted"),
    [
        ([], np.zeros(0), "0 counts must sum to the 3 atoms"),
        ([2, 2], np.zeros(2), "2 counts must sum to the 3 atoms"),
        ([3, 0], np.zeros(2), "structures of >= 1 atoms"),
        ([2, 1], np.zeros(3), r"shape \(2,\), got \(3,\)"),
        ([2, 1], np.array([1.0, np.nan]), "finite"),
    ],
)
def test_bad_training_labels_are_refused(counts, values, quoted):
    with pytest.raises(ValueError, match=quoted):
        fit_scaling(np.array([1, 6, 8]), np.array(counts, dtype=int), {"U0": values}, {"U0": "sum"})
