"""Laws of experts: at most k are heard, weights sum to one, and nothing jumps where they change."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from farfield.models.heads.experts import SWITCH, ExpertOptions, Experts, Gate, experts
from farfield.models.network_check import check_network
from farfield.models.tracing import tracing
from tests.far_apart_laws import FarApartSuite
from tests.laws import ModelSuite
from tests.support.added_weights import assert_no_other_weight_changes
from tests.support.derivatives import energy_slopes
from tests.support.law_cases import Case, walked
from tests.support.small_e2former import case, draw, made

HERE = {"experts": 4, "experts_top_k": 2}


def law_case(name: str, **options) -> Case:
    plain = case(name, **{**HERE, **options})
    return dataclasses.replace(plain, outputs={**plain.outputs, "experts": "node_scalar"})


CASES = [
    law_case("conservative"),
    law_case("direct", forces="direct", experts=3, experts_top_k=1),
]


class TestE2FormerWithExperts(ModelSuite):
    @pytest.fixture(params=CASES, ids=[case.name for case in CASES])
    def case(self, request):
        return request.param


class TestExpertsFarApart(FarApartSuite):
    @pytest.fixture(params=CASES, ids=[case.name for case in CASES])
    def case(self, request):
        return request.param


def gate_of(number: int, top_k: int) -> Gate:
    """A gate whose scores are its inputs."""
    gate = Gate(number, ExpertOptions(number, top_k))
    with torch.no_grad():
        gate.score.weight.copy_(torch.eye(number))
        gate.score.bias.zero_()
    return gate


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_at_most_k_are_heard_and_weights_sum_to_one(top_k, double):
    scores = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    weights = gate_of(5, top_k)(scores)
    chosen = weights[:, 1:] > 0
    assert int(chosen.sum(1).max()) == top_k and bool((weights > -1e-14).all())
    torch.testing.assert_close(weights.sum(1), torch.ones(400), rtol=0, atol=1e-14)

    # only the best are heard
    rank = scores.argsort(1, descending=True).argsort(1)
    assert bool((rank[chosen] < top_k).all())


def test_well_separated_scores_give_the_best_their_softmax(double):
    scores = torch.tensor([[0.0, 2.0, -1.0, 1.0]])
    weights = gate_of(4, 2)(scores)
    expected = scores.softmax(1) * torch.tensor([[0.0, 1, 0, 1]])
    torch.testing.assert_close(weights[:, 1:], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("ties", [[0.0, 0, 5], [0.0, 0, 0], [0.0, 0, -5]])
def test_weights_are_smooth_where_experts_change_places(top_k, ties, double):
    """Along lines through scores that tie, the largest step of weights, slopes and bends between
    neighbouring places halves with the distance of the places; a jump would stay.
    """
    gate = gate_of(3, top_k)
    for direction in ([1.0, 0, 0], [1.0, -1, 0.5]):
        steps = []
        for step in (SWITCH / 400, SWITCH / 800):
            line = torch.arange(-3 * SWITCH, 3 * SWITCH, step).unsqueeze(1)
            values = gate(torch.tensor(ties) + line * torch.tensor(direction)).detach()
            found = []
            for _ in range(3):
                found.append(float(values.diff(dim=0).abs().max()))
                values = values.diff(dim=0) / step
            steps.append(found)
        assert all(fine <= 0.6 * coarse + 1e-8 for coarse, fine in zip(*steps, strict=True))


def test_an_expert_that_is_not_chosen_is_not_asked(double):
    """The sum over chosen experts is the sum over all; those without atoms compute nothing."""
    torch.manual_seed(0)
    module, x = Experts(6, ExpertOptions(4, 2), vectors=False), torch.randn(9, 4, 6)
    asked = []
    for index, expert in enumerate(module.energies):
        expert.register_forward_hook(lambda _, given, out, at=index: asked.append((at, len(out))))
    out = module(x, torch.zeros(9), None)
    chosen = (out["experts"][:, 1:] != 0).sum(0).tolist()
    assert asked == [(at, count) for at, count in enumerate(chosen) if count]
    with tracing():
        dense = module(x, torch.zeros(9), None)
    torch.testing.assert_close(dense["atomic_energy"], out["atomic_energy"], rtol=0, atol=1e-14)


def test_energy_is_smooth_and_forces_are_its_slope_where_experts_change(double):
    """Along a path on which atoms change their experts."""
    here, model, batch = CASES[0], made(**HERE), draw((6,), seed=2)
    way = torch.randn(batch.positions.shape, generator=torch.Generator().manual_seed(2))
    path = torch.linspace(-0.5, 0.5, 241)
    found = model(walked(here, batch, way, path))
    chosen = found["experts"].view(len(path), 6, -1) != 0
    assert int((chosen[1:] != chosen[:-1]).sum()) >= 3

    # central differences of the fourth order along the path
    energies, step = found["energy"], float(path[1] - path[0])
    slopes = (8 * (energies[3:-1] - energies[1:-3]) - energies[4:] + energies[:-4]) / (12 * step)
    along = -(found["forces"].view(len(path), 6, 3) * way).sum((1, 2))[2:-2]
    assert float((along - slopes).abs().max()) <= 1e-4 * float(slopes.abs().max())
    assert float(along.diff().abs().max()) <= 0.1 * float(along.abs().max())


def test_forces_are_the_slope_of_the_energy(double):
    here, model, batch, step = CASES[0], made(**HERE), draw(), 3e-5
    slopes = energy_slopes(here, model, batch, step)
    assert float((model(batch)["forces"].flatten() + slopes).abs().max()) <= 1e-6


@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_the_contract_is_kept(forces, double):
    check_network(made(forces=forces, **HERE), draw())


def test_they_change_no_other_first_weight_and_learn(double):
    plain, model = made().state_dict(), made(**HERE)
    assert_no_other_weight_changes(plain, model.state_dict(), ".experts.")

    out = model.train()(draw((7, 6, 5)))
    (out["forces"].square().sum() + out["energy"].square().sum()).backward()
    used = (out["experts"] != 0).any(0)[1:].tolist()
    for name, weight in model.named_parameters():
        if ".experts.energies." in name:
            expert = int(name.split(".energies.")[1].split(".")[0])
            assert bool(weight.grad is not None and weight.grad.any()) == used[expert], name
        elif ".experts." in name:
            assert bool(weight.grad.any()), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"experts": 1}, "number of the experts must be 2 .. 64, or 0 for none, got 1"),
        ({"experts": -1}, "number of the experts must be >= 0, got -1"),
        ({"experts": 4, "experts_top_k": 4}, "top_k of the experts must be below their number 4"),
        ({"experts": 4, "experts_top_k": 0}, "top_k of the experts must be >= 1"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        made(**options)
    assert experts(8, ExpertOptions(), vectors=False) is None
