"""E2Former and its hybrid under the laws of the suite, every option once; forces and stress against
their definitions.
"""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.factory import build_model, default_config
from farfield.models.far_field.attention import FEATURE_MAPS, NORMALISATIONS
from farfield.models.far_field.spectrum import KAPPA_GRIDS, MODES
from farfield.models.graph_ops import GraphIndex
from farfield.models.kernels.harmonic_sum import KERNELS
from farfield.models.layers.feed_forward import FEED_FORWARDS
from farfield.models.layers.norms import NORMS
from farfield.models.layers.radial import RADIAL_BASES
from farfield.models.near_field.e2former_attention import WEIGHTS
from farfield.models.near_field.scores import SCORES
from farfield.models.near_field.wigner_convolution import FORMS
from farfield.models.networks.blocks import ATTENTIONS
from farfield.models.networks.e2former_options import PRESETS, parse_irreps
from tests.laws import DGL_KERNELS, Case, CutoffSuite, ModelCases, ModelSuite, cutoff_graph

CUTOFF = 4.0
SMALL = {
    "name": "e2former",
    "irreps": "8x0e+8x1o+8x2e",
    "schedule": "first-order",
    "layers": 1,
    "cutoff": CUTOFF,
    "radial_size": 4,
    "near_kernel_implementation": "math",
    "radial_hidden": 8,
    "element_size": 3,
    "near_heads": 2,
    "near_score_width": 4,
    "avg_degree": 4.0,
    "avg_atoms": 5.0,
    "near_weights": "softmax",
    "norm": "rms_norm_sh",
    "feed_forward": "gate",
    "far_heads": 2,
    "far_key_features": 2,
    "far_value_channels": 2,
    "far_kernel_lmax": 1,
    "far_expansion": "pairwise",
    "far_design_radius": 12.0,
    "far_num_kappa": 2,
}
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
    name for name in KERNELS if name != "flash"
]  # which computes in half precision and has a test of its own
connect = functools.partial(cutoff_graph, cutoff=CUTOFF)


def random_batch(sizes, generator) -> AtomBatch:
    counts = torch.tensor(sizes)
    nodes = int(counts.sum())
    positions = 1.5 * torch.randn(nodes, 3, generator=generator)
    numbers = torch.tensor([1, 6, 8])[torch.randint(0, 3, (nodes,), generator=generator)]
    return AtomBatch(graph=connect(positions, counts), positions=positions, atomic_numbers=numbers)


def case(name: str, **options) -> Case:
    config = {**SMALL, **options}
    outputs = {"energy": "graph_scalar"} | (
        {} if config.get("forces") == "none" else {"forces": "node_vector"}
    )
    return Case(
        name=name,
        build=lambda: build_model(config),
        batch=random_batch,
        connect=connect,
        outputs=outputs,
        lmax=2,
        cutoff=CUTOFF,
    )


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
    *once("far_normalisation", NORMALISATIONS, schedule="hybrid-first-order"),
    *once("far_kappa_grid", KAPPA_GRIDS, schedule="hybrid-first-order"),
    *once("far_radial_mode", MODES, schedule="hybrid-first-order"),
    case(
        "far-values-of-degree-0",
        schedule="hybrid-first-order",
        far_value_lmax=0,
        far_learnable_radial=False,
    ),
    case("defaults", **DEFAULTS),
]


@pytest.mark.filterwarnings("ignore:an atom is")
class TestE2Former(ModelSuite):
    @pytest.fixture(
        params=NEAR_CASES + OTHER_CASES, ids=[case.name for case in NEAR_CASES + OTHER_CASES]
    )
    def case(self, request):
        return request.param


class TestNearFieldAtTheCutoff(CutoffSuite):
    @pytest.fixture(params=NEAR_CASES, ids=[case.name for case in NEAR_CASES])
    def case(self, request):
        return request.param


class TestHybridAtTheCutoff(ModelCases):
    """A node that leaves the near field stays in the far field: nothing jumps, and nothing is
    lost.
    """

    test_cutoff_is_smooth = CutoffSuite.test_cutoff_is_smooth

    @pytest.fixture
    def case(self):
        return case("hybrid", schedule="hybrid-first-order")


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def made(seed: int = 0, **options) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_model({**SMALL, **options}).eval()


