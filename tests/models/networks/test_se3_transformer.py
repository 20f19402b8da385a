"""The SE(3)-Transformer and its N-body form under the laws of the suite, over all their options."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from farfield.models.batch import AtomBatch
from farfield.models.edges import edge_vectors
from farfield.models.factory import build_model
from farfield.models.graph_ops import sum_nodes
from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.models.networks.se3_transformer import SE3Options, SE3Transformer
from tests.laws import BasisSuite, CutoffSuite, ModelCases, ModelSuite
from tests.support.law_cases import Case, complete_graph, cutoff_graph


def random_batch(connect, sizes, generator) -> AtomBatch:
    counts = torch.tensor(sizes)
    nodes = int(counts.sum())
    positions = 1.5 * torch.randn(nodes, 3, generator=generator)
    charges = torch.randint(0, 2, (nodes,), generator=generator) * 2.0 - 1
    features = {
        "velocities": torch.randn(nodes, 3, generator=generator),
        "charges": charges.to(positions.dtype),
    }
    return AtomBatch(graph=connect(positions, counts), positions=positions, node_features=features)


class PropertyProbe(nn.Module):
    """An SE(3)-Transformer as ``model(batch) -> dict``: energy of each graph, two vectors of each
    node.
    """

    def __init__(self, options: SE3Options):
        super().__init__()
        self.network = SE3Transformer(
            options, scalars_in=1, vectors_in=1, scalars_out=1, vectors_out=2
        )

    def forward(self, batch) -> dict:
        graph, charges, velocities = (
            batch.graph,
            batch.node_features["charges"],
            batch.node_features["velocities"],
        )
        vectors = edge_vectors(batch.positions, graph)
        basis = batch.edge_basis or EdgeBasis.from_vectors(vectors, self.network.options.lmax)
        edge_scalars = edge_features = None
        if self.network.options.edge_scalars:
            edge_scalars = (charges[graph.src] * charges[graph.dst]).unsqueeze(-1)
        if self.network.options.edge_vectors:
            edge_features = (velocities[graph.dst] - velocities[graph.src]).unsqueeze(1)
        scalars, vectors = self.network(
            graph,
            basis,
            charges.unsqueeze(-1),
            velocities.unsqueeze(1),
            edge_scalars,
            edge_features,
        )
        return {"energy": sum_nodes(graph, scalars[:, 0]), "vectors": vectors}


def property_case(name: str, **options) -> Case:
    options = SE3Options(**{"layers": 2, "channels": 8, "lmax": 2, "cutoff": 4.0, **options})
    connect = functools.partial(cutoff_graph, cutoff=options.cutoff)
    return Case(
        name=name,
        build=lambda: PropertyProbe(options),
        batch=functools.partial(random_batch, connect),
        connect=connect,
        outputs={"energy": "graph_scalar", "vectors": "node_vectors"},
        lmax=options.lmax,
        cutoff=options.cutoff,
    )


def nbody_case(name: str, **options) -> Case:
    config = {"name": "se3_transformer_nbody", "layers": 1, "channels": 8, "lmax": 2, **options}
    return Case(
        name=name,
        build=lambda: build_model(config),
        batch=functools.partial(random_batch, complete_graph),
        connect=complete_graph,
        outputs={
            "displacement": "node_vector",
            "velocity_change": "node_vector",
            "waypoints": "path",
        },
        lmax=config["lmax"],
    )


CASES = [
    property_case("default"),
    property_case("lmax1", lmax=1),
    property_case("lmax3-heads4", lmax=3, heads=4),
    property_case("lmax4-one-layer", lmax=4, layers=1),
    property_case("divisor4", value_divisor=4),
    property_case("attentive", self_interaction="attentive"),
    property_case("skip-sum", skip="sum"),
    property_case("norm-bias", norm="bias"),
    property_case("norm-gate", norm="gate"),
    property_case("pseudo-gate", norm="gate", pseudo_channels=2, heads=1),
    property_case("cosine-gaussian", envelope="cosine", radial_basis="gaussian"),
    property_case("log-gaussian", radial_basis="log_gaussian"),
    property_case("raw-distance", radial_basis="raw"),
    property_case("position-cat", relative_position="cat"),
    property_case("position-none", relative_position=None),
    property_case("edge-features", edge_scalars=1, edge_vectors=1),
    property_case("pseudo", pseudo_channels=4, value_divisor=2, heads=2),
    property_case(
        "pseudo-attentive-cat",
        pseudo_channels=4,
        self_interaction="attentive",
        relative_position="cat",
        edge_vectors=1,
    ),
    nbody_case("nbody"),
    nbody_case("nbody-lmax3-attentive", lmax=3, self_interaction="attentive", layers=2),
    nbody_case("nbody-three-updates", updates=3),
    nbody_case("nbody-shared-updates", updates=2, share_updates=True),
    nbody_case("nbody-no-motion", edge_motion=False),
    nbody_case("nbody-pseudo", pseudo_channels=2, heads=1),
]


class TestSE3Transformer(ModelSuite):
    test_cached_basis_equals_computed = BasisSuite.test_cached_basis_equals_computed

    @pytest.fixture(params=CASES, ids=[case.name for case in CASES])
    def case(self, request):
        return request.param


NBODY = [case for case in CASES if case.cutoff is None]


class TestGradientsBesideACache(ModelCases):
    """Of the networks of the project that choose between cache and positions; the probe above
    leaves the choice to its caller.
    """

    test_gradients_do_not_pass_by_the_cache = BasisSuite.test_gradients_do_not_pass_by_the_cache

    @pytest.fixture(params=NBODY, ids=[case.name for case in NBODY])
    def case(self, request):
        return request.param


WITH_CUTOFF = [case for case in CASES if case.cutoff is not None]


class TestSE3TransformerAtTheCutoff(CutoffSuite):
    @pytest.fixture(params=WITH_CUTOFF, ids=[case.name for case in WITH_CUTOFF])
    def case(self, request):
        return request.param


def test_odd_kernels_reach_the_true_channels_only_through_pseudo_ones():
    """With pseudo channels the answer depends on the odd weights: they are no dead parameters."""
    torch.manual_seed(0)
    case = property_case("pseudo", pseudo_channels=4)
    model, batch = case.build(), case.batch([5], torch.Generator().manual_seed(0))
    model(batch)["vectors"].square().sum().backward()
    for block in model.network.layers.blocks:
        assert max(float(weight.grad.abs().max()) for weight in block.convolution.odd) > 0
