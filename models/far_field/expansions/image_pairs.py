"""The sum over all images of a kernel that ends, pair by pair: for few atoms in a wide cell.

A kernel is nothing beyond its reach R, so an atom hears the images at ``r + n H`` with ``|n_a| <
R / height_a + 1``, heights being the distances of opposite faces of the cell. Every image counts as
a further sender. A wide cell has many wave vectors and few such pairs: 23 atoms in a box of 30
Angstrom have 1,800 vectors, and 27 images.

Formula of the sum: ``expansion.py``. Cost: atoms x atoms x images; graphs one by one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from farfield.models.far_field.expansion import Expansion, ExpansionOptions
from farfield.models.far_field.expansions.lattice import check_volume
from farfield.models.far_field.expansions.pairwise import ClosedPairs
from farfield.models.far_field.spectral_shapes import ScreenedShape
from farfield.models.graph_ops import GraphIndex
from farfield.models.so3.irreps import num_rows


def image_counts(cell: Tensor, reach: float) -> list[int]:
    """Cells to either side along each lattice vector that hold an atom within ``reach``.

    cell: (3, 3), rows are lattice vectors; atoms are inside it.
    """
    heights = 1 / torch.linalg.inv(cell.detach().double()).norm(dim=0)
    return [math.ceil(reach / height) for height in heights.tolist()]


class ImagePairs(Expansion):
    """The sum over pairs of atoms and images. shape: of the densities, with a closed form."""

    cells = "needed"

    def __init__(self, shape: ScreenedShape, options: ExpansionOptions):
        super().__init__((), shape.lmax, options)
        self.shape = shape
        self.pairs = ClosedPairs(shape, options)

    def forward(
        self,
        graph: GraphIndex,
        positions: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        coefficients: Tensor,
        cell: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`Expansion.forward`; needs cells, and refuses flat ones."""
        self.check_cell(graph, cell)
        check_volume(cell)
        atoms = (tensor.split(graph.sizes) for tensor in (positions, queries, keys, values))
        each = zip(*atoms, cell.unbind(0), strict=True)
        found = [self._sum_images(*parts, coefficients) for parts in each if len(parts[0])]
        if not found:
            return values.new_zeros(0, values.shape[1], num_rows(self.lmax), values.shape[2])
        return torch.cat(found)

    def _sum_images(
        self,
        positions: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        cell: Tensor,
        coefficients: Tensor,
    ) -> Tensor:
        """The sum of one graph, (atoms, heads, rows, V)."""
        atoms = positions.shape[0]
        fractional = positions.double() @ torch.linalg.inv(cell.double())
        inside = positions - fractional.detach().floor().to(positions) @ cell

        # the atoms themselves come first: they are the receivers
        counts = image_counts(cell, self.shape.reach)
        steps = torch.cartesian_prod(*[torch.arange(-count, count + 1) for count in counts])
        steps = steps[steps.abs().sum(1).argsort(stable=True)].to(positions)
        everywhere = (inside + (steps @ cell).unsqueeze(1)).flatten(0, 1)

        repeated = (tensor.repeat(len(steps), 1, 1) for tensor in (keys, values))
        batched = (tensor.unsqueeze(0) for tensor in (everywhere, queries, *repeated))
        return self.pairs.sum_at(slice(0, atoms), *batched, coefficients)

    def expected_error(self, radius: float) -> float:
        """0.0: what is left out is nothing."""
        return 0.0

    def pairs_of(self, size: int, cell: Tensor) -> int:
        """Pairs of ``size`` atoms with all atoms and images."""
        images = math.prod(2 * count + 1 for count in image_counts(cell, self.shape.reach))
        return size * size * images
