"""Property networks under the laws of the suite: every backbone, every readout; scaling, cached
bases, mistakes.
"""

from __future__ import annotations

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from farfield.dataloader.chemistry.bonds import BOND_KINDS
from farfield.models.batch import AtomBatch
from farfield.models.edges import edge_vectors
from farfield.models.factory import build_model, default_config, network_class, network_names
from farfield.models.graph_ops import GraphIndex
from farfield.models.heads.property_readouts import READOUTS
from farfield.models.heads.target_scaling import fit_scaling, references
from farfield.models.layers.edge_embedding import NUM_BOND_KINDS
from farfield.models.near_field.edge_frames import EdgeBasis
from tests.laws import CutoffSuite, ModelCases, ModelSuite
from tests.support.law_cases import Case, complete_graph, cutoff_graph
from tests.support.small_edge_transformer import EDGE_TRANSFORMER

CUTOFF = 4.0
TARGETS = "alpha,homo,lumo,gap,mu,dipole,r2"
ASKED = {"targets": TARGETS, "readouts": "lumo=mean, gap=max"}  # all readouts
OUTPUTS = {
    name: "graph_vector" if name == "dipole" else "graph_scalar" for name in TARGETS.split(",")
}
ENERGIES = {
    "targets": "U0,homo,lumo,gap",
    "readouts": "lumo=mean,gap=max",
}  # what positions reach through edges alone
SE3 = {
    "name": "se3_transformer_properties",
    "layers": 2,
    "channels": 8,
    "heads": 2,
    "element_size": 3,
    "radial_hidden": 8,
    "norm": "gate",
    **ASKED,
}
E2FORMER = {
    "name": "e2former_properties",
    "irreps": "8x0e+8x1o+8x2e",
    "schedule": "first-order",
    "layers": 1,
    "cutoff": CUTOFF,
    "radial_hidden": 8,
    "element_size": 3,
    "near_heads": 2,
    "near_score_width": 4,
    "avg_degree": 4.0,
    "far_expansion": "pairwise",
    "far_heads": 2,
    "near_kernel_implementation": "math",
    **ASKED,
}
EDGES = {**EDGE_TRANSFORMER, "name": "edge_transformer_properties", **ASKED}
near_graph = functools.partial(cutoff_graph, cutoff=CUTOFF)


def bonds(graph: GraphIndex, numbers: Tensor) -> dict[str, Tensor]:
    """A kind for every edge that depends on the two elements alone."""
    return {"bond_kinds": (numbers[graph.src] * numbers[graph.dst]) % NUM_BOND_KINDS}


def no_features(graph: GraphIndex, numbers: Tensor) -> dict[str, Tensor]:
    return {}


def random_batch(connect, features, sizes, generator) -> AtomBatch:
    counts = torch.tensor(sizes)
    positions = 1.5 * torch.randn(int(counts.sum()), 3, generator=generator)
    numbers = torch.tensor([1, 6, 8])[torch.randint(0, 3, (len(positions),), generator=generator)]
    graph = connect(positions, counts)
    return AtomBatch(
        graph=graph,
        positions=positions,
        atomic_numbers=numbers,
        edge_features=features(graph, numbers),
    )


