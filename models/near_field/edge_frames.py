"""Edge basis: the length of every edge, and the Wigner matrices into its own frame.

Frame. A convolution is cheapest in a frame whose polar axis (y in e3nn's convention) is the edge:
there a kernel only mixes components of equal |m| (Passaro & Zitnick 2023, eSCN, sec. 3.2). The
frame is free up to a turn about the edge, and every kernel commutes with that turn, so any choice
gives the same output *and* the same derivatives. We take, for the unit vector u = (a, b, c) with b
>= 0, the smallest rotation to the polar axis,

    R = [[1 - a^2/(1+b), -a, -ac/(1+b)], [a, b, c], [-ac/(1+b), -c, 1 - c^2/(1+b)]],

which is smooth on the whole half sphere (no pole, no arc cosine), and for b < 0 the frame of -u
followed by a half turn about z, which only changes signs of components. Hence one stored frame
serves both directions of an undirected edge.

Packing. The inverse of R is R conjugated with the half turn about the polar axis, so D^l_{m'm} =
(-1)^(m+m') D^l_{mm'}: the upper triangles are enough, 6 + 15 + 28 = 49 values for l = 1 .. 3
instead of 83.

Degrees above 1 follow from D^(l-1) x D^1 by the Clebsch-Gordan isometry: polynomial in R, hence
exact derivatives of any order. An edge of zero length has no direction: its matrices are zero for l
>= 1, so that only scalars pass, with finite gradients.

Cost at lmax 3: 0.9 microseconds per edge to compute (``benchmarks/speed/bench_basis_cache.py``),
less to read from a cache.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from farfield.models.so3.coupling import clebsch_gordan
from farfield.models.so3.irreps import degree_slice, num_rows, rows_by_order, table


def packed_size(lmax: int) -> int:
    """Independent values of the Wigner matrices of degrees 1 .. lmax.

    6, 21, 49, 94 for lmax 1, 2, 3, 4.
    """
    return sum((2 * l + 1) * (l + 1) for l in range(1, lmax + 1))


def packed_frames(vectors: Tensor, lmax: int) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Length, packed Wigner matrices and half-turn flag of edge vectors (edges, 3).

    Returns length (edges,); packed, for each degree l = 1 .. lmax the upper triangle (edges, (2l +
    1)(l + 1)); flipped (edges,) bool. The packed values belong to the edge turned into the half
    space y >= 0; the opposite edge has the same values and the opposite flag.
    """
    # an edge of zero length is computed as if it had length 1, then emptied
    squared = vectors.square().sum(-1)
    empty = squared == 0
    length = torch.where(empty, 1.0, squared).sqrt()
    flipped = vectors[:, 1] < 0
    inverse = torch.where(flipped, -1.0, 1.0).to(vectors.dtype) / length
    unit = vectors * inverse.unsqueeze(-1)

    matrices = _wigner(_smallest_rotation(unit), lmax)
    packed = [
        matrix[:, _triangle(l, matrix.device)]
        for l, matrix in zip(range(1, lmax + 1), matrices, strict=True)
    ]
    emptied = tuple(torch.where(empty.unsqueeze(-1), 0.0, part) for part in packed)
    return torch.where(empty, 0.0, length), emptied, flipped


def _smallest_rotation(unit: Tensor) -> Tensor:
    """Smallest rotation (edges, 3, 3) of unit vectors (edges, 3), y >= 0, to the polar axis y."""
    a, b, c = unit.unbind(-1)
    scale = 1 / (1 + b)
    off = -a * c * scale
    rows = [1 - a * a * scale, -a, off, a, b, c, off, -c, 1 - c * c * scale]
    return torch.stack(rows, -1).view(-1, 3, 3)


def _wigner(rotation: Tensor, lmax: int) -> list[Tensor]:
    """Wigner matrices of rotations (edges, 3, 3): (edges, (2l + 1)^2) for each l = 1 .. lmax.

    In e3nn's basis, where D^1 is the rotation itself.
    """
    first = rotation.flatten(1)
    matrices = [first]
    for l in range(2, lmax + 1):
        products = matrices[-1].unsqueeze(-1) * first.unsqueeze(-2)  # (edges, (2l - 1)^2, 9)
        matrices.append(products.flatten(1) @ _raise_degree(l, rotation.dtype, rotation.device))
    return matrices


