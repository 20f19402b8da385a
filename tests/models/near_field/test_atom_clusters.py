"""Laws of the clusters themselves: seeds, members, centres, and the pairs that are heard."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.edges import image_vectors
from farfield.models.graph_ops import GraphIndex
from farfield.models.layers.smooth_step import smooth_step
from farfield.models.near_field.atom_clusters import (
    AtomClusters,
    ClusterOptions,
    Members,
    make_clusters,
    seed_weights,
)
from farfield.models.near_field.edge_geometry import NearFieldGeometry
from farfield.models.tracing import NotTraceableError, tracing
from tests.support.small_e2former import CUTOFF, connect, crystal, draw

pytestmark = pytest.mark.usefixtures("double")


def near_of(batch: AtomBatch) -> NearFieldGeometry:
    """Edges of a batch; neither envelope nor invariants are read here."""
    images = image_vectors(batch.graph, batch.cell, batch.image_shift)
    return NearFieldGeometry.from_positions(
        batch.graph, batch.positions, envelope=lambda r: r, invariants=lambda r: r, images=images
    )


def structure(numbers: list[int], *places) -> AtomBatch:
    positions = torch.tensor(places)
    graph = connect(positions, torch.tensor([len(numbers)]))
    return AtomBatch(graph, positions, torch.tensor(numbers))


def clusters_of(batch: AtomBatch, cutoff: float = 15.0, radius: float = CUTOFF) -> AtomClusters:
    return make_clusters(
        near_of(batch),
        batch,
        radius=radius,
        cutoff=cutoff,
        invariants=lambda pairs, length: length.unsqueeze(1),
    )


def members_of(batch: AtomBatch) -> Members:
    return Members.of(near_of(batch), batch.atomic_numbers, CUTOFF)


WATERS = [8, 1, 1, 8, 1, 1]
PLACES = [[0.0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0], [2.9, 0, 0], [3.6, 0.6, 0], [2.9, -1, 0]]


def test_the_heaviest_atom_around_is_the_seed():
    """Oxygen in water, carbon in a hydrocarbon, both atoms of H2."""
    ethyl = structure([6, 1, 6], [0.0, 0, 0], [1.1, 0, 0], [0, 1.5, 0])
    hydrogen = structure([1, 1], [0.0, 0, 0], [0.74, 0, 0])
    assert members_of(structure(WATERS, *PLACES)).seeds.tolist() == [0, 3]
    assert members_of(ethyl).seeds.tolist() == [0, 2]
    assert members_of(hydrogen).seeds.tolist() == [0, 1]


def test_a_seed_fades_with_two_continuous_derivatives():
    """A hydrogen that leaves its oxygen becomes a seed between half the radius and the radius."""
    distances = torch.linspace(0.4, 1.1, 701) * CUTOFF
    positions = torch.zeros(len(distances), 2, 3)
    positions[:, 1, 0] = distances
    pairs = torch.arange(2 * len(distances))
    graph = GraphIndex(pairs, pairs ^ 1, torch.full((len(distances),), 2))
    batch = AtomBatch(graph, positions.flatten(0, 1), torch.tensor([8, 1]).repeat(len(distances)))
    weights = seed_weights(near_of(batch), batch.atomic_numbers, CUTOFF)[1::2]
    assert weights[0] == 0 and weights[-1] == 1 and bool((weights.diff() > -1e-14).all())

    step = float(distances[1] - distances[0])
    slopes = weights.diff() / step
    bends = slopes.diff() / step
    assert float(slopes.diff().abs().max()) < 10 * step
    assert float(bends.diff().abs().max()) < 60 * step


def test_the_step_is_smooth_at_both_ends():
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], requires_grad=True)
    values = smooth_step(x)
    (slope,) = torch.autograd.grad(values.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    assert values.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert slope[[0, 1, 3, 4]].tolist() == [0.0] * 4 and bend.tolist() == [0.0] * 5


def test_centre_and_features_are_sums_over_members():
    """Against sums over all pairs, by the formula of the module."""
    batch = draw((6,))
    members, clusters = members_of(batch), clusters_of(batch)
    numbers, places = batch.atomic_numbers, batch.positions
    distance = torch.cdist(places, places)
    scaled = (distance / CUTOFF).clamp(max=1)
    u = 1 - 28 * scaled**6 + 48 * scaled**7 - 21 * scaled**8
    close = 1 - smooth_step(2 * scaled - 1)
    heavier = (numbers.view(1, -1) > numbers.view(-1, 1)).double()
    s = 1 - smooth_step((heavier * close).sum(1))
    a = 1 / (0.1 + u @ s)

    x = torch.randn(6, 4, 3)
    for row, seed in enumerate(members.seeds.tolist()):
        mass = numbers * a * u[seed]
        centre = (mass.unsqueeze(1) * places).sum(0) / mass.sum()
        features = ((a * u[seed]).view(-1, 1, 1) * x).sum(0)
        found = members.centres(places, numbers)[row]
        torch.testing.assert_close(found, centre, rtol=0, atol=1e-12)
        torch.testing.assert_close(clusters.features(x)[row], features, rtol=0, atol=1e-12)
        torch.testing.assert_close(members.weights[row], s[seed])


@pytest.mark.parametrize("cutoff", [3.0, 9.0])
def test_images_are_all_that_are_near(cutoff):
    """Pairs in a crystal against a search among many cells, also of atoms outside their cell."""
    batch = crystal()
    away = torch.tensor([[0, 0, 0], [3, -2, 1], [0, 0, 0], [-1, 0, 5]])
    # an atom in another cell has other images at its edges
    shift = batch.image_shift - away[batch.graph.dst] + away[batch.graph.src]
    positions = batch.positions + away.double() @ batch.cell[0]
    batch = dataclasses.replace(batch, positions=positions, image_shift=shift)

    found = clusters_of(batch, cutoff).geometry
    centres = found.positions[4:]
    steps = torch.cartesian_prod(*[torch.arange(-9, 10)] * 3).double() @ batch.cell[0]
    ways = positions.view(1, -1, 1, 3) - centres.view(1, 1, -1, 3) + steps.view(-1, 1, 1, 3)
    expected = ways.norm(dim=-1)
    expected = expected[expected < cutoff].sort().values
    torch.testing.assert_close(found.length.sort().values, expected, rtol=0, atol=1e-12)
    assert bool((found.graph.dst.diff() >= 0).all())


def test_open_pairs_are_all_that_are_near():
    batch = draw((5, 3, 1))
    found = clusters_of(batch, 3.0).geometry
    centres = found.positions[batch.num_nodes :]
    of_cluster = batch.graph.graph_of_node[members_of(batch).seeds]
    distance = torch.cdist(batch.positions, centres)
    alike = batch.graph.graph_of_node.view(-1, 1) == of_cluster
    assert len(found.length) == int(((distance < 3.0) & alike).sum())


def test_slabs_and_wires_are_refused():
    batch = dataclasses.replace(crystal(), periodic=torch.tensor([[True, True, False]]))
    with pytest.raises(ValueError, match="clusters serve structures that are periodic"):
        clusters_of(batch)


def test_clusters_are_not_traced():
    with tracing(), pytest.raises(NotTraceableError, match="clusters are searched"):
        clusters_of(draw())


def test_empty_and_single_structures():
    """An atom alone is its own cluster; no atoms are no clusters."""
    single = members_of(structure([6], [1.0, 2.0, 3.0]))
    assert single.seeds.tolist() == [0] and single.weights.tolist() == [1.0]
    nothing = draw((2,)).select(torch.tensor([False]))
    assert len(clusters_of(nothing).geometry.length) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cutoff": 0.0}, "cutoff of the clusters must be > 0"),
        ({"radius": -1.0}, "radius of the clusters must be > 0"),
        ({"layers": 0}, "layers of the clusters must be >= 1"),
        ({"order": "third-order"}, "order of the clusters must be one of"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        ClusterOptions(**options)


def test_centres_move_with_their_members_alone():
    """The slope of a centre by the positions sums to one: a translation moves it along."""
    batch = draw((5,))

    def centre(positions: Tensor) -> Tensor:
        moved = dataclasses.replace(batch, positions=positions)
        return members_of(moved).centres(positions, batch.atomic_numbers)

    slope = torch.autograd.functional.jacobian(centre, batch.positions).sum(2)
    expected = torch.eye(3).expand_as(slope)
    torch.testing.assert_close(slope, expected, rtol=0, atol=1e-12)