def some_scaling(readouts: dict[str, str], seed: int = 0) -> dict:
    """A scaling fitted to random labels of random molecules."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 9, size=20)
    numbers = rng.choice([1, 6, 8], size=counts.sum())
    values = {
        name: rng.normal(3, 2, size=(20, 3) if READOUTS[readout].kind == "vector" else 20)
        for name, readout in readouts.items()
    }
    return fit_scaling(numbers, counts, values, readouts)


def made(config: dict, scaled: bool = True) -> torch.nn.Module:
    model = build_model(config).eval()
    if scaled:
        model.set_scaling(some_scaling(model.readouts))
    return model


def case(name: str, base: dict, connect, features=no_features, outputs=OUTPUTS, **options) -> Case:
    config = {**base, **options}
    return Case(
        name=name,
        build=lambda: made(config),
        batch=functools.partial(random_batch, connect, features),
        connect=connect,
        outputs=outputs,
        lmax=config.get("lmax", 2),
        cutoff=None if connect is complete_graph else CUTOFF,
        edge_features=features,
    )


FADING = {"cutoff": CUTOFF, "envelope": "polynomial", "bond_kinds": False}
SCALARS = dict.fromkeys(("U0", "homo", "lumo", "gap"), "graph_scalar")
FREE_CASES = [
    case("se3-bonds", SE3, complete_graph, bonds),
    case("se3-lmax3", SE3, complete_graph, bonds, lmax=3, layers=1, norm="layer", skip="sum"),
    case("se3-pseudo", SE3, complete_graph, bonds, pseudo_channels=2, heads=1),
    case(
        "se3-no-bonds", SE3, complete_graph, bond_kinds=False, norm="bias", relative_position="cat"
    ),
]
CUTOFF_CASES = [
    case("se3-cutoff", SE3, near_graph, **FADING),
    case("e2former", E2FORMER, near_graph),
    case("e2former-bonds", E2FORMER, near_graph, bonds, bond_kinds=True),
    case(
        "e2former-second-order",
        E2FORMER,
        near_graph,
        schedule="second-order",
        norm="rms_norm_sh",
        feed_forward="gate",
    ),
]
CASES = [
    *FREE_CASES,
    *CUTOFF_CASES,
    case("e2former-hybrid", E2FORMER, near_graph, schedule="hybrid-first-order"),
    case("edge-transformer", EDGES, complete_graph, waves=0),
]
FADING_CASES = [
    case("se3-cutoff", SE3, near_graph, outputs=SCALARS, **FADING, **ENERGIES),
    case("e2former", E2FORMER, near_graph, outputs=SCALARS, **ENERGIES),
]


class TestProperties(ModelSuite):
    @pytest.fixture(params=CASES, ids=[case.name for case in CASES])
    def case(self, request):
        return request.param


class TestPropertiesAtTheCutoff(CutoffSuite):
    @pytest.fixture(params=FADING_CASES, ids=[case.name for case in FADING_CASES])
    def case(self, request):
        return request.param


class TestMomentsAtTheCutoff(ModelCases):
    """Dipoles and extents read positions as well: they do not fade with an edge, but nothing
    jumps.
    """

    test_cutoff_is_smooth = CutoffSuite.test_cutoff_is_smooth

    @pytest.fixture(params=CUTOFF_CASES, ids=[case.name for case in CUTOFF_CASES])
    def case(self, request):
        return request.param


EACH = pytest.mark.parametrize(
    ("config", "connect", "features"),
    [
        (SE3, complete_graph, bonds),
        (E2FORMER, near_graph, no_features),
        (EDGES, complete_graph, no_features),
    ],
    ids=["se3", "e2former", "edge_transformer"],
)


def draw(connect, features, sizes=(5, 3, 6), seed: int = 0) -> AtomBatch:
    return random_batch(connect, features, list(sizes), torch.Generator().manual_seed(seed))


@EACH
def test_predictions_are_scaled_raw_outputs_and_references(config, connect, features):
    torch.manual_seed(0)
    model, batch = made(config), draw(connect, features)
    scaling, raw, out = some_scaling(model.readouts), model.raw(batch), model(batch)
    assert list(raw) == list(out) == TARGETS.split(",")
    for name in out:
        assert raw[name].dtype == torch.float32 and out[name].dtype == torch.float64
        constant = references(
            batch.atomic_numbers.numpy(), batch.graph.nodes_per_graph.numpy(), scaling, name
        )
        expected = torch.from_numpy(constant) + scaling[name]["scale"] * raw[name].double()
        torch.testing.assert_close(out[name], expected, rtol=1e-12, atol=1e-12)


@EACH
def test_scaling_survives_casts_and_a_checkpoint(config, connect, features):
    """Total energies of 1e4 eV keep 1e-9 eV through .float() and a state dict; the values come back
    as they were set.
    """
    torch.manual_seed(0)
    config = {**config, "targets": "U0,homo", "readouts": ""}
    model, batch = made(config, scaled=False), draw(connect, features)
    scaling = some_scaling(model.readouts)
    scaling["U0"]["references"] = [-13.587222780835477, -1029.4889999855063, -2041.9816003861047]
    model.set_scaling(json.loads(json.dumps(scaling)))
    expected = model(batch)
    again = made(config, scaled=False)
    again.load_state_dict(model.state_dict(), strict=True)
    for cast in (again, again.float(), again.to(torch.float32), again.double().float()):
        assert cast.heads.scaling.values() == scaling
        for name in expected:
            assert torch.equal(cast(batch)[name], expected[name]), name


@EACH
def test_training_differentiates_no_positions(config, connect, features):
    """One backward pass gives every parameter a gradient, and positions none."""
    torch.manual_seed(0)
    model, batch = build_model(config).train(), draw(connect, features)
    sum(value.square().sum() for value in model.raw(batch).values()).backward()
    assert not batch.positions.requires_grad and batch.positions.grad is None
    parameters = list(model.named_parameters())
    assert all(
        parameter.grad is not None and torch.isfinite(parameter.grad).all()
        for _, parameter in parameters
    )

    # a network may read inputs that these structures do not have
    silent = [name for name, parameter in parameters if not parameter.grad.any()]
    assert all("inputs.networks" in name for name in silent)


def test_a_basis_of_more_degrees_serves_and_one_of_fewer_is_refused():
    torch.manual_seed(0)
    model, batch = made(SE3), draw(complete_graph, bonds)
    vectors = edge_vectors(batch.positions.double(), batch.graph)
    for lmax in (2, 4):
        cached = dataclasses.replace(
            batch, edge_basis=EdgeBasis.from_vectors(vectors, lmax).to(dtype=torch.float32)
        )
        for name, value in model(cached).items():
            torch.testing.assert_close(value, model(batch)[name], rtol=1e-5, atol=1e-6)
    with pytest.raises(
        ValueError, match="basis has lmax 1 but the model needs lmax 2; preprocess with --lmax 2"
    ):
        model(dataclasses.replace(batch, edge_basis=EdgeBasis.from_vectors(vectors, 1)))


def test_gradients_do_not_pass_by_the_cache():
    torch.manual_seed(0)
    model, batch = made(SE3), draw(complete_graph, bonds)
    gradients = []
    for basis in (None, EdgeBasis.from_vectors(edge_vectors(batch.positions, batch.graph), 2)):
        positions = batch.positions.clone().requires_grad_(True)
        out = model(dataclasses.replace(batch, positions=positions, edge_basis=basis))
        gradients.append(
            torch.autograd.grad(sum(value.square().sum() for value in out.values()), positions)[0]
        )
    assert gradients[0].abs().max() > 1e-6
    torch.testing.assert_close(gradients[1], gradients[0])


def test_kinds_of_bonds_are_those_of_the_data():
    assert sorted(BOND_KINDS.values()) == list(range(NUM_BOND_KINDS))


@pytest.mark.parametrize(
    ("base", "connect"), [(SE3, complete_graph), (E2FORMER, near_graph)], ids=["se3", "e2former"]
)
def test_bond_kinds_and_elements_are_seen(base, connect):
    torch.manual_seed(0)
    model, batch = made({**base, "bond_kinds": True}), draw(connect, bonds)
    other = dataclasses.replace(
        batch,
        edge_features={"bond_kinds": (batch.edge_features["bond_kinds"] + 1) % NUM_BOND_KINDS},
    )
    swapped = dataclasses.replace(batch, atomic_numbers=14 - batch.atomic_numbers.clamp_min(6))
    for name in TARGETS.split(","):
        assert not torch.allclose(model.raw(batch)[name], model.raw(other)[name]), name
        assert not torch.allclose(model.raw(batch)[name], model.raw(swapped)[name]), name
    deaf = made({**base, "bond_kinds": False})
    assert all(torch.equal(deaf(batch)[name], deaf(other)[name]) for name in OUTPUTS)


@pytest.mark.parametrize(
    ("change", "quoted"),
    [
        ({"edge_features": {}}, "no edge feature 'bond_kinds': .*bond_kinds to false"),
        (
            {"edge_features": {"bond_kinds": torch.full((26,), 5)}},
            r"bond kinds must lie in 0 \.\. 4, got 5 \.\. 5",
        ),
        ({"atomic_numbers": None}, "no atomic_numbers"),
        ({"atomic_numbers": torch.tensor([1, 6, 0, 8, 6, 1, 1, 1])}, r"1 \.\. 118, got 0"),
        (
            {"atomic_numbers": torch.tensor([1, 6, 9, 8, 6, 1, 1, 1])},
            r"unknown element F \(Z = 9\); this model was trained on H, C, O",
        ),
    ],
)
def test_batches_that_cannot_be_read_are_refused(change, quoted):
    batch = dataclasses.replace(draw(complete_graph, bonds, (5, 3)), **change)
    with pytest.raises(ValueError, match=quoted) as error:
        made(SE3)(batch)
    assert "\n" not in str(error.value)


MISTAKES = [
    ({"targets": "homo,hommo"}, ["'hommo'", "did you mean 'homo'"]),
    ({"targets": " ,"}, ["' ,'", "e.g. homo,gap,mu"]),
    ({"targets": "mu,homo,mu"}, ["'mu,homo,mu'", "different"]),
    ({"readouts": "homo=zzz"}, ["'zzz'", "readout must be one of sum, mean, max"]),
    ({"readouts": "gap=mean"}, ["'gap=mean'", "among homo"]),
    ({"readouts": "mean"}, ["'mean'", "alpha=mean"]),
    ({"readouts": "homo=dipole"}, ["'dipole'", "'homo'", "one number", "choose one of sum"]),
    (
        {"targets": "dipole", "readouts": "dipole=sum"},
        ["'sum'", "which is a vector", "choose one of dipole"],
    ),
    ({"avg_atoms": 0.0}, ["avg_atoms must be > 0", "0.0"]),
    ({"avg_degree": float("inf")}, ["avg_degree must be > 0", "inf"]),
    ({"element_size": 0}, ["element_size must be >= 1", "0"]),
    ({"forces": "direct"}, ["'forces'", "unknown option"]),
    ({"stress": True}, ["'stress'", "unknown option"]),
]


@pytest.mark.parametrize("name", network_names("properties"))
@pytest.mark.parametrize(
    ("change", "quoted"), MISTAKES, ids=[str(change) for change, _ in MISTAKES]
)
def test_mistakes_in_options(name, change, quoted):
    if {"avg_degree", "element_size"} & change.keys() - default_config(name).keys():
        pytest.skip("this network reads no edges, or does not count neighbours")
    with pytest.raises(ValueError) as error:
        build_model({"name": name, **change})
    assert "\n" not in str(error.value) and all(part in str(error.value) for part in quoted), str(
        error.value
    )


@pytest.mark.parametrize("name", network_names("properties"))
def test_presets_build_from_small_to_large(name):
    assert list(network_class(name).presets) == ["small", "base", "published"]
    sizes = [
        sum(p.numel() for p in build_model({"name": name, "preset": preset}).parameters())
        for preset in network_class(name).presets
    ]
    assert sizes == sorted(sizes)
