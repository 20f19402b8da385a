"""An E2Former whose atoms hear clusters, under the laws of every network."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from farfield.models.factory import build_model
from tests.far_apart_laws import FarApartSuite
from tests.laws import CutoffSuite, ModelCases, ModelSuite
from tests.support.added_weights import assert_no_other_weight_changes, silent_weights
from tests.support.derivatives import energy_slopes, strain_slope
from tests.support.law_cases import cutoff_graph, relative_error, walked
from tests.support.small_e2former import (
    CUTOFF,
    assert_two_cells_are_twice_one,
    case,
    connect,
    crystal,
    draw,
    made,
)

HERE = {"with_cluster": True, "cluster_cutoff": 12.0, "cluster_layers": 1}
ALONE = {**HERE, "schedule": "first-order"}


def clustered(name: str, **options):
    return case(name, **{**HERE, **options})


CASES = [
    clustered("one-layer"),
    clustered(
        "two-layers",
        cluster_layers=2,
        cluster_radius=3.0,
        cluster_order="second-order",
        near_weights="softplus",
        near_kernel_implementation="memory_efficient",
        forces="direct",
    ),
    clustered(
        "all-orders-on-nodes",
        cluster_order="all-order",
        near_score="dot_alpha",
        near_convolution_form="node",
        schedule="hybrid-first-order",
    ),
]


class TestE2FormerWithClusters(ModelSuite):
    @pytest.fixture(params=CASES, ids=[case.name for case in CASES])
    def case(self, request):
        return request.param


class TestClustersFarApart(FarApartSuite):
    @pytest.fixture(params=CASES, ids=[case.name for case in CASES])
    def case(self, request):
        return request.param


class TestClustersAtTheCutoff(ModelCases):
    """A node that leaves the near field stays in reach of clusters: nothing jumps."""

    test_cutoff_is_smooth = CutoffSuite.test_cutoff_is_smooth

    @pytest.fixture(params=CASES, ids=[case.name for case in CASES])
    def case(self, request):
        return request.param


def pair(distance: float, numbers=(6, 8)):
    positions = torch.tensor([[0.0, 0, 0], [0.6 * distance, 0.8 * distance, 0]])
    batch = draw((2,))
    return dataclasses.replace(
        batch,
        positions=positions,
        atomic_numbers=torch.tensor(numbers),
        graph=connect(positions, torch.tensor([2])),
    )


def test_clusters_are_heard_up_to_their_cutoff(double):
    """Beyond the near field the energy still changes, and it ends without a jump."""
    model, nobody = made(**ALONE), made(schedule="first-order")
    reach = HERE["cluster_cutoff"]
    distances = (6.0, 7.0, reach - 1e-5, reach + 1, 40.0)
    energies = [float(model(pair(at))["energy"]) for at in distances]
    assert abs(energies[0] - energies[1]) > 1e-6
    assert energies[2] == pytest.approx(energies[3], abs=1e-12) and energies[3] == energies[4]
    assert float(nobody(pair(6.0))["energy"]) == float(nobody(pair(7.0))["energy"])


def test_forces_are_the_slope_of_the_energy(double):
    """Centres and weights of clusters move with the atoms, and the forces know it."""
    here, model, step = clustered("here"), made(**HERE), 1e-4
    batch = draw((6, 3), seed=2)
    assert len({int(number) for number in batch.atomic_numbers}) > 1
    slopes = energy_slopes(here, model, batch, step)
    assert float((model(batch)["forces"].flatten() + slopes).abs().max()) <= 1e-6


@pytest.mark.parametrize("start", [0.45, 0.95], ids=["seed", "member"])
def test_nothing_jumps_where_an_atom_changes_its_clusters(start, double):
    """A hydrogen leaves a carbon for another one: seeds come and go, forces change little by
    little, and they stay the slope of the energy.
    """
    here, model, step = clustered("here"), made(**HERE), 1e-3
    places = torch.linspace(start * CUTOFF, (start + 0.1) * CUTOFF, 41)
    steps = torch.stack([places, places + step], 1).flatten()
    batch = dataclasses.replace(
        draw((3,)),
        positions=torch.tensor([[0.0, 0, 0], [8.0, 0.5, 0], [0, 0.3, 0]]),
        atomic_numbers=torch.tensor([6, 6, 1]),
    )
    move = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0]])

    # all places are graphs of one batch
    out = model(walked(here, batch, move, steps))
    slopes = out["energy"].view(-1, 2).diff(dim=1).squeeze(1) / step
    forces = out["forces"].view(-1, 2, 3, 3)
    torch.testing.assert_close(forces[:, :, 2, 0].mean(1), -slopes, rtol=0, atol=1e-5)
    assert float(forces.diff(dim=0).abs().max()) < 0.1 * max(1.0, float(forces.abs().max()))


def test_longer_edges_count_for_nothing(double):
    """Edges beyond the cutoff, as a skin of dynamics has them, find no members."""
    model, batch = made(**HERE), draw()
    wide = cutoff_graph(batch.positions, batch.graph.nodes_per_graph, 2 * CUTOFF)
    expected, found = model(batch), model(dataclasses.replace(batch, graph=wide))
    for name in ("energy", "forces"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)


def test_supercell_has_twice_the_energy(double):
    assert_two_cells_are_twice_one(made(stress=True, **HERE), crystal())


def test_stress_is_the_slope_under_strain(double):
    model, batch = made(stress=True, **HERE), crystal()
    out = model(batch)
    for row, column in ((0, 0), (0, 1), (2, 1)):
        slope = strain_slope(model, batch, row, column)
        assert slope == pytest.approx(float(out["stress"][0, row, column]), abs=1e-7)


def test_open_and_periodic_structures_in_one_batch(double):
    """Each has what it has alone."""
    model, one, other = made(**HERE), crystal(), draw((4,))
    graph = type(one.graph)(
        torch.cat([one.graph.src, other.graph.src + 4]),
        torch.cat([one.graph.dst, other.graph.dst + 4]),
        torch.tensor([4, 4]),
    )
    both = dataclasses.replace(
        one,
        graph=graph,
        positions=torch.cat([one.positions, other.positions]),
        atomic_numbers=torch.cat([one.atomic_numbers, other.atomic_numbers]),
        image_shift=torch.cat([one.image_shift, torch.zeros(other.num_edges, 3).long()]),
        cell=torch.cat([one.cell, torch.zeros(1, 3, 3)]),
        periodic=torch.tensor([[True] * 3, [False] * 3]),
    )
    found = model(both)
    for name in ("energy", "forces"):
        expected = torch.cat([model(one)[name], model(other)[name]])
        assert relative_error(found[name], expected) < 1e-12, name


def test_every_weight_learns(double):
    model, batch = made(**HERE | {"cluster_order": "all-order"}), draw((6, 5))
    assert not silent_weights(model, batch, ".clusters.")


def test_they_change_no_other_first_weight():
    plain, found = made().state_dict(), made(**HERE).state_dict()
    assert_no_other_weight_changes(plain, found, ".clusters.")
    assert made(**HERE).remarks == []


def test_members_beyond_the_near_field_are_refused():
    with pytest.raises(ValueError, match="radius of the clusters must be at most the cutoff 4 of"):
        made(**HERE, cluster_radius=5.0)
    made(cluster_radius=5.0)  # no clusters, no question


def test_properties_and_diffusion_have_them_too():
    for name in ("e2former_properties", "e2former_diffusion"):
        options = {"irreps": "8x0e+8x1o", "near_heads": 2, **HERE}
        model = build_model({"name": name, **options})
        assert any("clusters." in weight for weight in model.state_dict())