@table
def _raise_degree(l: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Matrix ((2l - 1)^2 9, (2l + 1)^2) that takes D^(l-1) x D^1 to D^l = C^T (D^(l-1) x D^1) C."""
    isometry = clebsch_gordan(l - 1, 1, l)
    products = torch.einsum("ipa,jqb->ijpqab", isometry, isometry)
    size = 2 * l + 1
    return products.reshape((2 * l - 1) ** 2 * 9, size * size).to(dtype=dtype, device=device)


@table
def _triangle(l: int, device: torch.device) -> Tensor:
    """Flat places of the upper triangle of D^l: ((2l + 1)(l + 1),) int64."""
    row, column = torch.triu_indices(2 * l + 1, 2 * l + 1)
    return (row * (2 * l + 1) + column).to(device)


@table
def _unpacking(lmax: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """How the dense rotation is read from [1, 0, packed].

    Returns the place of each entry (rows^2,) int64, and its sign for plain and for flipped edges
    (2, rows^2).
    """
    rows = num_rows(lmax)
    source = torch.ones(rows, rows, dtype=torch.long)  # place 1 holds a zero
    sign = torch.ones(2, rows, rows, dtype=dtype)
    source[0, 0] = 0  # the scalar: place 0 holds a one

    start = 2
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    turn = _wigner(half_turn.unsqueeze(0), lmax)
    for l in range(1, lmax + 1):
        size, block = 2 * l + 1, degree_slice(l)

        # both triangles read the same values
        row, column = torch.triu_indices(size, size)
        position = torch.arange(start, start + len(row))
        upper = torch.zeros(size, size, dtype=torch.long).index_put((row, column), position)
        source[block, block] = upper.index_put((column, row), position)

        # below the diagonal (-1)^(m+m'), and the signs of the half turn for flipped edges
        below = torch.tril(torch.ones(size, size, dtype=torch.bool), -1)
        order = torch.arange(size)
        odd = (order.view(-1, 1) + order) % 2 == 1
        sign[:, block, block] = torch.where(below & odd, -1.0, 1.0).to(dtype)
        sign[1, block] *= turn[l - 1].view(size, size).diagonal().to(dtype).unsqueeze(-1)
        start += len(row)

    by_order = rows_by_order(lmax)
    return source[by_order].flatten().to(device), sign[:, by_order].flatten(1).to(device)


@table
def _unpacking_of_degree(l: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """How D^l is read from its packed values, rows m = 0, -1, 1, -2, 2, ...

    Returns the place of each entry ((2l + 1)^2,) int64, and its sign for plain and for flipped
    edges (2, (2l + 1)^2).
    """
    source, sign = _unpacking(l, dtype, torch.device("cpu"))
    size, rows = 2 * l + 1, num_rows(l)

    # row of the dense rotation that holds (l, m): m = 0 of all degrees come first, then m, then -m
    place_of = torch.argsort(rows_by_order(l))
    order = [0, *(sign_m * m for m in range(1, l + 1) for sign_m in (-1, 1))]
    chosen = place_of[[l * l + l + m for m in order]]

    # places of the whole basis start with 1, 0 and the lower degrees
    place = source.view(rows, rows)[chosen, -size:].flatten() - 2 - packed_size(l - 1)
    signs = sign.view(2, rows, rows)[:, chosen, -size:]
    return place.to(device), signs.flatten(1).contiguous().to(device)


@dataclasses.dataclass
class EdgeBasis:
    """Lengths and packed frames of the directed edges of a batch.

    Attributes
        length    (edges,), in the unit of the positions
        packed    (stored, (2l + 1)(l + 1)) values of the frames, for each degree l = 1 .. lmax
        flipped   (edges,) bool
        rows      (edges,) int64: the stored frame of each edge, since opposite edges share one;
                  None where each edge has its own
    """

    length: Tensor
    packed: tuple[Tensor, ...]
    flipped: Tensor
    rows: Tensor | None = None

    @classmethod
    def from_vectors(cls, vectors: Tensor, lmax: int) -> EdgeBasis:
        """Compute the basis of edge vectors (edges, 3); differentiable to any order."""
        return cls(*packed_frames(vectors, lmax))

    @property
    def lmax(self) -> int:
        """Largest degree."""
        return len(self.packed)

    def up_to(self, lmax: int) -> EdgeBasis:
        """The part of degrees 0 .. lmax; ValueError for degrees that this basis does not have."""
        if lmax > self.lmax:
            raise ValueError(
                f"the edge basis has lmax {self.lmax} but the model needs lmax {lmax}; preprocess "
                f"with --lmax {lmax}, or train with --lmax {self.lmax}"
            )
        return self if lmax == self.lmax else dataclasses.replace(self, packed=self.packed[:lmax])

    def select(self, edges: Tensor) -> EdgeBasis:
        """The basis of some of the edges (chosen,) int64, in that order."""
        if self.rows is None:
            rows, packed = None, tuple(part.index_select(0, edges) for part in self.packed)
        else:
            rows, packed = self.rows.index_select(0, edges), self.packed
        length, flipped = (part.index_select(0, edges) for part in (self.length, self.flipped))
        return EdgeBasis(length, packed, flipped, rows)

    def to(self, device=None, dtype=None) -> EdgeBasis:
        """The same basis on another device or in another floating-point type."""
        return EdgeBasis(
            self.length.to(device=device, dtype=dtype),
            tuple(part.to(device=device, dtype=dtype) for part in self.packed),
            self.flipped.to(device=device),
            None if self.rows is None else self.rows.to(device=device),
        )

    def rotation(self) -> Tensor:
        """Dense rotation into the frame of the edge: (edges, rows by |m|, rows by degree).

        The first order of rows is :func:`farfield.models.so3.irreps.rows_by_order`. Block sparse
        but dense in memory: one batched product with it is three times faster than one product per
        degree.
        """
        source, sign = _unpacking(self.lmax, self.length.dtype, self.length.device)
        unit = self.length.new_ones(self.packed[0].shape[0], 1)
        extended = torch.cat([unit, torch.zeros_like(unit), *self.packed], -1)
        if self.rows is not None:
            extended = extended.index_select(0, self.rows)
        dense = extended.index_select(1, source) * sign.index_select(0, self.flipped.long())
        return dense.view(-1, num_rows(self.lmax), num_rows(self.lmax))

    def matrices(self) -> tuple[Tensor, ...]:
        """Wigner matrices into the frame of the edge, (edges, 2l + 1, 2l + 1) for l = 1 .. lmax.

        The blocks of :meth:`rotation`, rows m = 0, -1, 1, -2, 2, ... For degrees with different
        numbers of channels, and for high degrees: 454 values an edge at lmax 6 where the dense
        rotation has 2401.
        """
        found = []
        for l, packed in enumerate(self.packed, 1):
            place, sign = _unpacking_of_degree(l, packed.dtype, packed.device)
            if self.rows is not None:
                packed = packed.index_select(0, self.rows)
            dense = packed.index_select(1, place) * sign.index_select(0, self.flipped.long())
            found.append(dense.view(-1, 2 * l + 1, 2 * l + 1))
        return tuple(found)
