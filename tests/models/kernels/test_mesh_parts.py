"""Laws of the parts of a grid: pieces spread and read what all atoms do, wherever they lie."""

from __future__ import annotations

import pytest
import torch

from farfield.models.kernels.mesh_parts import MeshPart
from farfield.models.kernels.particle_mesh import ParticleMesh
from tests.support.crystals import TRICLINIC
from tests.support.draws import draw

CELLS = {"wide": 3 * TRICLINIC, "narrower than the window": 0.3 * TRICLINIC}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
def test_parts_add_up_to_the_whole(cell):
    mesh = ParticleMesh(cell, kappa_max=1.5, tolerance=1e-6)
    positions = 2 * draw(40, 3, seed=1) @ cell
    sources = draw(40, 2, seed=2)
    stencil = mesh.stencil(positions)
    whole = mesh.spread(sources, stencil)

    found = torch.zeros_like(whole)
    for own in (slice(0, 1), slice(1, 25), slice(25, 40)):
        part = MeshPart(mesh, positions[own])
        part.add_(found, part.stencil.spread(sources[own]))
        read = part.stencil.read(part.take(whole))
        torch.testing.assert_close(read, stencil.read(whole)[own], rtol=0, atol=1e-12)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)


def test_a_part_is_a_small_box():
    mesh = ParticleMesh(100 * torch.eye(3, dtype=torch.float64), kappa_max=1.5, tolerance=1e-4)
    near = 99.0 + draw(30, 3, seed=3).clamp(-1.5, 1.5)  # across the walls of the cell
    part = MeshPart(mesh, near)
    assert len(part.points) < 0.01 * mesh.shape[0] ** 3
