"""Laws of the attention: equivariance, one answer from every expansion, size consistency."""

from __future__ import annotations

import math

import pytest
import torch

from farfield.models.far_field.attention import FEATURE_MAPS, FarFieldAttention, FarFieldOptions
from farfield.models.so3.irreps import num_rows
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.far_field_clouds import CORNERS, OPEN, ball, batch
from tests.support.turns import orthogonal, relative_error, turned

BOTH = pytest.mark.parametrize("expansion", OPEN)
SIZES = {"channels": 6, "lmax": 2, "typical_atoms": 20.0}
WIDE = {
    "heads": 2,
    "key_features": 8,
    "value_channels": 4,
    "value_lmax": None,
    "feature_map": "elu",
    "kernel_lmax": 2,
}
TIGHT = {"tolerance": 1e-7, "design_radius": 6.0}
WAVES = {"kernel": "standing_waves", "kappa_max": 0.8}
EVERY_KERNEL = pytest.mark.parametrize(
    "kernel", [WAVES, {"kernel": "screened"}, {"kernel": "coulomb"}], ids=lambda k: k["kernel"]
)


def build(seed: int = 0, dtype: torch.dtype = torch.float64, **options) -> FarFieldAttention:
    """The same parameters for the same sizes, whatever the expansion.

    options: ``channels``, ``lmax``, ``typical_atoms``, and fields of ``FarFieldOptions``; a kernel
    of standing waves unless they name another.
    """
    torch.manual_seed(seed)
    sizes = {name: options.pop(name, default) for name, default in SIZES.items()}
    kernel = {} if "kernel" in options else WAVES
    choices = FarFieldOptions(**{**WIDE, **TIGHT, **kernel, **options})
    return FarFieldAttention(**sizes, options=choices).to(dtype)


@pytest.mark.parametrize("normalisation", ["none", "attention"])
@pytest.mark.parametrize("feature_map", FEATURE_MAPS)
@EVERY_KERNEL
def test_expansions_share_parameters_and_answer(feature_map, normalisation, kernel):
    if normalisation == "attention" and not FEATURE_MAPS[feature_map].positive:
        with pytest.raises(ValueError, match="positive"):
            FarFieldOptions(feature_map=feature_map, normalisation=normalisation)
        return
    graph = batch(CORNERS)
    positions, x = ball(graph, 4.0), draw(graph.num_nodes, 9, 6, seed=2)
    models = [
        build(expansion=name, feature_map=feature_map, normalisation=normalisation, **kernel)
        for name in OPEN
    ]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    first, *others = (model(graph, positions, x) for model in models)
    assert first.shape == x.shape
    for other in others:
        assert relative_error(other, first) < 1e-7


@BOTH
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("proper", [True, False])
@EVERY_KERNEL
def test_equivariant(expansion, dtype, bar, proper, kernel):
    bar = 0.01 if expansion == "planewave" else bar  # its tolerance
    graph, turn = batch(CORNERS), orthogonal(1, proper)
    positions, x = ball(graph, 4.0), draw(graph.num_nodes, 9, 6, seed=2)
    model = build(
        **{"expansion": expansion, "dtype": dtype, "kernel_lmax": 3, **kernel},
        tolerance=0.01,
        design_radius=6.0,
    )
    here = model(graph, positions.to(dtype), x.to(dtype)).double()
    there = model(graph, (positions @ turn.T + 3).to(dtype), turned(x, turn, 2).to(dtype)).double()
    assert relative_error(there, turned(here, turn, 2)) < bar


def test_every_output_degree_is_reached_from_every_value_degree_and_channel():
    """Three directions of atoms: no path is lost, scalars alone reach all degrees."""
    graph = batch([6])
    model = build(kernel_lmax=2)
    x = torch.zeros(6, 9, 6, dtype=torch.float64)
    x[:, 0] = draw(6, 6, seed=1)
    found = model(graph, ball(graph, 4.0), x)
    assert (found.abs().amax((0, 2)) > 1e-8).all()
    assert len(model.coupling.paths) == 11


@BOTH
@pytest.mark.parametrize("value_lmax", [0, 1])
def test_values_of_few_degrees_are_those_of_all_without_the_rest(expansion, value_lmax):
    """With the same weights where both have some, and none on the higher degrees.

    Degrees that no path reaches stay zero.
    """
    graph = batch(CORNERS)
    positions, x = ball(graph, 4.0), draw(graph.num_nodes, 9, 6, seed=2)
    few = build(expansion=expansion, kernel_lmax=1, value_lmax=value_lmax)
    every = build(expansion=expansion, kernel_lmax=1, value_lmax=None)
    every.load_state_dict({**few.state_dict(), **held(few, every)})
    found, expected = few(graph, positions, x), every(graph, positions, x)
    assert relative_error(found, expected) < 1e-12
    assert not found[:, num_rows(1 + value_lmax) :].any()


