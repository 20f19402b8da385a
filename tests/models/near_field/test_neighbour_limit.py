"""Laws of the limit of neighbours: the nearest k count, nothing jumps, and slopes are slopes."""

from __future__ import annotations

import pytest
import torch

from farfield.models.factory import build_model
from farfield.models.graph_ops import GraphIndex
from farfield.models.near_field.neighbour_limit import RANK_WIDTH, neighbour_limit
from farfield.models.tracing import NotTraceableError, tracing
from tests.laws import CutoffSuite, ModelSuite
from tests.support.derivatives import assert_all_derivatives
from tests.support.law_cases import replaced, walked
from tests.support.small_e2former import case, draw, made

MOST = 3
LIMITED = {"max_neighbors": MOST, "schedule": "hybrid-first-order", "near_weights": "softplus"}


def star(number: int) -> GraphIndex:
    """``number`` atoms that send to the first one, in a mixed order."""
    order = torch.randperm(number, generator=torch.Generator().manual_seed(0)) + 1
    return GraphIndex(order, torch.zeros_like(order), torch.tensor([number + 1]))


def limits(lengths, most: int):
    return neighbour_limit(star(len(lengths)), torch.tensor(lengths, dtype=torch.float64), most)


def test_the_nearest_count_and_the_others_do_not():
    far_apart = [1 + RANK_WIDTH * place for place in (4, 0, 3, 1, 5, 2)]
    assert limits(far_apart, 4).tolist() == [0, 1, 1, 1, 0, 1]
    assert limits(far_apart, 6).tolist() == [1] * 6


def test_a_neighbour_fades_as_a_nearer_one_comes():
    """The second of two near ones, from the place of the first to a width behind it."""
    shares = torch.linspace(-1, 1.5, 26)
    found = torch.stack([limits([2.0, 2.0 + RANK_WIDTH * float(x)], 1)[1] for x in shares])
    assert bool((found.diff() <= 0).all()) and found[0] == 1 and found[-1] == 0
    assert found[10] == 1 and float(found.diff().abs().max()) < 0.4


def test_neighbours_at_one_distance_stay_together():
    assert limits([1.5] * 6, 2).tolist() == [1] * 6
    assert limits([1.0, 1.0, *[1.5 + RANK_WIDTH] * 4], 2).tolist() == [1, 1, 0, 0, 0, 0]


def test_atoms_have_limits_of_their_own():
    """Two receivers give what each alone gives, whatever the order of the edges."""
    lengths = 1 + 2 * torch.rand(2, 7, generator=torch.Generator().manual_seed(1)).double()
    alone = torch.stack([neighbour_limit(star(7), each, MOST) for each in lengths])
    mixed = torch.arange(14).view(2, 7).T.flatten()
    dst = torch.tensor([0, 8]).repeat_interleave(7)[mixed]
    graph = GraphIndex(dst, dst, torch.tensor([8, 8]))
    both = neighbour_limit(graph, lengths.flatten()[mixed], MOST)
    assert torch.equal(both, alone.flatten()[mixed])
    assert 0 < float(both.sum()) < 14


def test_all_derivatives_of_the_limit():
    lengths = torch.tensor([1.0, 1.21, 1.33, 1.48, 1.62, 2.9], dtype=torch.float64)
    graph = star(6)
    found = neighbour_limit(graph, lengths, MOST)
    assert bool(((found > 0.01) & (found < 0.99)).any())  # where a slope is not zero
    assert_all_derivatives(
        lambda value: neighbour_limit(graph, value, MOST), [lengths.requires_grad_()]
    )


def test_no_edges_and_a_trace():
    empty = torch.zeros(0, dtype=torch.long)
    assert (
        neighbour_limit(GraphIndex(empty, empty, torch.tensor([2])), empty.double(), 1).numel() == 0
    )
    with tracing(), pytest.raises(NotTraceableError, match="max_neighbors"):
        limits([1.0], 1)


HERE = case("limited", **LIMITED)
NEAR = case("limited-near", **LIMITED | {"schedule": "first-order"})


class TestLimited(ModelSuite):
    """Rotation, reflection, permutation, batch = alone, derivatives of the network."""

    @pytest.fixture
    def case(self):
        return HERE


class TestLimitedAtTheCutoff(CutoffSuite):
    @pytest.fixture
    def case(self):
        return NEAR


def test_energy_does_not_jump_where_neighbours_change_places(double):
    """An atom walks through the shell of neighbours of the others: steps of the energy shrink with
    the step, and forces are its slope.
    """
    model, batch = made(**LIMITED), draw((8,))
    move = torch.zeros_like(batch.positions)
    move[0] = torch.tensor([3.0, -2.0, 1.5])

    # all places of the walk are graphs of one batch
    places = torch.linspace(0, 1, 401)
    out = model(walked(HERE, batch, move, places))
    energy = out["energy"].detach()
    power = (out["forces"].detach().view(-1, 8, 3)[:, 0] * move[0]).sum(-1)

    # a jump would be as large in steps a quarter as long
    fine, coarse = energy.diff().abs().max(), energy[::4].diff().abs().max()
    assert float(fine) < 0.35 * float(coarse)

    # Simpson's rule: the work of the forces is the fall of the energy
    work = (power[:-2:2] + 4 * power[1:-1:2] + power[2::2]).sum() / 3 / 400
    assert abs(float(energy[0] - energy[-1] - work)) < 1e-5


def test_far_neighbours_change_nothing(double):
    """Beyond the nearest k an atom leaves the others alone; without a limit it does not."""
    for most, heard in ((MOST, False), (None, True)):
        model = made(**LIMITED | {"max_neighbors": most, "schedule": "first-order"})

        # the last atom is behind the first one, where the nearest three do not see it
        energies = []
        for last in (-3.2, -3.5):
            positions = torch.zeros(5, 3)
            positions[1:, 0] = torch.tensor([1.0, 1.6, 2.2, last])
            batch = replaced(HERE, draw((5,)), positions)
            energies.append(float(model.network(batch)["atomic_energy"][0].detach()))
        assert (abs(energies[0] - energies[1]) > 1e-9) == heard


def test_it_is_an_option_of_every_network_with_this_near_field():
    model = build_model({"name": "e2former", "max_neighbors": 20})
    assert model.config["max_neighbors"] == 20
    assert build_model(model.config).config == model.config
    with pytest.raises(ValueError, match="max_neighbors must be >= 1, got 0"):
        build_model({"name": "e2former", "max_neighbors": 0})
