"""Heads: sums over atoms in float64, constants that survive casts, strain that stretches positions
and cells alike.
"""

from __future__ import annotations

import pytest
import torch

from farfield.models.graph_ops import GraphIndex
from farfield.models.heads.energy import AtomicReference, EnergyHead, VectorHead
from farfield.models.potential import strained
from tests.support.turns import orthogonal, turned

NONE = torch.empty(0, dtype=torch.long)
GRAPH = GraphIndex(NONE, NONE, torch.tensor([3, 0, 2]))
NUMBERS = torch.tensor([1, 6, 8, 6, 1])


def features(dtype=torch.float64) -> torch.Tensor:
    return torch.randn(5, 9, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)


def head(dtype=torch.float64) -> EnergyHead:
    torch.manual_seed(0)
    return EnergyHead(4).to(dtype)


def test_energy_is_a_sum_over_the_atoms_of_each_graph():
    model, x = head(), features()
    each = EnergyHead.forward(
        model, GraphIndex(NONE, NONE, torch.ones(5, dtype=torch.long)), x, NUMBERS
    )
    expected = torch.stack([each[:3].sum(), each.new_zeros(()), each[3:].sum()])
    torch.testing.assert_close(model(GRAPH, x, NUMBERS), expected, rtol=0, atol=1e-14)


def test_energy_reads_scalars_only():
    model, x = head(), features()
    other = torch.cat([x[:, :1], 2 * x[:, 1:]], 1)
    assert torch.equal(model(GRAPH, x, NUMBERS), model(GRAPH, other, NUMBERS))


def test_energy_is_float64_whatever_the_features_are():
    assert head(torch.float32)(GRAPH, features(torch.float32), NUMBERS).dtype == torch.float64


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
    model = head(torch.float32)
    model.reference.set({1: -13.587222780835477}, scale=1 / 3, shift=0.1)
    before = {name: buffer.clone() for name, buffer in model.reference.named_buffers()}
    for name, buffer in cast(model).reference.named_buffers():
        assert buffer.dtype == before[name].dtype and torch.equal(buffer, before[name]), name
    assert set(model.state_dict()) >= {"reference.energy", "reference.scale", "reference.shift"}


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


def test_strain_stretches_positions_and_cells_alike():
    """Fractional coordinates stay, the derivative is that of ``r (1 + symmetric strain)``."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    cell = torch.randn(3, 3, 3, generator=generator, dtype=torch.float64)
    strain, moved, stretched = strained(GRAPH, positions, cell)
    assert torch.equal(moved, positions) and torch.equal(stretched, cell)
    (slope,) = torch.autograd.grad(
        moved[4] @ torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), strain, retain_graph=True
    )
    outer = torch.outer(positions[4], torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(slope[2], (outer + outer.T) / 2)
    assert not slope[:2].any()
    fractional = moved[:3] @ torch.linalg.inv(stretched[0])
    (slope,) = torch.autograd.grad(fractional.square().sum(), strain)
    assert float(slope.abs().max()) <= 1e-9


def test_cells_without_volume_are_refused():
    with pytest.raises(ValueError, match="volume > 0 Angstrom.*got 0.0"):
        strained(GRAPH, torch.zeros(5, 3), torch.zeros(3, 3, 3))