def held(few: FarFieldAttention, every: FarFieldAttention) -> dict[str, torch.Tensor]:
    """Weights of ``few`` in the shapes of ``every``: zeros where it has none.

    Starts of paths are as if there were no others.
    """
    values = torch.zeros_like(every.values.weight)
    coupling = torch.zeros_like(every.coupling.weight)
    values[: len(few.values.weight)] = few.values.weight.detach()

    def paths_to(model: FarFieldAttention, degree: int) -> int:
        return sum(path[2] == degree for path in model.coupling.paths)

    for here, path in enumerate(few.coupling.paths):
        share = (paths_to(every, path[2]) / paths_to(few, path[2])) ** 0.5
        coupling[:, every.coupling.paths.index(path)] = (
            share * few.coupling.weight.detach()[:, here]
        )
    return {"values.weight": values, "coupling.weight": coupling}


def two_copies(model: FarFieldAttention, distance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Messages of a molecule alone, and the same atoms' with a copy moved away by ``distance``."""
    alone = batch([5])
    positions, x = ball(alone, 1.5), draw(5, num_rows(model.coupling.lmaxes[2]), 6, seed=2)
    away = positions + torch.tensor([distance, 0, 0], dtype=torch.float64)
    pair = model(batch([10]), torch.cat([positions, away]), torch.cat([x, x]))
    return model(alone, positions, x).detach(), pair[:5].detach()


LONG = {"kernel": "standing_waves", "num_kappa": 64, "kappa_max": 1.2}


@pytest.mark.parametrize("l", [0, 1])
def test_far_copy_changes_messages_like_the_tail_of_the_kernel(l):
    """Without normalisation a copy adds a field that falls as 1 / r^(l + 1).

    Measured by the slope between 50 and 100 Angstrom.
    """
    model = build(lmax=l, kernel_lmax=l, expansion="pairwise", **LONG)
    with torch.no_grad():
        model.radial.table[:l] = 0
    changes = []
    for distance in (50.0, 100.0):
        alone, paired = two_copies(model, distance)
        changes.append(float((paired - alone).norm() / alone.norm()))
    assert math.log2(changes[0] / changes[1]) == pytest.approx(l + 1, abs=0.1)
    assert changes[1] < 0.1


def test_far_copy_halves_messages_of_attention():
    model = build(lmax=1, kernel_lmax=1, expansion="pairwise", **LONG, normalisation="attention")
    alone, paired = two_copies(model, 60.0)
    assert float((paired * alone).sum() / alone.square().sum()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("kernel", [{**WAVES, "num_kappa": 2}, {"kernel": "screened"}], ids=str)
@pytest.mark.parametrize(
    ("expansion", "normalisation"),
    [("pairwise", "none"), *((expansion, "attention") for expansion in OPEN)],
)
def test_all_derivatives(expansion, normalisation, kernel):
    """In positions, features and all parameters; with a lone atom and two atoms in one place.

    Attention divides the sum that the other normalisation gives, so one expansion shows the latter.
    """
    graph = batch([1, 2])
    model = build(
        channels=1,
        lmax=1,
        kernel_lmax=1,
        heads=1,
        key_features=1,
        value_channels=1,
        expansion=expansion,
        normalisation=normalisation,
        tolerance=0.1,
        design_radius=1.0,
        **kernel,
    )
    positions = torch.tensor([[0.3, 0.2, 0.1], [1, 2, 3], [1, 2, 3]], dtype=torch.float64)
    inputs = (
        positions.requires_grad_(),
        draw(3, 4, 1, seed=1).requires_grad_(),
        *model.parameters(),
    )
    assert_all_derivatives(lambda positions, x, *_: model(graph, positions, x), inputs)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("heads", 0),
        ("key_features", 0),
        ("kernel_lmax", -1),
        ("value_lmax", -1),
        ("value_lmax", 9),
        ("expansion", "planewaves"),
        ("feature_map", "relu"),
        ("normalisation", "softmax"),
        ("typical_atoms", 0.0),
    ],
)
def test_refuses_in_one_line(option, value):
    with pytest.raises(ValueError, match=option) as caught:
        build(**{option: value})
    assert str(value) in str(caught.value) and "\n" not in str(caught.value)
