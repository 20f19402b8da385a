"""Curves that keep values and slopes are the layers that torch runs: values and derivatives, by
chunks and in one graph, in less memory.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from farfield.models.kernels import edge_curves
from farfield.models.layers.radial import RADIAL_BASES, RadialTrunk
from tests.support.draws import draw
from tests.support.live_bytes import LiveBytes

pytestmark = pytest.mark.usefixtures("double")

EDGES, SCALARS = 7, 3


def trunk(basis: str = "gaussian", scalars: int = SCALARS, hidden: int = 6) -> RadialTrunk:
    torch.manual_seed(0)
    return RadialTrunk(RADIAL_BASES[basis](3.7, 5), scalars, hidden).train()


def derivatives(layer: nn.Module, with_scalars: bool, orders: int) -> list[Tensor]:
    """Value, ``orders`` derivatives by lengths, scalars and weights, and a last one by scalars and
    weights alone, as training takes it.
    """
    lengths = (3 * draw(EDGES, seed=0).abs()).requires_grad_(True)
    scalars = draw(EDGES, SCALARS, seed=1).requires_grad_(True) if with_scalars else None
    learned = [*layer.parameters(), *([scalars] if with_scalars else [])]
    options = {"allow_unused": True, "materialize_grads": True}

    # one argument depends on the other
    read = None if scalars is None else torch.tanh(scalars) + lengths.unsqueeze(1)
    found = [layer(1.1 * lengths, read)]
    for _ in range(orders):
        slope = (found[-1] * draw(*found[-1].shape, seed=7)).sum()
        found += torch.autograd.grad(slope, [*learned, lengths], create_graph=True, **options)
    loss = found[0].square().sum() + found[-1].square().sum()
    return [*found, *torch.autograd.grad(loss, learned, **options)]


@pytest.mark.parametrize("basis", RADIAL_BASES)
@pytest.mark.parametrize("with_scalars", [True, False])
def test_three_orders_of_derivatives(basis, with_scalars, monkeypatch):
    monkeypatch.setattr(edge_curves, "EDGES_PER_CHUNK", 3)
    layer = trunk(basis, SCALARS if with_scalars else 0)
    for orders in (0, 1, 2):
        layer.recompute = False
        expected = derivatives(layer, with_scalars, orders)
        layer.recompute = True
        for one, other in zip(derivatives(layer, with_scalars, orders), expected, strict=True):
            scale = max(float(other.detach().abs().max()), 1.0)
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * scale)


def test_a_gradient_by_lengths_of_a_loss_on_slopes(monkeypatch):
    """Not what training asks for: there is no formula for it here, and torch is asked."""
    monkeypatch.setattr(edge_curves, "EDGES_PER_CHUNK", 3)
    found = []
    for recompute in (False, True):
        layer, lengths = trunk(), (3 * draw(EDGES, seed=0).abs()).requires_grad_(True)
        layer.recompute = recompute
        values = layer(lengths, draw(EDGES, SCALARS, seed=1))
        (slope,) = torch.autograd.grad(values.sum(), lengths, create_graph=True)
        loss = slope.square().sum() + values.square().sum()
        found.append(torch.autograd.grad(loss, [lengths, *layer.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


def test_no_edges():
    layer = trunk()
    layer.recompute = True
    lengths = torch.zeros(0, requires_grad=True)
    values = layer(lengths, torch.zeros(0, SCALARS))
    (slope,) = torch.autograd.grad(values.sum(), lengths, create_graph=True)
    (slope.sum() + values.sum()).backward(inputs=list(layer.parameters()))
    assert values.shape == (0, 6) and not any(p.grad.any() for p in layer.parameters())


def test_training_on_slopes_takes_less_memory(monkeypatch):
    monkeypatch.setattr(edge_curves, "EDGES_PER_CHUNK", 64)
    peaks = []
    for recompute in (False, True):
        layer, lengths = trunk(hidden=16), draw(2048, seed=0).abs().requires_grad_(True)
        layer.recompute = recompute
        with LiveBytes() as live:
            values = layer(lengths, draw(2048, SCALARS, seed=1))
            (slope,) = torch.autograd.grad(
                values, lengths, torch.sin(values.detach()), create_graph=True
            )
            (slope.square().sum() + values.sum()).backward(inputs=list(layer.parameters()))
        peaks.append(live.peak)
    assert peaks[1] < 0.3 * peaks[0]
