"""The part of a grid that the atoms of one piece of a structure reach.

A stencil of all atoms asks for 20 p^3 bytes an atom and writes every grid point at once. Atoms that
are near each other reach a box of few points: their values are spread in the box, and the box is
added to the grid. Sums over pieces are those of ``mesh_stencil.py`` over all atoms, up to rounding.

Cost: that of the stencil, and one copy of the box, p points wider than the atoms in each direction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.models.kernels.mesh_stencil import MeshStencil
from farfield.models.kernels.particle_mesh import ParticleMesh


class MeshPart:
    """The box of ``mesh`` in reach of atoms at positions (atoms, 3), atoms >= 1.

    Attributes: ``stencil``, spreads to and reads from the points of the box; ``points`` (box,)
    int64, which points of the grid they are. A box that is wider than the grid holds a point more
    than once.
    """

    def __init__(self, mesh: ParticleMesh, positions: Tensor):
        places, order = mesh.places(positions), mesh.order

        # the first and the last point of the stencils along each axis
        low, high = torch.aminmax(places.detach() - order / 2, dim=0)
        corner = low.floor() + 1
        size = (high.floor() + order - corner + 1).long()
        self.stencil = MeshStencil(places - corner, tuple(size.tolist()), order, positions.dtype)

        ranges = [
            (first + torch.arange(count, device=positions.device)) % whole
            for first, count, whole in zip(corner.long(), size.tolist(), mesh.shape, strict=True)
        ]
        x, y, z = torch.meshgrid(*ranges, indexing="ij")
        self.points = ((x * mesh.shape[1] + y) * mesh.shape[2] + z).flatten()

    def take(self, values: Tensor) -> Tensor:
        """Values of the grid (points, ...) at the points of the box: (box, ...)."""
        return values.index_select(0, self.points)

    def add_(self, values: Tensor, own: Tensor) -> None:
        """Add ``own`` (box, ...) to the values of the grid (points, ...)."""
        values.index_add_(0, self.points, own)