def draw(sizes=(5, 3), seed: int = 0) -> AtomBatch:
    return random_batch(list(sizes), torch.Generator().manual_seed(seed))


def periodic_batch(positions: Tensor, cell: Tensor, numbers: Tensor) -> AtomBatch:
    """One crystal with all image edges shorter than the cutoff, by brute force."""
    steps = torch.cartesian_prod(*[torch.arange(-2, 3)] * 3)
    shift = (steps.to(cell.dtype) @ cell[0]).view(-1, 1, 1, 3)
    vectors = (
        positions.view(1, 1, -1, 3) + shift - positions.view(1, -1, 1, 3)
    )  # (steps, src, dst, 3)
    length = vectors.norm(dim=-1)
    step, src, dst = ((length < CUTOFF) & (length > 0)).nonzero(as_tuple=True)
    order = torch.argsort(dst, stable=True)
    graph = GraphIndex(src[order], dst[order], torch.tensor([len(positions)]))
    return AtomBatch(
        graph=graph,
        positions=positions,
        atomic_numbers=numbers,
        cell=cell,
        image_shift=steps[step[order]],
    )


def crystal() -> AtomBatch:
    generator = torch.Generator().manual_seed(3)
    cell = 5 * torch.eye(3) + 0.5 * torch.randn(3, 3, generator=generator)
    positions = torch.rand(4, 3, generator=generator) @ cell
    return periodic_batch(positions, cell.unsqueeze(0), torch.tensor([1, 6, 8, 6]))


FORCED = pytest.mark.parametrize(
    "schedule", ["first-order", "hybrid-second-order", "all-order+fmm-node"]
)


@FORCED
def test_forces_are_the_slope_of_the_energy(schedule, double):
    model, batch = made(schedule=schedule), draw()
    forces, step = model(batch)["forces"], 1e-4
    for node in range(batch.num_nodes):
        for axis in range(3):
            move = torch.zeros_like(batch.positions)
            move[node, axis] = step
            up, down = (
                model(dataclasses.replace(batch, positions=batch.positions + sign * move))[
                    "energy"
                ].sum()
                for sign in (1, -1)
            )
            assert abs(float(forces[node, axis] + (up - down) / (2 * step))) <= 1e-6


