"""Laws of the moments and of their read-back.

The dense definition, adjointness, independence of the chunks, accuracy of long sums, all
derivatives.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import torch

from farfield.models.kernels.moments import MomentReadout
from farfield.models.kernels.node_chunks import graph_runs
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.far_field_clouds import CORNERS, batch, features

SIZES = [*CORNERS, 0, 3]
WAVES, ROWS = 70, 4  # more than one block of moments


def arguments(sizes: list[int]):
    graph = batch(sizes)
    queries, keys, values = features(graph)
    waves = draw(graph.num_nodes, WAVES, seed=1)
    targets = draw(graph.num_nodes, ROWS, WAVES, seed=2)
    return graph, waves, keys, values, targets, draw(2, ROWS, WAVES, seed=3), queries


@pytest.mark.parametrize("budget", [1, 5000, 2**20])
def test_moments_and_read_back_are_their_dense_definition(budget):
    graph, waves, keys, values, targets, scale, queries = arguments(SIZES)
    readout = MomentReadout(budget)
    moments = readout(graph, waves, keys, values)
    atoms = torch.einsum("np,nhd,nhv->nphdv", waves, keys, values)
    dense = torch.zeros_like(moments).index_add(0, graph.graph_of_node, atoms)
    torch.testing.assert_close(moments, dense, rtol=1e-12, atol=1e-12)
    heard = readout.read_back(graph, targets, scale, queries, moments)
    dense = torch.einsum(
        "ntp,htp,nhd,nphdv->nhtv", targets, scale, queries, dense[graph.graph_of_node]
    )
    torch.testing.assert_close(heard, dense, rtol=1e-11, atol=1e-11)


def test_read_back_is_the_adjoint_of_the_moments():
    """<M', moments(B, K, V)> = <read-back of M' with B and K, V> for any M'."""
    graph, waves, keys, values, *_ = arguments(SIZES)
    readout = MomentReadout()
    moments = readout(graph, waves, keys, values)
    other = draw(*moments.shape, seed=9)
    heard = readout.read_back(
        graph, waves.unsqueeze(1), torch.ones(2, 1, WAVES, dtype=torch.float64), keys, other
    )
    torch.testing.assert_close((moments * other).sum(), (heard.squeeze(2) * values).sum())


def test_gradients_do_not_depend_on_the_pieces():
    """A graph of 40 atoms whole and in chunks of 16, first and second derivatives."""
    results = []
    for budget in (1, 2**20):
        graph, *rest = arguments([40, 3, 3])
        rest = [tensor.requires_grad_() for tensor in rest]
        waves, keys, values, targets, scale, queries = rest
        readout = MomentReadout(budget)
        heard = readout.read_back(
            graph, targets, scale, queries, readout(graph, waves, keys, values)
        )
        first = torch.autograd.grad(heard.square().sum(), rest, create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), rest)
        plain = torch.autograd.grad(
            readout(graph, waves, keys, values).square().sum(), [waves, keys, values]
        )
        results.append([*first, *second, *plain])
    for one, many in zip(*results, strict=True):
        torch.testing.assert_close(
            one, many, rtol=1e-10, atol=1e-9 * float(many.detach().abs().max())
        )


def test_all_derivatives():
    graph = batch([3, 1, 2, 2])
    nodes = graph.num_nodes
    shapes = [(nodes, 2), (nodes, 1, 2), (nodes, 1, 2), (nodes, 2, 2), (1, 2, 2), (nodes, 1, 2)]
    inputs = [draw(*shape, seed=n).requires_grad_() for n, shape in enumerate(shapes)]
    readout = MomentReadout()

    def both(waves, keys, values, targets, scale, queries):
        return readout.read_back(
            graph, targets, scale, queries, readout(graph, waves, keys, values)
        )

    assert_all_derivatives(both, inputs)


def test_long_float32_sums_are_accurate():
    """10^5 atoms of one sign: within 5e-7 of float64, where a running float32 sum loses 1e-5."""
    graph = batch([100_000])
    waves, keys, values = (
        draw(graph.num_nodes, *shape, seed=n).abs()
        for n, shape in enumerate([(3,), (1, 2), (1, 2)])
    )
    exact = MomentReadout()(graph, waves, keys, values)
    found = MomentReadout()(graph, waves.float(), keys.float(), values.float())
    assert found.dtype == torch.float32
    assert ((found - exact) / exact).abs().max() < 5e-7


@pytest.mark.parametrize("most", [1, 4, 7, 100])
def test_runs_cover_every_node_once(most):
    runs = graph_runs(tuple(SIZES), most)
    nodes = [
        node for run in runs for chunk in run.chunks for node in range(chunk.start, chunk.stop)
    ]
    assert nodes == list(range(sum(SIZES)))
    assert all(chunk.stop - chunk.start <= most for run in runs for chunk in run.chunks)
    for before, after in itertools.pairwise(runs):
        assert before.graphs.stop <= after.graphs.start


def test_refuses_other_node_counts():
    with pytest.raises(ValueError, match="3 nodes needs as many rows of keys, got 2"):
        MomentReadout()(batch([3]), torch.zeros(3, 1), torch.zeros(2, 1, 1), torch.zeros(3, 1, 1))
    with pytest.raises(ValueError, match="budget"):
        MomentReadout(0)


SCRIPT = """
import torch
from farfield.models.kernels.moments import MomentReadout

torch.manual_seed(0)
x, y = torch.randn(50, 24, requires_grad=True), torch.randn(50, 24)
scaled = x * y  # stands for all three factors, so its gradient is a sum of three parts
moments = MomentReadout()((30, 20), scaled, scaled.view(50, 4, 6), scaled.view(50, 4, 6))
(gradient,) = torch.autograd.grad(moments.square().sum(), scaled, create_graph=True)
gradient.square().sum().backward()
print(x.grad.double().abs().sum().item().hex())
"""


def test_gradients_do_not_depend_on_the_hash_seed():
    """The order of three parts of a sum does not come from a set.

    The order of a set of names changes from process to process; seeds 1 and 2 differ in it.
    """
    found = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        found.add(
            subprocess.run(
                [sys.executable, "-c", SCRIPT],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
    assert len(found) == 1
