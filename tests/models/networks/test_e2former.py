"""E2Former and its hybrid under the laws of every network, each option once."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from farfield.models.batch import AtomBatch
from farfield.models.factory import default_config
from farfield.models.far_field.attention import FEATURE_MAPS, NORMALISATIONS
from farfield.models.far_field.charges import CHARGES, CONSERVATIONS
from farfield.models.far_field.kernels import KERNELS
from farfield.models.far_field.spectrum import KAPPA_GRIDS, MODES
from farfield.models.kernels import harmonic_sum
from farfield.models.layers.feed_forward import FEED_FORWARDS
from farfield.models.layers.norms import NORMS
from farfield.models.layers.radial import RADIAL_BASES
from farfield.models.near_field.e2former_attention import WEIGHTS
from farfield.models.near_field.scores import SCORES
from farfield.models.near_field.wigner_convolution import FORMS
from farfield.models.networks.blocks import ATTENTIONS
from tests.far_apart_laws import FarApartSuite
from tests.laws import CutoffSuite, ModelCases, ModelSuite
from tests.support.law_cases import Case, cutoff_graph
from tests.support.small_e2former import (
    CUTOFF,
    SMALL,
    assert_two_cells_are_twice_one,
    case,
    connect,
    crystal,
    draw,
    made,
    one_structure,
)

CHOICES = (
    "schedule",
    "near_weights",
    "norm",
    "feed_forward",
    "near_kernel_implementation",
    "far_expansion",
)
DEFAULT_VALUES = default_config("e2former")
DEFAULTS = {name: DEFAULT_VALUES[name] for name in CHOICES}
EXACT_KERNELS = [
    name for name in harmonic_sum.KERNELS if name != "flash"
]  # which computes in half precision and has a test of its own


def once(option: str, names, **more) -> list[Case]:
    """A case for each name of a registry but the one all other cases have."""
    default = SMALL.get(option, DEFAULT_VALUES[option])
    return [case(f"{option}-{name}", **{option: name, **more}) for name in names if name != default]


NEAR_CASES = [
    case("two-layers", layers=2),
    *once("schedule", [name for name in ATTENTIONS if "fmm" not in name and "hybrid" not in name]),
    *once("near_score", SCORES),
    *once("near_weights", WEIGHTS),
    *once("near_convolution_form", FORMS),
    *once("near_kernel_implementation", EXACT_KERNELS),
    *once("norm", NORMS),
    *once("radial_basis", RADIAL_BASES),
    *once("feed_forward", FEED_FORWARDS),
    case("direct", forces="direct"),
    case("no-forces", forces="none", irreps="8x0e+8x1o", ffn_ratio=2),
]
OTHER_CASES = [
    *once("schedule", [name for name in ATTENTIONS if "fmm" in name or "hybrid" in name]),
    case("serial", schedule="second-order+fmm-node+zero-order", feed_forward="two_body"),
    case(
        "hybrid-multipole",
        schedule="hybrid-first-order",
        far_expansion="multipole",
        far_tolerance=0.05,
        far_design_radius=5.0,
    ),
    case("hybrid-auto", schedule="hybrid-first-order", far_expansion="auto"),
    case("cosine", envelope="cosine"),  # its second derivatives jump at the cutoff
    *once("far_feature_map", FEATURE_MAPS, schedule="hybrid-first-order"),
    *once(
        "far_normalisation",
        NORMALISATIONS,
        schedule="hybrid-first-order",
        far_feature_map="elu",
    ),
    *once("far_kernel", KERNELS, schedule="hybrid-first-order"),
    *once(
        "far_kappa_grid",
        KAPPA_GRIDS,
        schedule="hybrid-first-order",
        far_kernel="standing_waves",
        far_num_kappa=2,
    ),
    *once("far_radial_mode", MODES, schedule="hybrid-first-order"),
    case(
        "far-values-of-degree-0",
        schedule="hybrid-first-order",
        far_value_lmax=0,
        far_learnable_radial=False,
    ),
    case("defaults", **DEFAULTS),
]
CHARGE_CASES = [
    *once("charges", [name for name in CHARGES if name != "none"]),
    *once("charge_conservation", CONSERVATIONS, charges="latent", charge_channels=2),
    case("charges-at-every-distance", charges="latent", charge_inside="keep"),
    case("charges-and-messages", charges="latent", schedule="hybrid-first-order"),
]
ALL_CASES = NEAR_CASES + OTHER_CASES + CHARGE_CASES


@pytest.mark.filterwarnings("ignore:an atom is")
class TestE2Former(ModelSuite):
    @pytest.fixture(params=ALL_CASES, ids=[case.name for case in ALL_CASES])
    def case(self, request):
        return request.param


# kernels with tails, and a divisor that counts all atoms, are heard at any distance; multipoles
# are not for structures of this extent
HEARD_ANYWHERE = (
    "far_kernel-",
    "far_kappa_grid-",
    "far_normalisation-attention",
    "hybrid-multipole",
)
EXTENSIVE = [
    case
    for case in NEAR_CASES + OTHER_CASES
    if "forces" in case.outputs and not case.name.startswith(HEARD_ANYWHERE)
]


class TestFarApart(FarApartSuite):
    @pytest.fixture(params=EXTENSIVE, ids=[case.name for case in EXTENSIVE])
    def case(self, request):
        return request.param


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, []),
        ({"schedule": "first-order", "far_kernel": "coulomb"}, []),
        ({"far_kernel": "standing_waves"}, ["far_kernel standing_waves"]),
        ({"far_normalisation": "attention", "far_feature_map": "elu"}, ["far_normalisation"]),
        ({"charges": "latent"}, []),
        ({"charges": "latent", "charge_conservation": "total"}, ["charges latent"]),
        ({"charges": "equilibrated", "far_kernel": "coulomb"}, ["far_kernel", "charges equil"]),
    ],
    ids=str,
)
def test_a_network_says_what_is_not_extensive(options, words):
    remarks = made(**{"schedule": "hybrid-first-order", **options}).remarks
    assert len(remarks) == len(words)
    assert all(line.startswith(word) for line, word in zip(remarks, words, strict=True))


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "screened"])
def test_a_kernel_with_a_tail_is_not_extensive(kernel, double):
    """What the default mends: a copy 60 Angstrom away changes the energy."""
    model = made(schedule="hybrid-first-order", far_kernel=kernel, far_weight=1.0)
    batch = draw((5,))
    pair = one_structure(batch, batch)
    assert abs(float(model(pair)["energy"] - 2 * model(batch)["energy"])) > 1e-7


class TestNearFieldAtTheCutoff(CutoffSuite):
    @pytest.fixture(params=NEAR_CASES, ids=[case.name for case in NEAR_CASES])
    def case(self, request):
        return request.param


class TestHybridAtTheCutoff(ModelCases):
    """A node that leaves the near field stays in the far field: nothing jumps, and nothing is
    lost.
    """

    test_cutoff_is_smooth = CutoffSuite.test_cutoff_is_smooth

    @pytest.fixture(
        params=[case("hybrid", schedule="hybrid-first-order"), *CHARGE_CASES],
        ids=lambda one: one.name,
    )
    def case(self, request):
        return request.param


def test_supercell_has_twice_the_energy(double):
    """Periodic images are atoms: two cells side by side are twice one cell, with the same forces
    and the same stress.
    """
    assert_two_cells_are_twice_one(made(stress=True), crystal())


def test_the_far_field_sees_beyond_the_cutoff(double):
    for schedule, seen in (
        ("first-order", False),
        ("hybrid-first-order", True),
        ("fmm-node", True),
    ):
        model, energies = made(schedule=schedule), []
        for distance in (6.0, 7.0):
            positions = torch.tensor([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])
            graph = connect(positions, torch.tensor([2]))
            energies.append(
                float(
                    model(
                        AtomBatch(
                            graph=graph, positions=positions, atomic_numbers=torch.tensor([6, 8])
                        )
                    )["energy"]
                )
            )
        assert (abs(energies[0] - energies[1]) > 1e-9) == seen


def test_evaluation_needs_no_gradient_mode_and_keeps_no_graph():
    model, batch = made(), draw()
    with torch.no_grad():
        quiet = model(batch)
    loud = model(batch)
    for name in ("energy", "forces"):
        assert torch.equal(quiet[name], loud[name])
        assert not quiet[name].requires_grad and not loud[name].requires_grad
    assert not batch.positions.requires_grad
    assert model.train()(batch)["forces"].requires_grad


def test_drop_path_only_while_training():
    model, batch = made(drop_path=0.5, layers=2), draw()
    assert torch.equal(model(batch)["energy"], model(batch)["energy"])
    assert torch.equal(model(batch)["energy"], made(layers=2)(batch)["energy"])
    model.train()
    torch.manual_seed(1)
    assert len({float(model(batch)["energy"].detach().sum()) for _ in range(8)}) > 2


def test_flash_is_close_to_math():
    """Products in half precision change answers by rounding of that precision, no more."""
    batch = draw()
    exact, fast = made()(batch), made(near_kernel_implementation="flash")(batch)
    difference = (exact["forces"] - fast["forces"]).abs().max() / exact["forces"].abs().max()
    assert 0 < float(difference) <= 5e-2


@pytest.mark.parametrize("number", [0, 119, -3])
def test_elements_that_do_not_exist_are_refused(number):
    batch = draw()
    batch.atomic_numbers[2] = number
    with pytest.raises(ValueError, match=f"1 .. 118, got {number}"):
        made()(batch)


def test_batches_without_what_is_needed_are_refused():
    batch = draw()
    with pytest.raises(ValueError, match="no atomic_numbers"):
        made()(dataclasses.replace(batch, atomic_numbers=None))
    with pytest.raises(ValueError, match="stress needs a cell"):
        made(stress=True)(batch)
    with pytest.raises(ValueError, match="volume > 0 Angstrom.*got 0.0"):
        made(stress=True)(dataclasses.replace(batch, cell=torch.zeros(2, 3, 3)))
    with pytest.raises(ValueError, match="image_shift was given without a cell"):
        made()(dataclasses.replace(batch, image_shift=torch.zeros(batch.num_edges, 3)))


def test_edges_that_end_before_the_cutoff_are_refused():
    batch, model = draw(), made()
    for reach in (None, CUTOFF, 2 * CUTOFF):
        assert model(dataclasses.replace(batch, cutoff=reach))["energy"].isfinite().all()
    with pytest.raises(
        ValueError,
        match=f"cutoff {CUTOFF / 2} A but the model needs {CUTOFF} A; preprocess with --cutoff",
    ):
        model(dataclasses.replace(batch, cutoff=CUTOFF / 2))


@pytest.mark.parametrize(
    "options",
    [DEFAULTS, {"near_score": "dot_alpha"}, {"schedule": "all-order"}],
    ids=["defaults", "dot", "all-order"],
)
def test_longer_edges_count_for_nothing(options, double):
    model, batch = made(**options), draw()
    wide = cutoff_graph(batch.positions, batch.graph.nodes_per_graph, 2 * CUTOFF)
    assert wide.num_edges > batch.num_edges
    expected, found = model(batch), model(dataclasses.replace(batch, graph=wide, cutoff=2 * CUTOFF))
    for name in ("energy", "forces"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)


def test_rule_of_plane_waves_reaches_the_far_field(double):
    """Plane waves by two rules are one energy within the tolerance; a rule or number of directions
    that does not exist is refused.
    """
    common = {
        "schedule": "hybrid-first-order",
        "far_expansion": "planewave",
        "far_tolerance": 1e-4,
        "far_design_radius": 5.0,
    }
    models = [made(**common, far_rule=rule) for rule in ("lebedev", "gauss_legendre")]
    energies = [model(draw())["energy"] for model in models]
    torch.testing.assert_close(energies[0], energies[1], rtol=1e-3, atol=1e-5)
    assert not torch.equal(*energies)
    for option, value in (("far_rule", "lebedef"), ("far_directions", 27)):
        with pytest.raises(ValueError, match=str(value)):
            made(**common, **{option: value})
