"""Heads of energies: constants that survive casts, vectors that turn with the features."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from farfield.models.graph_ops import GraphIndex
from farfield.models.heads.energy import AtomicReference, EnergyHead, VectorHead
from tests.support.turns import orthogonal, turned

NONE = torch.empty(0, dtype=torch.long)
GRAPH = GraphIndex(NONE, NONE, torch.tensor([3, 0, 2]))
NUMBERS = torch.tensor([1, 6, 8, 6, 1])


def features(dtype=torch.float64) -> torch.Tensor:
    return torch.randn(5, 9, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)


def head(dtype=torch.float64) -> EnergyHead:
    torch.manual_seed(0)
    return EnergyHead(4).to(dtype)


def test_energy_of_an_atom_reads_its_scalars_only():
    model, x = head(), features()
    other = torch.cat([x[:, :1], 2 * x[:, 1:]], 1)
    assert model(x).shape == (5,) and torch.equal(model(x), model(other))


def test_reference_is_a_sum_over_elements():
    reference = AtomicReference()
    assert torch.equal(reference(GRAPH, NUMBERS), torch.zeros(3, dtype=torch.float64))
    with pytest.raises(
        ValueError,
        match=r"unknown element O \(Z = 8\); this model was trained on H, C: leave such .* out",
    ):
        reference.set({1: -13.6, 6: -1029.5})
        reference(GRAPH, NUMBERS)
    reference.set({1: -13.6, 6: -1029.5, 8: 0.0}, shift=0.25)
    assert reference.values() == {1: -13.6, 6: -1029.5, 8: 0.0}
    expected = [-13.6 - 1029.5 + 0.75, 0.0, -13.6 - 1029.5 + 0.5]
    torch.testing.assert_close(
        reference(GRAPH, NUMBERS), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    "cast",
    [
        lambda m: m.float(),
        lambda m: m.half(),
        lambda m: m.to("cpu", torch.float32),
        lambda m: m.double(),
    ],
)
def test_reference_keeps_its_type_and_numbers(cast):
    model = nn.Sequential(AtomicReference()).float()
    model[0].set({1: -13.587222780835477}, scale=1 / 3, shift=0.1)
    before = {name: buffer.clone() for name, buffer in model[0].named_buffers()}
    for name, buffer in cast(model)[0].named_buffers():
        assert buffer.dtype == before[name].dtype and torch.equal(buffer, before[name]), name
    assert set(model.state_dict()) >= {"0.energy", "0.scale", "0.shift"}


def test_setting_a_reference_again_forgets_the_first():
    reference = AtomicReference()
    reference.set({1: -13.6, 6: -1000.0}, scale=2.0, shift=1.0)
    reference.set({1: 0.0, 6: 0.0, 8: -2000.0})
    assert float(reference(GRAPH, NUMBERS)[0]) == -2000.0 and float(reference.scale) == 1.0


def test_vectors_turn_with_the_features():
    torch.manual_seed(0)
    model, x = VectorHead(4).double(), features()
    for seed in range(3):
        matrix = orthogonal(seed, proper=seed != 2)
        torch.testing.assert_close(
            model(turned(x, matrix, 2)), model(x) @ matrix.T, rtol=0, atol=1e-13
        )
