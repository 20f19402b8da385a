"""Networks of a diffusion, under the laws of every network."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from farfield.models.factory import build_model, network_class, network_names
from farfield.models.graph_ops import mean_nodes
from farfield.models.network_check import check_network
from tests.laws import CutoffSuite, ModelSuite
from tests.support.small_diffusion import (
    BACKBONES,
    E2FORMER,
    EDGES,
    EQUIFORMER,
    EQUIVARIANT,
    SE3,
    diffusion_case,
    timed_batch,
    untimed_batch,
)

BOTH = {"time_head": True}
CASES = [
    *(diffusion_case(f"{name}-noise", base) for name, base in EQUIVARIANT.items()),
    *(
        diffusion_case(f"{name}-joint", base, told=False, **BOTH)
        for name, base in EQUIVARIANT.items()
    ),
    diffusion_case("e2former-told", E2FORMER, **BOTH),
    diffusion_case("e2former-time", E2FORMER, told=False, noise_head=False, **BOTH),
    diffusion_case("e2former-second-order", E2FORMER, schedule="second-order"),
    diffusion_case("e2former-hybrid", E2FORMER, schedule="hybrid-first-order"),
    *(
        diffusion_case(f"{name}-condition", base, condition="time")
        for name, base in EQUIVARIANT.items()
    ),
    diffusion_case("edges-invariant-time", EDGES, told=False, noise_head=False, waves=0, **BOTH),
    diffusion_case("se3-pseudo", SE3, told=False, pseudo_channels=2, heads=1, **BOTH),
    diffusion_case("se3-no-envelope", SE3, envelope="none", norm="gate"),
    diffusion_case("equiformer-mlp", EQUIFORMER, l2_dist_attention=False),
]
# pairs fade out at the cutoff although all of them are edges
FADING = [
    dataclasses.replace(case, cutoff=5.0)
    for case in CASES
    if case.name.endswith(("noise", "joint"))
]
# predictions turn only as far as training taught it
FREE = [
    diffusion_case("edges-noise", EDGES),
    diffusion_case("edges-joint", EDGES, told=False, **BOTH),
    diffusion_case("edges-time", EDGES, told=False, noise_head=False, **BOTH),
    diffusion_case("edges-condition", EDGES, condition="time", decomposer="diagonal"),
]


class TestDiffusion(ModelSuite):
    @pytest.fixture(params=CASES, ids=[case.name for case in CASES])
    def case(self, request):
        return request.param

    def test_noise_has_no_mean(self, case, dtype):
        _, batch, found = self.answered(case)
        if "noise" in found:
            mean = mean_nodes(batch.graph, found["noise"])
            assert float(mean.abs().max()) < 1e-6 * float(found["noise"].abs().max())


class TestFreeDiffusion(TestDiffusion):
    """Every law but those of turning."""

    test_rotation = test_reflection = test_symmetric_structures_turn = None

    @pytest.fixture(params=FREE, ids=[case.name for case in FREE])
    def case(self, request):
        return request.param


class TestDiffusionAtTheCutoff(CutoffSuite):
    @pytest.fixture(params=FADING, ids=[case.name for case in FADING])
    def case(self, request):
        return request.param


def drawn(told: bool, seed: int = 0):
    make = timed_batch if told else untimed_batch
    return make([5, 4], torch.Generator().manual_seed(seed)).to(dtype=torch.float64)


def made(base: dict, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model({**base, **options}).double()


EVERY_BACKBONE = pytest.mark.parametrize("base", BACKBONES.values(), ids=BACKBONES)


@pytest.mark.parametrize("base", EQUIVARIANT.values(), ids=EQUIVARIANT)
def test_the_contract_is_kept(base):
    check_network(made(base), drawn(told=True))
    check_network(made(base, **BOTH), drawn(told=False))


def test_a_free_network_says_that_it_does_not_turn():
    batch, model = drawn(told=True), made(EDGES)
    assert model.remarks == made({**EDGES, "time_head": True}).remarks
    assert ["not equivariant" in line for line in model.remarks] == [True]
    with pytest.raises(ValueError, match="a direction in space is preferred"):
        check_network(model, batch)
    invariant = made(EDGES, waves=0, noise_head=False, time_head=True)
    assert invariant.remarks == []
    check_network(invariant, batch)


@EVERY_BACKBONE
def test_without_a_time_the_noise_is_that_for_the_guess(base):
    """Atoms may guess different times: structures of one kind of atom in one place do not."""
    model, batch = made(base, **BOTH), drawn(told=False)
    batch.positions = batch.positions * 0  # all atoms of an element see the same
    batch.atomic_numbers = torch.full_like(batch.atomic_numbers, 6)
    guessed = model(batch)
    first = batch.graph.node_offsets[:-1]
    told = dataclasses.replace(batch, graph_features={"time": guessed["time"][first]})
    torch.testing.assert_close(model(told)["time"], guessed["time"])
    torch.testing.assert_close(model(told)["noise"], guessed["noise"])


@EVERY_BACKBONE
@pytest.mark.parametrize("condition", [None, "time"])
def test_the_time_counts(base, condition):
    model, batch = made(base, condition=condition), drawn(told=True)
    if condition:
        # conditioning starts at zero
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "networks.time" in name:
                    parameter += 0.1 * torch.randn(parameter.shape)
        # the backbone alone: three of an atom's numbers
        model.heads.noise.forward = lambda x, time: x.flatten(1)[:, -3:]
    other = dataclasses.replace(batch, graph_features={"time": torch.tensor([0.9, 0.1]).double()})
    before, after = model(batch)["noise"].detach(), model(other)["noise"].detach()
    assert float((before - after).abs().max()) > 1e-6 * float(before.abs().max())


@pytest.mark.parametrize("detach", [False, True])
def test_the_gradient_of_noise_passes_through_the_guess_unless_detached(detach):
    model, batch = made(E2FORMER, detach_time=detach, **BOTH), drawn(told=False)
    model(batch)["noise"].square().sum().backward()
    gradients = [parameter.grad for parameter in model.heads.time.parameters()]
    assert all((gradient is None) == detach for gradient in gradients)


def test_a_network_that_is_told_no_time_says_so():
    with pytest.raises(ValueError, match="the batch has no time and the network no time head"):
        made(E2FORMER)(drawn(told=False))


@EVERY_BACKBONE
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise_head": False}, "noise_head and time_head are both false"),
        ({"detach_time": True}, "detach_time is for networks that find the noise for the time"),
        ({"time_head": True, "condition": "spin,time"}, "leave time out of condition"),
        ({"condition": "time,"}, "condition must be names joined by commas"),
    ],
)
def test_bad_options_are_one_line(base, options, words):
    with pytest.raises(ValueError, match=words) as error:
        build_model({**base, **options})
    assert "\n" not in str(error.value)


def test_noise_needs_vectors():
    with pytest.raises(ValueError, match="set num_degrees to 2 or more"):
        build_model({**EQUIFORMER, "dim": "8", "num_degrees": 1})
    with pytest.raises(ValueError, match="noise needs directions: set waves to 1 or more"):
        build_model({**EDGES, "waves": 0})


@pytest.mark.parametrize("name", network_names("diffusion"))
def test_presets_build_and_start_at_a_sensible_size(name):
    """Noise of about unit size: a start far from it would take long to unlearn."""
    for preset in network_class(name).presets:
        torch.manual_seed(0)
        model = build_model({"name": name, "preset": preset, "time_head": True})
        batch = timed_batch([9, 7], torch.Generator().manual_seed(0))
        out = model(batch)
        assert 0.2 < float(out["noise"].detach().std()) < 2
        assert float(out["time"].detach().abs().max()) < 3
