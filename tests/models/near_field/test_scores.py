"""Laws of the attention logits.

Their formulas written out, invariance, chunks of edges, derivatives at coincident atoms.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from farfield.models.near_field.edge_geometry import NearFieldGeometry
from farfield.models.near_field.scores import SCORES, DotScore, QueryKeyScore, ScalarMap, leaky_silu
from farfield.models.so3.harmonics import solid_harmonics
from farfield.models.so3.irreps import degree_slice
from tests.support.near_field_clouds import Surveyor, cloud, near_graph
from tests.support.turns import orthogonal, relative_error, turned

LMAX, CHANNELS, HEADS, HIDDEN, WIDTH = 2, 16, 4, 16, 6
EVERY_SCORE = pytest.mark.parametrize("name", SCORES)


def make(name: str, **choices):
    torch.manual_seed(1)
    return SCORES[name](LMAX, CHANNELS, HEADS, HIDDEN, WIDTH, **choices).double()


def scene(nodes: int = 10) -> tuple[Tensor, NearFieldGeometry]:
    positions = cloud(nodes).requires_grad_()
    x = torch.randn(
        nodes, 9, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    return x, Surveyor(hidden=HIDDEN)(positions, near_graph(positions, [nodes], 4.0))


@EVERY_SCORE
@pytest.mark.parametrize("proper", [True, False], ids=["rotation", "reflection"])
def test_logits_do_not_turn(name, proper):
    score, matrix = make(name), orthogonal(2, proper)
    x, geometry = scene()
    after = score(
        turned(x, matrix, LMAX),
        Surveyor(hidden=HIDDEN)(geometry.positions @ matrix.T, geometry.graph),
    )
    before = score(x, geometry)
    assert before.shape == (geometry.graph.num_edges, HEADS)
    assert relative_error(after, before) < 1e-12
    assert before.std() > 1e-2


def test_scalar_map_is_its_formula():
    torch.manual_seed(0)
    layer, x = ScalarMap(LMAX, CHANNELS, 8, 2).double(), scene()[0]
    with torch.no_grad():
        for parameter in (layer.bias, layer.norm_weight, layer.norm_bias):
            parameter.add_(0.1 * torch.randn_like(parameter))
    for which in range(2):
        invariants = []
        for l in range(LMAX + 1):
            # channels, (A, B), width
            weight = layer.product[l].view(CHANNELS, 2, 2, 4)[:, :, which]
            left, right = (x[:, degree_slice(l)] @ weight[:, side] for side in range(2))
            if l == 0:
                left = left + layer.bias[4 * which : 4 * which + 4]
            invariants.append((left * right).sum(1) / math.sqrt(2 * l + 1))
        hidden = torch.cat(invariants, -1) @ layer.first[which]
        spread = hidden.var(-1, unbiased=False, keepdim=True)
        hidden = (hidden - hidden.mean(-1, keepdim=True)) / (spread + 1e-4).sqrt()
        hidden = torch.nn.functional.silu(
            hidden * layer.norm_weight[which] + layer.norm_bias[which]
        )
        assert relative_error(layer(x)[:, which], hidden @ layer.second[which]) < 1e-12


def test_query_key_score_is_its_formula():
    score, (x, geometry) = make("QK_alpha"), scene()
    assert isinstance(score, QueryKeyScore)
    query, key = score.invariants(x).view(len(x), 2, HEADS, WIDTH).unbind(1)
    for edge in (0, 7, geometry.graph.num_edges - 1):
        i, j = geometry.graph.dst[edge], geometry.graph.src[edge]
        expected = (
            score.gate(geometry.invariants[edge]) * (query[i] * key[j]).sum(-1) / math.sqrt(WIDTH)
        )
        assert (
            relative_error(
                score(x, geometry)[edge], 0.8 * expected * torch.sigmoid(expected) + 0.2 * expected
            )
            < 1e-12
        )


@pytest.mark.parametrize("name", ["dot_alpha", "dot_alpha_small"])
def test_dot_score_is_its_formula(name):
    score, (x, geometry) = make(name), scene()
    assert isinstance(score, DotScore)
    for edge in (0, 5):
        direction = (
            geometry.vectors[edge]
            / (geometry.vectors[edge].square().sum() + geometry.softening**2).sqrt()
        )
        along = solid_harmonics(direction, LMAX)
        seen = [
            math.sqrt(2 * l + 1)
            * along[degree_slice(l)]
            @ (x[end, degree_slice(l)] @ score.show.weight[l])
            for end in (geometry.graph.dst[edge], geometry.graph.src[edge])
            for l in range(LMAX + 1)
        ]
        mixed = score.first(torch.cat(seen) * score.gate(geometry.invariants[edge])).view(
            HEADS, WIDTH
        )
        expected = (leaky_silu(score.norm(mixed)) * score.vector).sum(-1)
        assert relative_error(score(x, geometry)[edge], expected) < 1e-12


def test_small_dot_score_is_small():
    """It has a fraction of the parameters of the large score.

    The published one has as many, by an error in the order of two tests.
    """
    sizes = {
        name: sum(parameter.numel() for parameter in make(name).parameters())
        for name in ("dot_alpha", "dot_alpha_small")
    }
    assert make("dot_alpha_small").channels == CHANNELS // 8
    assert sizes["dot_alpha_small"] < sizes["dot_alpha"] / 5


@pytest.mark.parametrize("name", ["dot_alpha", "dot_alpha_small"])
def test_chunks_of_edges_change_nothing(name, monkeypatch):
    found = []
    for chunked in (False, True):
        monkeypatch.setattr(DotScore, "edges_per_chunk", 7)
        score, (x, geometry) = make(name, chunked=chunked), scene()
        logits = score(x, geometry)
        tensors = [x, geometry.positions, *score.parameters()]
        first = torch.autograd.grad(
            (logits * torch.linspace(0, 1, HEADS)).square().sum(), tensors, create_graph=True
        )
        second = torch.autograd.grad(sum(part.square().sum() for part in first), tensors)
        found.append([logits, *first, *second])
    for whole, chunked in zip(*found, strict=True):
        assert relative_error(chunked, whole) < 1e-12


@EVERY_SCORE
def test_derivatives_are_finite_at_coincident_atoms(name):
    score = make(name)
    positions = cloud(5)
    graph = near_graph(positions, [5], 4.0)
    positions[1] = positions[0]
    positions.requires_grad_()
    x = torch.zeros(5, 9, CHANNELS, dtype=torch.float64).requires_grad_()
    logits = score(x, Surveyor(hidden=HIDDEN)(positions, graph))
    first = torch.autograd.grad(
        logits.square().sum() + logits.sum(), [x, positions], create_graph=True
    )
    second = torch.autograd.grad(
        sum(part.square().sum() + part.sum() for part in first), [x, positions, *score.parameters()]
    )
    assert all(part.isfinite().all() for part in (logits, *first, *second))
