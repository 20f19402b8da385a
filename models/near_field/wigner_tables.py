"""Constant tables of the Wigner convolution: paths, and couplings of its edge and its node form.

Formulas and words: ``wigner_convolution.py``. The node form rests on two identities. The solid
harmonic of a difference is a binomial sum,

    S_l(a - b) = sum_k (-1)^k binom(l, k) a_k a_(l-k) / a_l [S_k(b) (x) S_(l-k)(a)]^l,
    a_l^2 = l! / (2 l - 1)!!,

and recoupling moves the harmonic of the source to the source, and of the target to the target,

    [x (x) [S_k (x) S_(l-k)]^l]^L = sum_d U [[x (x) S_k]^d (x) S_(l-k)]^L,
    U = (-1)^(lam+l+L) sqrt((2 d + 1)(2 l + 1)) {lam k d; l-k L l}.

Cost: tables of a few hundred values for each order and lmax, built once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from farfield.models.so3.coupling import clebsch_gordan, wigner_6j
from farfield.models.so3.irreps import degree_slice, num_rows, table


class Path(NamedTuple):
    """Coupling of degree ``degree_in`` of the source with the kernel to ``degree_out``.

    start, step: place of its components among the coupled rows.
    """

    degree_in: int
    degree_out: int
    start: int
    step: int

    @property
    def rows(self) -> slice:
        """Coupled rows of this path."""
        return slice(self.start, self.start + (2 * self.degree_out + 1) * self.step, self.step)


def coupling_paths(order: int, lmax: int) -> list[Path]:
    """Paths of a kernel of degree ``order`` that keep parity, sorted by the degree they reach.

    Components of all paths to one degree are interleaved, row = start + m (paths to that degree),
    so that (rows, channels) of a degree is (2 L + 1, paths channels) without a copy.
    """
    paths, start = [], 0
    for out in range(lmax + 1):
        sources = [lam for lam in range(lmax + 1) if _couples(lam, order, out)]
        paths += [
            Path(lam, out, start + position, len(sources)) for position, lam in enumerate(sources)
        ]
        start += len(sources) * (2 * out + 1)
    return paths


def _couples(lam: int, order: int, out: int) -> bool:
    """Whether a path exists and keeps parity."""
    return abs(lam - order) <= out <= lam + order and (lam + order + out) % 2 == 0


def coupled_rows(order: int, lmax: int) -> int:
    """Number of components of all paths."""
    return sum(2 * path.degree_out + 1 for path in coupling_paths(order, lmax))


@table
def edge_coupling(order: int, lmax: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Takes the sums of the edge form to the coupled rows: (coupled rows, (2 order + 1) rows)."""
    matrix = torch.zeros(
        coupled_rows(order, lmax), 2 * order + 1, num_rows(lmax), dtype=torch.float64
    )
    for path in coupling_paths(order, lmax):
        coupling = math.sqrt(2 * order + 1) * clebsch_gordan(path.degree_in, order, path.degree_out)
        matrix[path.rows, :, degree_slice(path.degree_in)] = coupling.permute(2, 1, 0)
    return matrix.flatten(1).to(dtype=dtype, device=device)


class SourceProduct(NamedTuple):
    """``[x^(degree_in) (x) S_moved]^degree``, formed on a source.

    moved: how much of the order of the kernel sits on the source. rows: its place among the rows of
    all products.
    """

    degree_in: int
    moved: int
    degree: int
    rows: slice


def source_products(order: int, lmax: int) -> list[SourceProduct]:
    """Products that reach some path: 9, 21, 50 rows at lmax 2 for order 0, 1, 2."""
    products, start = [], 0
    paths = coupling_paths(order, lmax)
    for moved in range(order + 1):
        rest = order - moved
        for lam in range(lmax + 1):
            outs = [path.degree_out for path in paths if path.degree_in == lam]
            for degree in range(abs(lam - moved), lam + moved + 1):
                if any(abs(degree - rest) <= out <= degree + rest for out in outs):
                    rows = slice(start, start + 2 * degree + 1)
                    products.append(SourceProduct(lam, moved, degree, rows))
                    start = rows.stop
    return products


def binomial_scale(order: int, moved: int) -> float:
    """Factor of ``[S_moved(b) (x) S_(order - moved)(a)]`` in the solid harmonic S_order(a - b)."""

    def scale(l: int) -> float:
        """a_l"""
        return math.sqrt(math.factorial(l) / math.prod(range(1, 2 * l, 2)))

    sign = (-1) ** moved
    return sign * math.comb(order, moved) * scale(moved) * scale(order - moved) / scale(order)


def recoupling(path: Path, product: SourceProduct, order: int) -> float:
    """U of the recoupling."""
    lam, out, k, d = path.degree_in, path.degree_out, product.moved, product.degree
    sign = (-1) ** (lam + order + out)
    size = math.sqrt((2 * d + 1) * (2 * order + 1))
    return sign * size * wigner_6j(lam, k, d, order - k, out, order)


@table
def source_coupling(order: int, lmax: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Takes harmonics of a source to the map from its features to its products.

    (product rows, rows, harmonics).
    """
    products = source_products(order, lmax)
    matrix = torch.zeros(
        products[-1].rows.stop, num_rows(lmax), num_rows(order), dtype=torch.float64
    )
    for product in products:
        rows, moved = degree_slice(product.degree_in), degree_slice(product.moved)
        coupling = clebsch_gordan(product.degree_in, product.moved, product.degree)
        matrix[product.rows, rows, moved] = coupling.permute(2, 0, 1)
    return matrix.to(dtype=dtype, device=device)


@table
def target_coupling(order: int, lmax: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Takes harmonics of a target to the map from its summed products to the coupled rows.

    (coupled rows, product rows, harmonics).
    """
    products = source_products(order, lmax)
    matrix = torch.zeros(
        coupled_rows(order, lmax), products[-1].rows.stop, num_rows(order), dtype=torch.float64
    )
    for path in coupling_paths(order, lmax):
        for product in products:
            rest = order - product.moved
            reaches = abs(product.degree - rest) <= path.degree_out <= product.degree + rest
            if product.degree_in != path.degree_in or not reaches:
                continue
            factor = (
                math.sqrt(2 * order + 1)
                * binomial_scale(order, product.moved)
                * recoupling(path, product, order)
            )
            coupling = factor * clebsch_gordan(product.degree, rest, path.degree_out)
            matrix[path.rows, product.rows, degree_slice(rest)] = coupling.permute(2, 0, 1)
    return matrix.to(dtype=dtype, device=device)
