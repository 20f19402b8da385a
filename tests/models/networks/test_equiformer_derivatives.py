"""Derivatives of the Equiformer's face by coordinates, and what happens at a distance.

Against central differences, twice differentiable, finite at degenerate geometry, smooth where a
neighbour crosses the radius.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import GraphIndex
from farfield.models.networks.equiformer import Equiformer
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.equiformer_cases import (
    CASES,
    HANDED,
    Given,
    Motion,
    batched,
    cast,
    holed_mask,
    make_face,
    padded,
    structures,
)
from tests.support.turns import orthogonal, relative_error

# a leaky ReLU has no second derivative, the hard choice of neighbours none where it jumps
SMOOTH = [name for name in [*CASES, *HANDED] if name not in ("leaky", "radius-jump", "nearest")]


def options_of(name: str) -> dict:
    return (CASES | HANDED)[name]


def energy(model: Equiformer, given: Given, coors: list[Tensor]) -> Tensor:
    """A scalar that every component of every type enters."""
    out = model(**(given | {"coors": coors}))
    parts = [torch.cat(list(part)) for part in out if part is not None]
    return sum((part * draw(*part.shape, seed=l)).sum() for l, part in enumerate(parts))


@pytest.mark.parametrize("name", [*CASES, *HANDED])
def test_gradients_are_central_differences(name):
    """Of all coordinates at once, along two random directions."""
    model = make_face(**options_of(name))
    given = structures(model, [4, 1, 3], seed=3)
    coors = [part.requires_grad_() for part in given["coors"]]
    gradients = torch.autograd.grad(energy(model, given, coors), coors, allow_unused=True)

    step, checked = 1e-5, 0
    for seed in (0, 1):
        directions = [draw(*part.shape, seed=seed + n) for n, part in enumerate(coors)]
        with torch.no_grad():
            above, below = (
                energy(
                    model, given, [x + s * step * d for x, d in zip(coors, directions, strict=True)]
                )
                for s in (1, -1)
            )
        slope = sum(
            float((gradient * direction).sum())
            for gradient, direction in zip(gradients, directions, strict=True)
            if gradient is not None
        )
        difference = float(above - below) / (2 * step)
        assert abs(slope - difference) <= 1e-6 * max(1.0, abs(difference))
        checked += abs(slope) > 1e-3
    assert checked


@pytest.mark.parametrize("name", SMOOTH)
def test_all_second_derivatives(name):
    """Forces are trained on: the gradient has a gradient, reversible layers included."""
    sizes = {"dim": (3, 2, 2), "dim_head": 2, "heads": 1, "radial_hidden_dim": 3}
    sizes |= {key: value for key, value in options_of(name).items() if key != "depth"}
    model = make_face(**sizes)
    given = structures(model, [3], seed=3)
    assert_all_derivatives(
        lambda coors: energy(model, given, [coors]), [given["coors"][0].requires_grad_()]
    )


@pytest.mark.parametrize("options", [{}, {"l2_dist_attention": False}, {"edge_kernel": "pairwise"}])
def test_gradients_reach_features_and_weights(options):
    """All of them, through the padded form, but for the gradient of padding."""
    model = make_face(num_tokens=None, dim_in=(5, 3), input_degrees=2, **options)
    mask = holed_mask([4, 3], 6)
    dense = padded(structures(model, [4, 3]), mask, garbage=0.5)
    inputs = [*dense["feats"].values(), dense["coors"]]
    for value in inputs:
        value.requires_grad_()
    out = model(**dense)
    loss = sum(part.square().sum() for part in out)
    gradients = torch.autograd.grad(loss, [*inputs, *model.parameters()])
    for gradient in gradients[:3]:
        assert gradient[mask].abs().max() > 1e-4 and not gradient[~mask].any()
    assert all(gradient.any() for gradient in gradients[3:])


# degenerate geometry


def crooked_positions() -> Tensor:
    """Edges along the poles (+-y), two points at one place, points on a line and in a plane."""
    rows = [[0, 0, 0], [0, 2, 0], [0, -1, 0], [0, 2, 0], [1, 0, 0], [0, 0, 1.5], [1e-9, 1, 0]]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("dtype, bar", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", ["distance", "mlp", "pairwise", "reversible", "handed", "radius"])
def test_poles_and_coincident_points(name, dtype, bar):
    """Finite to the second derivative; answers and forces turn along.

    Points that are 1e-9 from a line, and forces there, lose digits.
    """
    model = make_face(dtype, **options_of(name))
    given = structures(model, [7])
    motion = Motion(orthogonal(5), torch.zeros(3, dtype=torch.float64))

    def answers(coors: Tensor) -> list[Tensor]:
        here = cast(given | {"coors": [coors]}, dtype)
        x = here["coors"][0].requires_grad_()
        out = [part[0] for part in model(**(here | {"coors": [x]}))]
        # not the sum of squares, which the last norm keeps
        energy = out[0] @ torch.linspace(-1, 1, out[0].shape[-1], dtype=dtype)
        (force,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(force.square().sum(), x)
        assert torch.isfinite(force).all() and torch.isfinite(second).all()
        return [part.detach().double() for part in (*out, force)]

    before, after = answers(crooked_positions()), answers(crooked_positions() @ motion.matrix.T)
    for l, part, other in zip((0, 1, 2, 1), before, after, strict=True):
        assert relative_error(other, motion.turned(l, part)) <= bar


@torch.no_grad()
def test_alone_is_heard_by_nobody():
    """A point beyond the radius of all others gives what it gives alone."""
    model = make_face(valid_radius=2.0)
    coors = torch.tensor([[0.0, 0, 0], [1, 0, 0], [50, 0, 0]], dtype=torch.float64)
    tokens = torch.tensor([1, 2, 3])
    together = model([tokens], [coors])
    for rows in (slice(0, 2), slice(2, 3)):
        apart = model([tokens[rows]], [coors[rows]])
        for part, other in zip(together, apart, strict=True):
            torch.testing.assert_close(part[0][rows], other[0], rtol=0, atol=1e-13)


@torch.no_grad()
def test_a_batch_without_edges_is_points_alone():
    """They hear themselves."""
    model = make_face()
    given = structures(model, [3, 2])
    batch = batched(model, given)
    none = batch.graph.src[:0]
    graph = GraphIndex(none, none, batch.graph.nodes_per_graph)
    found = model(AtomBatch(graph, batch.positions, batch.atomic_numbers))
    expected = model(
        [token.view(1) for part in given["feats"] for token in part],
        [row.view(1, 3) for part in given["coors"] for row in part],
    )
    for part, other in zip(found, expected, strict=True):
        torch.testing.assert_close(part, torch.cat(other), rtol=0, atol=1e-13)


# at the radius


@torch.no_grad()
def jump_at_radius(model: Equiformer) -> float:
    """Change of all types where a pair crosses the radius, over the change inside of it."""

    def answer(distance: float) -> Tensor:
        coors = torch.tensor([[0, 0, 0], [0, 1, 0], [distance, 0, 0]], dtype=torch.float64)
        out = model([torch.tensor([0, 1, 2])], [coors])
        return torch.cat([part[0].flatten() for part in out])

    radius = model.options.valid_radius
    inside, outside = answer(radius - 1e-6), answer(radius + 1e-6)
    return relative_error(inside, outside)


@pytest.mark.parametrize(
    "name", ["distance", "mlp", "pairwise", "without-self", "without-self-mlp"]
)
def test_neighbours_fade_out_at_the_radius(name):
    """Without an envelope they vanish at once, and the remarks say so."""
    options = options_of(name) | {"valid_radius": 2.0}
    assert jump_at_radius(make_face(**options)) <= 1e-9
    assert jump_at_radius(make_face(**options, envelope="cosine")) <= 1e-9

    sudden = make_face(**options, envelope="none")
    assert jump_at_radius(sudden) > 1e-3
    assert any("crosses the radius" in remark for remark in sudden.remarks)


@torch.no_grad()
def test_the_choice_of_the_nearest_jumps():
    """Two points change their rank at one distance: what ``remarks`` warns of is true."""
    model = make_face(num_neighbors=1, attend_self=False)

    def answer(shift: float) -> Tensor:
        coors = torch.tensor([[0, 0, 0], [1 + shift, 0, 0], [0, 1, 0]], dtype=torch.float64)
        return model([torch.tensor([0, 1, 2])], [coors]).type0[0][0]

    assert relative_error(answer(1e-9), answer(-1e-9)) > 1e-2
    assert any("k-th neighbour" in remark for remark in model.remarks)
