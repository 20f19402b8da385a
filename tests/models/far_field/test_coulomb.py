"""The energy of given charges: open and periodic structures, alone and together."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from farfield.models.far_field.coulomb import (
    COULOMB,
    coulomb_energy,
    near_coulomb_energy,
)
from farfield.models.graph_ops import GraphIndex
from farfield.models.layers.radial import polynomial_envelope
from tests.support.crystals import CELLS
from tests.support.derivatives import assert_all_derivatives
from tests.support.draws import draw
from tests.support.far_field_clouds import batch
from tests.support.law_cases import complete_graph

SMEARING = 0.9


@dataclasses.dataclass
class Cloud:
    """A batch of charges; crystals are graphs 1, 3 and 4 where there are cells."""

    graph: GraphIndex
    positions: Tensor
    charges: Tensor
    cell: Tensor
    periodic: Tensor

    def energy(self) -> Tensor:
        return coulomb_energy(
            self.graph, self.positions, self.charges, SMEARING, self.cell, self.periodic
        )


def mixed() -> Cloud:
    """Open and periodic structures, two crystals of one size."""
    sizes = [4, 3, 4, 5, 3, 0]
    cell = torch.zeros(6, 3, 3, dtype=torch.float64)
    cell[[1, 3, 4]] = CELLS
    periodic = (cell != 0).any(2)
    nodes = sum(sizes)
    return Cloud(batch(sizes), 3 * draw(nodes, 3, seed=0), draw(nodes, 2, seed=1), cell, periodic)


def pair(distance: float) -> tuple[GraphIndex, Tensor, Tensor]:
    """A positive and a negative unit charge."""
    positions = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.6, 0.8]], dtype=torch.float64) * distance
    return batch([2]), positions, torch.tensor([[1.0], [-1.0]], dtype=torch.float64)


def test_the_tail_is_that_of_point_charges():
    """dE / d(1 / r) of a pair of unit charges is -k_e far away."""
    near, far = (float(coulomb_energy(*pair(r), SMEARING)) for r in (20.0, 40.0))
    assert (near - far) / (1 / 20 - 1 / 40) == pytest.approx(-COULOMB, rel=1e-12)


def test_open_energy_is_the_formula():
    graph, positions, charges = batch([5]), 2 * draw(5, 3, seed=0), draw(5, 2, seed=1)
    distance = torch.pdist(positions)
    kernel = COULOMB * torch.erf(distance / (2**0.5 * SMEARING)) / distance
    first, second = torch.triu_indices(5, 5, 1)
    expected = (kernel * (charges[first] * charges[second]).sum(1)).sum()
    found = coulomb_energy(graph, positions, charges, SMEARING)
    torch.testing.assert_close(found, expected.view(1), rtol=1e-13, atol=0)


def test_a_structure_in_a_batch_is_as_if_alone():
    """Also between structures of the other kind; a structure without atoms has no energy."""
    cloud = mixed()
    together, offsets = cloud.energy(), cloud.graph.node_offsets.tolist()
    for index, size in enumerate(cloud.graph.sizes):
        rows = slice(offsets[index], offsets[index + 1])
        crystal = bool(cloud.periodic[index].all())
        cell = cloud.cell[index : index + 1] if crystal else None
        alone = coulomb_energy(
            batch([size]), cloud.positions[rows], cloud.charges[rows], SMEARING, cell
        )
        torch.testing.assert_close(together[index], alone[0], rtol=1e-12, atol=1e-12)
    assert float(together[5]) == 0.0


def test_derivatives_in_a_mixed_batch():
    cloud = mixed()

    def energy(positions: Tensor, charges: Tensor, cell: Tensor) -> Tensor:
        full = cloud.cell.index_copy(0, torch.tensor([1, 3, 4]), cell)
        space = (full, cloud.periodic)
        return coulomb_energy(cloud.graph, positions, charges, SMEARING, *space)

    inputs = [cloud.positions, cloud.charges, CELLS.clone()]
    assert_all_derivatives(energy, [one.requires_grad_(True) for one in inputs])


def test_the_part_inside_the_cutoff():
    """Taken off with the envelope 1, nothing is left; a pair beyond the cutoff keeps all."""
    positions, charges = 2 * draw(5, 3, seed=0), draw(5, 2, seed=1)
    graph = complete_graph(positions, torch.tensor([5]))
    length = (positions[graph.dst] - positions[graph.src]).norm(dim=1)
    whole = coulomb_energy(graph, positions, charges, SMEARING)
    inside = near_coulomb_energy(graph, length, torch.ones_like(length), charges, SMEARING)
    torch.testing.assert_close(inside, whole, rtol=1e-12, atol=0)

    faded = near_coulomb_energy(graph, length, polynomial_envelope(length), charges, SMEARING)
    assert float(length.min()) > 1 and float(faded) == 0.0


def test_slabs_and_missing_cells_are_refused():
    cloud = mixed()
    cloud.periodic[3, 2] = False
    with pytest.raises(ValueError, match=r"got \[True, True, False\] for structure 3 .a slab"):
        cloud.energy()
    cloud = mixed()
    with pytest.raises(ValueError, match=r"3 periodic structures need their cells \(6, 3, 3\)"):
        coulomb_energy(cloud.graph, cloud.positions, cloud.charges, 1.0, None, cloud.periodic)
    cloud.cell[3, 2] = cloud.cell[3, 1]
    with pytest.raises(ValueError, match="need cells with a volume > 0 Angstrom"):
        cloud.energy()
