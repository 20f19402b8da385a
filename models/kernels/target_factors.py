"""Target factors of an expansion, and the compact values that they are built from.

The target factors of an atom, (kernel components x moments) values, are the widest thing about it.
Where they are a constant linear map of fewer values, as in the multipole expansion, only those are
kept, and the factors are made for a few atoms at a time whenever they are needed
(:class:`MappedFactors`).

Cost of a map: its non-zero entries times atoms, for the factors and for their gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.models.kernels.node_chunks import Scratch


class TargetFactors:
    """Target factors that are given as they are, (nodes, rows, moments).

    A subclass that builds them from something smaller overrides all three methods.
    """

    def shape(self, rows: int, moments: int) -> tuple[int, ...]:
        """Shape of what one node gives."""
        return rows, moments

    def spread(self, given: Tensor, scratch: Scratch) -> Tensor:
        """Factors (nodes, rows, moments) of what the nodes give (nodes, ...)."""
        return given

    def collect(self, factors: Tensor, scratch: Scratch) -> Tensor:
        """Transpose of :meth:`spread`: a gradient by the factors becomes one by what was given."""
        return factors


class MappedFactors(TargetFactors):
    """Target factors as a constant sparse matrix times a few values of each node.

    matrix: (rows moments, width) sparse; transposed: the same matrix as (width, rows moments);
    rows: number of kernel components.
    """

    def __init__(self, matrix: Tensor, transposed: Tensor, rows: int):
        self.matrix, self.transposed, self.rows = matrix, transposed, rows

    def shape(self, rows: int, moments: int) -> tuple[int, ...]:
        """One node gives ``width`` values."""
        return (self.matrix.shape[1],)

    def spread(self, given: Tensor, scratch: Scratch) -> Tensor:
        """Factors (nodes, rows, moments) of ``given`` (nodes, width).

        Fastest where the nodes of ``given`` lie next to each other in memory.
        """
        columns = scratch("columns", self.matrix.shape[0], given.shape[0])
        torch.addmm(columns, self.matrix, given.T.contiguous(), beta=0, out=columns)
        return scratch("factors", *columns.T.shape).copy_(columns.T).unflatten(1, (self.rows, -1))

    def collect(self, factors: Tensor, scratch: Scratch) -> Tensor:
        """Gradient (nodes, width) of a gradient by the factors (nodes, rows, moments)."""
        flat = factors.flatten(1).T
        return torch.sparse.mm(self.transposed, scratch("columns", *flat.shape).copy_(flat)).T
