"""Laws of E2Former's near field, for every order, score, form and implementation."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from farfield.models.graph_ops import GraphIndex
from farfield.models.kernels.harmonic_sum import KERNELS
from farfield.models.near_field.e2former_attention import (
    ORDERS,
    WEIGHTS,
    NearFieldAttention,
    NearFieldShape,
)
from farfield.models.near_field.edge_geometry import NearFieldGeometry
from farfield.models.near_field.scores import SCORES
from farfield.models.near_field.wigner_convolution import FORMS
from tests.support.near_field_clouds import Surveyor, cloud, near_graph
from tests.support.turns import orthogonal, relative_error, turned

LMAX, CHANNELS, HIDDEN = 2, 8, 16
EXACT = [(form, kernel) for form, kernel in itertools.product(FORMS, KERNELS) if kernel != "flash"]
EVERY_CHOICE = pytest.mark.parametrize(
    ("order", "score", "form", "kernel"),
    [(order, score, *how) for order in ORDERS for score in SCORES for how in EXACT],
)
EVERY_ORDER = pytest.mark.parametrize("order", ORDERS)
EVERY_WEIGHT = pytest.mark.parametrize("weights", WEIGHTS)
surveyor = Surveyor(hidden=HIDDEN)


def attention(order: str = "first-order", seed: int = 0, **choices) -> NearFieldAttention:
    """Two heads, all parameters random, float64."""
    torch.manual_seed(seed)
    layer = NearFieldAttention(
        NearFieldShape(
            heads=2,
            score_width=4,
            attention_order=order,
            lmax=LMAX,
            channels=CHANNELS,
            hidden=HIDDEN,
            **choices,
        )
    ).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def features(nodes: int, seed: int = 0) -> Tensor:
    return torch.randn(
        nodes, 9, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def molecule(nodes: int = 9, seed: int = 0) -> tuple[Tensor, Tensor, GraphIndex]:
    """Features, positions and topology."""
    positions = cloud(nodes, seed)
    return features(nodes, seed), positions, near_graph(positions, [nodes], 4.0)


@EVERY_CHOICE
@pytest.mark.parametrize(
    ("dtype", "bar"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
def test_attention_turns_and_moves_with_the_structure(order, score, form, kernel, dtype, bar):
    layer = attention(order, score=score, convolution_form=form, kernel_implementation=kernel).to(
        dtype
    )
    x, positions, graph = molecule()
    before = layer(x.to(dtype), surveyor(positions.to(dtype), graph)).double()
    for proper in (True, False):
        matrix = orthogonal(4, proper)
        moved = positions @ matrix.T + torch.tensor([3.0, -20.0, 7.0], dtype=torch.float64)
        after = layer(turned(x, matrix, LMAX).to(dtype), surveyor(moved.to(dtype), graph)).double()
        assert relative_error(after, turned(before, matrix, LMAX)) < bar


@EVERY_ORDER
def test_flash_is_the_attention_to_eight_bits(order):
    x, positions, graph = molecule()
    exact, flash = (
        attention(order, kernel_implementation=kernel)(x, surveyor(positions, graph))
        for kernel in ("math", "flash")
    )
    assert 1e-5 < relative_error(flash, exact) < 2e-2


@EVERY_ORDER
def test_forms_and_implementations_are_one_function_with_one_gradient(order):
    found = []
    for form, kernel in EXACT:
        layer = attention(order, convolution_form=form, kernel_implementation=kernel)
        x, positions, graph = molecule()
        tensors = [x.requires_grad_(), positions.requires_grad_()]
        energy = layer(x, surveyor(positions, graph)).square().sum()
        first = torch.autograd.grad(energy, tensors, create_graph=True)
        found.append(
            [
                energy,
                *first,
                *torch.autograd.grad(
                    first[1].square().sum(), [*tensors, *layer.parameters()], materialize_grads=True
                ),
            ]
        )
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert torch.allclose(
                one, other, rtol=1e-10, atol=1e-11 * float(one.detach().abs().max()) + 1e-14
            )


@EVERY_ORDER
def test_nodes_may_be_listed_in_any_order(order):
    layer, (x, positions, graph) = attention(order), molecule()
    permutation = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    place = permutation.argsort()
    shuffled = GraphIndex(place[graph.src].flip(0), place[graph.dst].flip(0), graph.nodes_per_graph)
    found = layer(x[permutation], surveyor(positions[permutation], shuffled))
    assert relative_error(found, layer(x, surveyor(positions, graph))[permutation]) < 1e-12


@EVERY_ORDER
@EVERY_WEIGHT
def test_a_structure_does_not_notice_its_batch(order, weights):
    layer, sizes = attention(order, weights=weights), [5, 1, 0, 8]
    parts = [molecule(size, seed=size) for size in sizes if size]
    x, positions = (torch.cat([part[which] for part in parts]) for which in (0, 1))
    together = layer(x, surveyor(positions, near_graph(positions, sizes, 4.0)))
    alone = torch.cat([layer(x, surveyor(positions, graph)) for x, positions, graph in parts])
    assert relative_error(together, alone) < 1e-12


def leaving(distance: float, lone: bool, joined: bool) -> tuple[Tensor, Tensor, GraphIndex]:
    """A molecule (or one atom if ``lone``) and an atom at ``distance`` from its first atom.

    With edges between these two, or without.
    """
    core = torch.zeros(1, 3, dtype=torch.float64) if lone else cloud(4) * 0.8
    core = core - core[0]
    outside = core.sum(0) if not lone else torch.ones(3, dtype=torch.float64)
    positions = torch.cat([core, (-distance * outside / outside.norm()).unsqueeze(0)])
    last = len(core)
    pairs = [(i, j) for i in range(last) for j in range(last) if i != j] + (
        [(0, last), (last, 0)] if joined else []
    )
    dst, src = (
        torch.tensor([pair[side] for pair in sorted(pairs)], dtype=torch.long) for side in (0, 1)
    )
    return (
        features(last + 1),
        positions.requires_grad_(),
        GraphIndex(src, dst, torch.tensor([last + 1])),
    )


@EVERY_ORDER
@EVERY_WEIGHT
@pytest.mark.parametrize("lone", [True, False], ids=["only neighbour", "one of many"])
def test_a_neighbour_leaves_smoothly(order, weights, lone):
    """At the cutoff the value and its gradient are the same with and without the edge.

    Inside the cutoff they differ.
    """
    layer = attention(order, weights=weights)

    def gap(distance: float) -> tuple[float, float]:
        answers = []
        for joined in (True, False):
            x, positions, graph = leaving(distance, lone, joined)
            energy = layer(x, surveyor(positions, graph)).square().sum()
            slope = (
                torch.autograd.grad(energy, positions)[0]
                if graph.num_edges
                else torch.zeros_like(positions)
            )
            answers.append((energy, slope))
        (with_edge, with_slope), (without_edge, without_slope) = answers
        return float((with_edge - without_edge).detach().abs()), float(
            (with_slope - without_slope).abs().max()
        )

    inside, near, nearer = gap(2.5), gap(3.99), gap(3.999)
    assert min(inside) > 1e-5
    # third power at least
    assert near[0] < inside[0] / 100 and nearer[0] < max(near[0] / 400, 1e-12)
    # second power at least
    assert near[1] < inside[1] / 10 and nearer[1] < max(near[1] / 60, 1e-12)


@pytest.mark.parametrize("order", ["first-order", "all-order"])
@pytest.mark.parametrize("form", FORMS)
def test_derivatives_hold_to_second_order(order, form):
    layer = attention(order, convolution_form=form)
    x, positions, graph = molecule(3)
    scale = torch.randn(LMAX + 1, dtype=torch.float64)[[0, 1, 1, 1, 2, 2, 2, 2, 2]].view(9, 1)

    def energy(x: Tensor, positions: Tensor) -> Tensor:
        return (
            layer(x * torch.linspace(0.5, 1, CHANNELS), surveyor(positions, graph)) * scale
        ).sum()

    inputs = [
        x[:, [0, 2, 7], :1].repeat_interleave(3, 1).requires_grad_(),
        positions.requires_grad_(),
    ]
    assert torch.autograd.gradgradcheck(energy, inputs, fast_mode=True)


@EVERY_ORDER
@EVERY_WEIGHT
@pytest.mark.parametrize("score", SCORES)
def test_force_trained_parameters_have_the_gradient_of_differences(order, weights, score):
    """The gradient of a loss on forces by all parameters agrees with differences.

    d/dtheta of |dE/dx|^2 along a random direction: what a detached first gradient would falsify.
    """
    layer = attention(order, score=score, weights=weights)
    x, positions, graph = molecule(6)
    positions.requires_grad_()
    parameters = list(layer.parameters())

    def force_loss() -> Tensor:
        energy = (layer(x, surveyor(positions, graph)) ** 2).sum()
        return torch.autograd.grad(energy, positions, create_graph=True)[0].square().sum()

    generator = torch.Generator().manual_seed(2)
    direction = [
        torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        for parameter in parameters
    ]
    gradient = torch.autograd.grad(force_loss(), parameters, materialize_grads=True)
    along = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
    losses, step = [], 1e-5
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.add_(sign * step * d)
        losses.append(float(force_loss().detach()))
    assert along == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5)


@EVERY_ORDER
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_derivatives_are_finite_at_coincident_atoms_and_zero_features(order, form, dtype):
    layer = attention(order, convolution_form=form).to(dtype)
    x, positions, graph = molecule(5)
    positions[1] = positions[0]
    x[2] = 0
    tensors = [x.to(dtype).requires_grad_(), positions.to(dtype).requires_grad_()]
    out = layer(tensors[0], surveyor(tensors[1], graph))
    first = torch.autograd.grad(out.square().sum(), tensors, create_graph=True)
    second = torch.autograd.grad(
        first[1].square().sum(), [*tensors, *layer.parameters()], materialize_grads=True
    )
    assert all(part.isfinite().all() for part in (out, *first, *second))


@EVERY_ORDER
@EVERY_WEIGHT
@pytest.mark.parametrize("form", FORMS)
def test_atoms_without_neighbours_hear_a_constant(order, weights, form):
    """An isolated atom gets no message: only the bias of the output, in scalars only.

    Nothing is NaN without any edge.
    """
    layer = attention(order, weights=weights, convolution_form=form)
    for nodes in (0, 3):
        graph = GraphIndex(
            torch.zeros(0, dtype=torch.long),
            torch.zeros(0, dtype=torch.long),
            torch.tensor([nodes]),
        )
        positions = (
            100 * torch.arange(3.0 * nodes, dtype=torch.float64).view(nodes, 3)
        ).requires_grad_()
        x = features(nodes)
        out = layer(x, surveyor(positions, graph))
        assert out.shape == x.shape and out[:, 1:].abs().sum() == 0
        (out.sum() + positions.sum()).backward()
        assert positions.grad.isfinite().all()
        if order != "all-order" and nodes:
            assert torch.allclose(out[0], out[1])


def test_softplus_weights_do_not_depend_on_other_neighbours():
    """Messages of "softplus" weights add up, messages of "softmax" do not.

    Three atoms in a row, where the outer two do not see each other, against the two pairs alone.
    """
    positions = torch.tensor([[0.0, 0, 0], [3, 0, 0], [-3, 0, 0]], dtype=torch.float64)
    x = features(3)

    def heard(layer: NearFieldAttention, members: list[int]) -> Tensor:
        chosen = positions[members]
        out = layer(x[members], surveyor(chosen, near_graph(chosen, [len(members)], 4.0)))[0]
        alone = layer(x[:1], surveyor(positions[:1], near_graph(positions[:1], [1], 4.0)))[0]
        return out - alone

    for weights, additive in (("softplus", True), ("softmax", False)):
        layer = attention("first-order", weights=weights)
        together, apart = heard(layer, [0, 1, 2]), heard(layer, [0, 1]) + heard(layer, [0, 2])
        assert (relative_error(together, apart) < 1e-12) == additive


def test_all_orders_are_gated_between_the_three():
    """With gates shut the sum is the second order, with both open zero order plus first order."""
    layer = attention("all-order", weights="softmax")
    x, positions, graph = molecule()
    geometry = surveyor(positions, graph)
    branch = layer.branch
    weights = WEIGHTS["softmax"](layer.score(x, geometry), geometry, 1.0)
    zero, first, second = (
        part(x, weights, geometry) for part in (branch.zero, branch.first, branch.second)
    )
    with torch.no_grad():
        branch.gate.weight.zero_()
        for bias, expected in (
            (-100.0, second),
            (100.0, zero + first),
            (0.0, (zero + first + second) / 2),
        ):
            branch.gate.bias.fill_(bias)
            assert relative_error(layer(x, geometry), expected) < 1e-12


def test_geometry_is_made_once_for_all_layers():
    _, positions, graph = molecule()
    geometry = surveyor(positions, graph)
    assert isinstance(geometry, NearFieldGeometry)
    assert geometry.harmonics(2).data_ptr() == geometry.harmonics(1).data_ptr()
    assert geometry.edge_slots is geometry.edge_slots


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"lmax": 0}, "lmax of the near field must be >= 1, got 0"),
        ({"heads": 0}, "heads of the near field must be >= 1, got 0"),
        ({"score_width": 0}, "score_width of the near field must be >= 1, got 0"),
        (
            {"attention_order": "third-order"},
            "must be one of zero-order, first-order, second-order, all-order, got 'third-order'",
        ),
        (
            {"score": "dot"},
            "score of the near field must be one of QK_alpha, dot_alpha, dot_alpha_small, "
            "got 'dot'",
        ),
        (
            {"weights": "mean"},
            "weights of the near field must be one of softmax, softplus, got 'mean'",
        ),
        (
            {"kernel_implementation": "fast"},
            "must be one of math, memory_efficient, flash, got 'fast'",
        ),
        ({"convolution_form": "node", "kernel_implementation": "flash"}, "form 'node' subtracts"),
        (
            {"typical_neighbours": 0.0},
            "typical_neighbours of the near field must be > 0 and finite, got 0.0",
        ),
        (
            {"attention_order": "all-order", "channels": 8},
            "divides 8 channels by 4 and over 4 heads; choose channels that are a multiple of 16",
        ),
    ],
)
def test_bad_choices_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        NearFieldShape(**{"lmax": 2, "channels": 16, **choices})