@FORCED
@DGL_KERNELS
def test_parameter_gradient_of_a_force_loss(schedule, double):
    """All parameters at once along a random direction, in training mode: the derivative of a loss
    on forces is that of the numbers.
    """
    model, batch = made(schedule=schedule).train(), draw()
    target = torch.randn(batch.positions.shape, generator=torch.Generator().manual_seed(1))

    def loss() -> Tensor:
        out = model(batch)
        return (out["forces"] - target).square().sum() + 0.1 * out["energy"].square().sum()

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(2)
    for part in (slice(0, len(parameters) // 2), slice(len(parameters) // 2, None)):
        chosen, slope = parameters[part], 0.0
        directions = [torch.randn(parameter.shape, generator=generator) for parameter in chosen]
        for gradient, direction in zip(gradients[part], directions, strict=True):
            slope += 0.0 if gradient is None else float((gradient * direction).sum())
        values, step = [], 1e-5
        for sign in (1, -2):
            with torch.no_grad():
                for parameter, direction in zip(chosen, directions, strict=True):
                    parameter += sign * step * direction
            values.append(float(loss().detach()))
        with torch.no_grad():
            for parameter, direction in zip(chosen, directions, strict=True):
                parameter += step * direction
        found = (values[0] - values[1]) / (2 * step)
        assert abs(slope) > 1e-3 and abs(found - slope) <= 1e-6 * max(1.0, abs(slope))


def test_every_parameter_learns(double):
    """Every parameter but the last norm's and head's rows of unused degrees gets a gradient from
    energy and forces.
    """
    model, batch = made(schedule="hybrid-all-order+first-order", layers=1).train(), draw()
    out = model(batch)
    (out["forces"].square().sum() + out["energy"].square().sum()).backward()
    silent = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not bool(parameter.grad.any())
    ]
    assert not silent


LATTICE = {"schedule": "hybrid-first-order", "far_expansion": "auto", "far_kappa_max": 3.0}


@pytest.mark.parametrize("options", [{}, LATTICE], ids=["near", "lattice"])
def test_stress_is_the_slope_under_strain(options, double):
    model, batch = made(stress=True, **options), crystal()
    out, step = model(batch), 1e-4
    volume = float(torch.linalg.det(batch.cell[0]).abs())
    assert out["stress"].shape == (1, 3, 3)
    torch.testing.assert_close(out["stress"], out["stress"].transpose(1, 2), rtol=0, atol=1e-14)
    torch.testing.assert_close(out["forces"], made(**options)(batch)["forces"])
    for row in range(3):
        for column in range(row, 3):
            strain = torch.zeros(3, 3)
            strain[row, column] += step / 2
            strain[column, row] += step / 2
            energies = []
            for sign in (1, -1):
                turn = torch.eye(3) + sign * strain
                moved = dataclasses.replace(
                    batch, positions=batch.positions @ turn, cell=batch.cell @ turn
                )
                energies.append(float(model(moved)["energy"]))
            assert (
                abs(
                    (energies[0] - energies[1]) / (2 * step) / volume
                    - float(out["stress"][0, row, column])
                )
                <= 1e-7
            )


def test_stress_turns_with_the_crystal(double):
    model, batch = made(stress=True), crystal()
    matrix, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    turned = dataclasses.replace(
        batch, positions=batch.positions @ matrix.T, cell=batch.cell @ matrix.T
    )
    before, after = model(batch), model(turned)
    torch.testing.assert_close(after["energy"], before["energy"], rtol=1e-12, atol=0)
    torch.testing.assert_close(
        after["stress"], matrix @ before["stress"] @ matrix.T, rtol=0, atol=1e-12
    )


def test_supercell_has_twice_the_energy(double):
    """Periodic images are atoms: two cells side by side are twice one cell, with the same forces
    and the same stress.
    """
    model, batch = made(stress=True), crystal()
    cell = batch.cell.clone()
    cell[0, 0] *= 2
    positions = torch.cat([batch.positions, batch.positions + batch.cell[0, 0]])
    twice = model(periodic_batch(positions, cell, batch.atomic_numbers.repeat(2)))
    once_ = model(batch)
    torch.testing.assert_close(twice["energy"], 2 * once_["energy"], rtol=1e-12, atol=0)
    torch.testing.assert_close(twice["forces"], once_["forces"].repeat(2, 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(twice["stress"], once_["stress"], rtol=0, atol=1e-13)


def test_far_apart_molecules_add_up(double):
    """Near field only: energies of separated molecules in one graph are the sum, forces are their
    own.
    """
    model, batch = made(layers=2), draw((5, 4))
    apart = batch.positions + torch.tensor([[0.0] * 3] * 5 + [[50.0, 0.0, 0.0]] * 4)
    graph = connect(apart, torch.tensor([9]))
    together, alone = model(dataclasses.replace(batch, graph=graph, positions=apart)), model(batch)
    torch.testing.assert_close(together["energy"][0], alone["energy"].sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(together["forces"], alone["forces"], rtol=0, atol=1e-12)


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


def test_irreps_in_both_spellings():
    assert parse_irreps("128x0e+128x1o+128x2e") == parse_irreps("128x0e+128x1e+128x2e") == (128, 2)
    assert parse_irreps("4x0e") == (4, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8x0e+8x2e",
        "8x0e+4x1o",
        "8x1o",
        "8x0o+8x1e",
        "8x0e+8x1o+8x2o",
        "8x0e+8x0e",
        "0x0e+0x1o",
        "eight",
        "8x1o+8x0e",
    ],
)
def test_other_irreps_are_refused(text):
    with pytest.raises(ValueError, match="write e.g. 32x0e") as error:
        parse_irreps(text)
    assert repr(text) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_learn(name):
    model, batch = build_model({"name": "e2former", **PRESETS[name]}).train(), draw()
    out = model(batch)
    (out["energy"].square().sum() + out["forces"].square().sum()).backward()
    assert all(
        parameter.grad is None or bool(parameter.grad.isfinite().all())
        for parameter in model.parameters()
    )
    forces = out["forces"].detach()
    assert bool(forces.any()) and float(forces.sum(0).abs().max()) <= 1e-4 * float(
        forces.abs().max()
    )


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
