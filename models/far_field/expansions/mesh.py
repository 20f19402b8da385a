"""The far field's sum on a grid: N log N for large structures, periodic or open.

Formula of the sum: ``expansion.py``; of the transforms and of the grid, ``lattice.py`` and
``models/kernels/particle_mesh.py``. Every (key feature x value) of a head is a field on the grid,

    F_hdv(x) = sum_j k_jhd v_jhv delta(x - r_j),      G_(h lm)(k) = (-i)^l g_lh(|k|) Y_lm(k^),

and queries contract what is read back. An open structure lies in a box that leaves the range of the
kernel empty around it, so that no atom has an image within reach.

Cost: the grid's, with heads x keys x values fields, each read (lmax + 1)^2 times; graphs one by
one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from farfield.models.far_field.expansion import EXPANSIONS, Expansion, ExpansionOptions
from farfield.models.far_field.expansions.lattice import LatticeExpansion, check_volume
from farfield.models.far_field.spectral_shapes import SpectralShape
from farfield.models.graph_ops import GraphIndex
from farfield.models.kernels.particle_mesh import ParticleMesh, mesh_sum, padded_box
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, num_rows

FINER = 1e-2  # tolerance of the grid in units of ``tolerance``: forces lose a digit of it
MAX_GRID_VALUES = 2**29  # points x fields: 2 GiB in float32


@EXPANSIONS.register("mesh")
class MeshExpansion(LatticeExpansion):
    """The sum over all images on a grid, with the parameters of ``LatticeExpansion``."""

    reach = math.inf  # of the kernel, Angstrom

    @classmethod
    def of_shape(cls, shape: SpectralShape, options: ExpansionOptions) -> MeshExpansion:
        """The sum with the transform of the kernel itself; open structures where it ends."""
        return ShapeMesh(shape, options)

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
        """See :meth:`Expansion.forward`; open structures need a kernel that ends."""
        self.check_boundaries(graph, cell)
        fields = self.fields(keys, values)
        multiplier = functools.partial(self.multiplier, coefficients, fields.shape[1])
        cells = [None] * graph.num_graphs if cell is None else cell.unbind(0)
        each = zip(positions.split(graph.sizes), fields.split(graph.sizes), cells, strict=True)
        found = [self._sum_on_grid(*parts, multiplier) for parts in each]
        if not found:
            return values.new_zeros(0, values.shape[1], num_rows(self.lmax), values.shape[2])
        return self.contracted(torch.cat(found), queries)

    def fields(self, keys: Tensor, values: Tensor) -> Tensor:
        """What an atom puts on the grid, (nodes, heads d V); keys and values as in ``forward``."""
        return (keys.unsqueeze(3) * values.unsqueeze(2)).flatten(1)

    def contracted(self, read: Tensor, queries: Tensor) -> Tensor:
        """Fields read at the atoms (nodes, rows, heads d V) -> ``forward``'s (nodes, heads, rows,
        V): queries (nodes, heads, d) contract d.
        """
        read = read.unflatten(2, (*queries.shape[1:], -1))
        return torch.einsum("nrhdv,nhd->nhrv", read, queries)

    def _sum_on_grid(
        self, positions: Tensor, fields: Tensor, cell: Tensor | None, multiplier: Callable
    ) -> Tensor:
        """The sum of one graph, (atoms, rows, fields)."""
        cell, positions = self.box(positions, cell, fields.shape[1])
        return mesh_sum(positions, cell, fields, multiplier, self.kappa_max, self._grid_tolerance)

    def box(self, positions: Tensor, cell: Tensor | None, fields: int) -> tuple[Tensor, Tensor]:
        """Cell (3, 3) that the grid of one graph fills, and the positions (atoms, 3) in it.

        cell: of the graph, None where it is open. fields: on the grid. Raises ValueError for a grid
        that does not fit into memory.
        """
        if cell is None:
            cell, positions = padded_box(positions, self.reach, self._step)
        self._check_points(_points(cell, self._step), fields)
        return cell, positions

    def grid(self, cell: Tensor) -> ParticleMesh:
        """The grid in a cell (3, 3)."""
        return ParticleMesh(cell, self.kappa_max, self._grid_tolerance)

    @property
    def _grid_tolerance(self) -> float:
        return self.options.tolerance * FINER

    @property
    def _step(self) -> float:
        """Of the grid, Angstrom."""
        return math.pi / (2 * self.kappa_max)

    def open_points(self, positions: Tensor) -> float:
        """Points of the grid that an open structure needs; positions: (atoms, 3)."""
        if not positions.shape[0]:
            return 0.0
        return _points(padded_box(positions.detach(), self.reach, self._step)[0], self._step)

    def _check_points(self, points: float, fields: int) -> None:
        """Raise ValueError for a grid that does not fit into memory."""
        if points * fields > MAX_GRID_VALUES:
            raise ValueError(
                f"the grid of a structure needs {points:.3g} points for each of {fields} fields, "
                f"at most {MAX_GRID_VALUES / fields:.3g}; cut the empty space around it, or give a "
                "larger far_range, which needs fewer points"
            )

    def check_boundaries(self, graph: GraphIndex, cell: Tensor | None) -> None:
        """Raise ValueError for flat cells, and for open structures where the kernel has a tail."""
        if cell is None and math.isinf(self.reach):
            raise ValueError(
                "expansion 'mesh' sums a kernel with a tail in periodic cells alone; choose the "
                "kernel 'screened', or expansion 'pairwise' for open structures"
            )
        self.check_cell(graph, cell)
        if cell is not None:
            check_volume(cell)

    def multiplier(self, coefficients: Tensor, fields: int, vectors: Tensor) -> Tensor:
        """``(-i)^l g_lh Y_lm`` at vectors (K, 3): (rows, fields, K) complex, real for lmax 0."""
        zero = ~vectors.detach().any(1)
        x_axis = vectors.new_tensor([1.0, 0.0, 0.0])
        directions = torch.where(zero[:, None], x_axis, vectors)
        lengths = directions.norm(dim=1)

        # a kernel that ends has an integral, which is its transform at k = 0
        if self.with_zero:
            lengths = torch.where(zero, 0.0, lengths)
        transform = self.transform(lengths, coefficients)  # (l, heads, K)
        if not self.with_zero:
            transform = torch.where(zero, 0.0, transform)

        repeated = transform.repeat_interleave(fields // transform.shape[1], 1)
        if not self.lmax:
            return repeated
        harmonics = spherical_harmonics(directions, self.lmax).T.unsqueeze(1)  # (rows, 1, K)
        powers = torch.tensor([1, -1j, -1, 1j], dtype=torch.complex128)[
            degree_of_row(self.lmax) % 4
        ]
        phases = powers.to(vectors.device, harmonics.dtype.to_complex())
        return repeated.index_select(0, self.degree) * harmonics * phases.view(-1, 1, 1)

    def expected_error(self, radius: float) -> float:
        """What the grid is made for."""
        return self._grid_tolerance


def _points(cell: Tensor, step: float) -> float:
    """Points of a grid of ``step`` (Angstrom) in a cell (3, 3)."""
    return float((cell.detach().double().norm(dim=1) / step).ceil().prod())


class ShapeMesh(MeshExpansion):
    """The sum on a grid of a kernel whose transform is a function."""

    cells = "accepted"

    def __init__(self, shape: SpectralShape, options: ExpansionOptions):
        Expansion.__init__(self, (), shape.lmax, options)
        self.shape, self.kappa_max, self.reach = shape, shape.kappa_max, shape.reach
        self.with_zero = math.isfinite(shape.reach)
        self.register_buffer("degree", degree_of_row(shape.lmax), persistent=False)

    def transform(self, kappa: Tensor, coefficients: Tensor) -> Tensor:
        """``g_lh(k)`` of kappa (...): (lmax + 1, heads, ...)."""
        return self.shape.transform(kappa, coefficients)
