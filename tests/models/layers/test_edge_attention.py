"""Attention among pairs against its formula in loops, its chunks, its padding, its derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from farfield.models.layers.edge_attention import PairAttention, edge_attention
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.live_bytes import LiveBytes


def slow_attention(module: PairAttention, x: Tensor) -> Tensor:
    """The formula of the module for one structure x (n, n, width), pair by pair."""
    n, _, width = x.shape
    d = width // module.heads
    weights = module.read.weight.chunk(4)
    out = torch.zeros(n, n, width, dtype=x.dtype)
    for head in range(module.heads):
        rows = slice(head * d, (head + 1) * d)
        q, v1, k, v2 = (x @ weight[rows].T for weight in weights)  # (n, n, d)
        for i in range(n):
            for j in range(n):
                scores = [float(q[i, l] @ k[l, j]) / math.sqrt(d) for l in range(n)]
                total = sum(math.exp(score) for score in scores)
                for l in range(n):
                    share = math.exp(scores[l]) / total
                    out[i, j, rows] += share * v1[i, l] * v2[l, j]
    return out @ module.write.weight.T + module.write.bias


def four(graphs=2, heads=2, n=4, d=3) -> list[Tensor]:
    return [draw(graphs, heads, n, n, d, seed=seed).requires_grad_(True) for seed in range(4)]


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_module_is_the_formula(heads, double):
    torch.manual_seed(0)
    module = PairAttention(8, heads).requires_grad_(False)
    x = draw(3, 5, 5, 8, seed=0)
    found = module(x, None)
    for one, structure in zip(found, x, strict=True):
        torch.testing.assert_close(one, slow_attention(module, structure), rtol=1e-12, atol=1e-13)


def test_padding_has_no_part(double):
    """A structure of 3 atoms among 5 places, whatever stands at the others."""
    torch.manual_seed(0)
    module = PairAttention(8, 2).requires_grad_(False)
    real = torch.tensor([[True] * 5, [True, True, True, False, False]])
    x = draw(2, 5, 5, 8, seed=0)
    found = module(x, real)
    torch.testing.assert_close(found[1, :3, :3], slow_attention(module, x[1, :3, :3]))

    other = x.clone()
    other[1, 3:], other[1, :, 3:] = 1e6, -1e6
    assert torch.equal(module(other, real)[1, :3, :3], found[1, :3, :3])
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("real", [None, torch.tensor([[True] * 4, [True, False, True, False]])])
@pytest.mark.parametrize("most", [1, 200, 10**6])
def test_first_and_second_derivatives(most, real):
    assert_all_derivatives(lambda *given: edge_attention(*given, real, most), four())


@pytest.mark.parametrize("most", [1, 100, 200, 500])
def test_chunks_are_the_whole(most):
    def answers(most: int) -> list[Tensor]:
        inputs = four()
        out = edge_attention(*inputs, None, most)
        slopes = torch.autograd.grad((out**3).sum(), inputs, create_graph=True)
        seconds = torch.autograd.grad(sum(slope.square().sum() for slope in slopes), inputs)
        return [out, *slopes, *seconds]

    for chunked, whole in zip(answers(most), answers(10**9), strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-13)


def test_memory_grows_with_the_square_of_the_atoms():
    """Twice the atoms, second derivatives taken: 4 times the memory, where one chunk takes 8."""

    def peak(n: int, most: int) -> int:
        inputs = [draw(1, 1, n, n, 4, seed=seed).requires_grad_(True) for seed in range(4)]
        with LiveBytes() as live:
            out = edge_attention(*(2 * one for one in inputs), None, most)
            slopes = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
            sum(slope.square().sum() for slope in slopes).backward()
        return live.peak

    assert peak(32, 1) <= 4.5 * peak(16, 1)
    assert peak(32, 10**9) >= 6 * peak(16, 10**9) and peak(32, 10**9) >= 4 * peak(32, 1)
