"""Equivariant convolution over edges with tensor products on nodes: E2Former's Wigner-6j
convolution, in two forms.

The operator of order l, with harmonics S_l of the softened edge direction (``geometry.py``),
weights w per edge and channel:

    m_i^L = sum_lam W_(lam,L) sqrt(2 l + 1) sum_j w_ij (.) [x_j^lam (x) S_l(u_ij)]^L,
    lam + l + L even,

where [x (x) y]^L couples by the Clebsch-Gordan isometry and W_(lam,L) mixes channels, one matrix
for each path.

edge form   The sum over j of w Y_m x_j is formed for each component m of the harmonic, and coupled
            once on the receiving node.
node form   (Li et al. 2025, E2Former.) With r_ij = r_i - r_j about any origin, the solid harmonic
            of the difference is a binomial sum, S_l(a - b) = sum_k (-1)^k binom(l, k) a_k a_(l-k) /
            a_l [S_k(b) (x) S_(l-k)(a)]^l,        a_l^2 = l! / (2 l - 1)!!, and recoupling moves the
            source's harmonic to the source and the target's to the target: [x (x) [S_k (x)
            S_(l-k)]^l]^L = sum_d U [[x (x) S_k]^d (x) S_(l-k)]^L, U = (-1)^(lam+l+L) sqrt((2 d +
            1)(2 l + 1)) {lam k d; l-k L l}. Edges carry only weights w / (r^2 + s^2)^(l/2).

Precision of the node form. The binomial sum cancels |r|^l down to |r_ij|^l. Origins are therefore
local: a source belongs to the cube of side ``CUBE_SIDE`` that its (image's) position falls in, and
a target keeps one sum for each cube that holds one of its sources, about the centre of that cube.
Centres are multiples of a power of two, so that differences to them are exact, however far the
structure is from the origin.

Cost at lmax 2 per edge and channel: 9 (2 l + 1) multiply-adds in the edge form; 9, 21 or 50 for l =
0, 1, 2 in the node form, and tensor products on nodes and on pairs of target and cube.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from farfield.models.kernels.harmonic_sum import KERNELS
from farfield.models.near_field.edge_geometry import NearFieldGeometry
from farfield.models.so3.coupling import clebsch_gordan, wigner_6j
from farfield.models.so3.harmonics import solid_harmonics
from farfield.models.so3.irreps import degree_slice, num_rows, table


class Path(NamedTuple):
    """Coupling of source degree ``degree_in`` with the kernel to ``degree_out``; ``start`` and
    ``step`` place its components.
    """

    degree_in: int
    degree_out: int
    start: int
    step: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + (2 * self.degree_out + 1) * self.step, self.step)


def coupling_paths(order: int, lmax: int) -> list[Path]:
    """Paths of a kernel of degree ``order`` that keep parity, sorted by the degree they reach.

    Components of all paths to one degree are interleaved, row = start + m (paths to that degree),
    so that (rows, channels) of a degree is (2 L + 1, paths channels) without a copy.
    """
    paths, start = [], 0
    for out in range(lmax + 1):
        sources = [
            lam
            for lam in range(lmax + 1)
            if abs(lam - order) <= out <= lam + order and (lam + order + out) % 2 == 0
        ]
        paths += [
            Path(lam, out, start + position, len(sources)) for position, lam in enumerate(sources)
        ]
        start += len(sources) * (2 * out + 1)
    return paths


def coupled_rows(order: int, lmax: int) -> int:
    """Number of components of all paths."""
    return sum(2 * path.degree_out + 1 for path in coupling_paths(order, lmax))


@table
def edge_coupling(order: int, lmax: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Couples the sums of the edge form: (coupled rows, (2 order + 1) rows)."""
    matrix = torch.zeros(
        coupled_rows(order, lmax), 2 * order + 1, num_rows(lmax), dtype=torch.float64
    )
    for path in coupling_paths(order, lmax):
        coupling = math.sqrt(2 * order + 1) * clebsch_gordan(path.degree_in, order, path.degree_out)
        matrix[path.rows, :, degree_slice(path.degree_in)] = coupling.permute(2, 1, 0)
    return matrix.flatten(1).to(dtype=dtype, device=device)


def edge_form(
    order: int, lmax: int, kernel, x: Tensor, weights: Tensor, geometry: NearFieldGeometry
) -> Tensor:
    """Coupled sums (nodes, coupled rows, channels) of x (nodes, rows, channels) with weights
    (edges, channels).
    """
    harmonics = geometry.harmonics(order)[:, degree_slice(order)]
    sums = kernel(
        geometry.edge_slots, harmonics, weights, x
    )  # (nodes, 2 order + 1, rows, channels)
    return edge_coupling(order, lmax, x.dtype, x.device) @ sums.flatten(1, 2)


class Moment(NamedTuple):
    """[x^(degree_in) (x) S_moved]^degree of a source: ``moved`` of the order's degrees sit on the
    source; its rows.
    """

    degree_in: int
    moved: int
    degree: int
    rows: slice


def source_moments(order: int, lmax: int) -> list[Moment]:
    """Moments that reach some path: their number of rows is 9, 21, 50 at lmax 2 for order 0, 1,
    2.
    """
    moments, start = [], 0
    paths = coupling_paths(order, lmax)
    for moved in range(order + 1):
        for lam in range(lmax + 1):
            outs = [path.degree_out for path in paths if path.degree_in == lam]
            for degree in range(abs(lam - moved), lam + moved + 1):
                if any(
                    abs(degree - (order - moved)) <= out <= degree + order - moved for out in outs
                ):
                    moments.append(Moment(lam, moved, degree, slice(start, start + 2 * degree + 1)))
                    start += 2 * degree + 1
    return moments


def binomial_scale(order: int, moved: int) -> float:
    """Factor of [S_moved(b) (x) S_(order - moved)(a)] in the solid harmonic S_order(a - b)."""

    def scale(l: int) -> float:
        return math.sqrt(math.factorial(l) / math.prod(range(1, 2 * l, 2)))

    return (
        (-1) ** moved * math.comb(order, moved) * scale(moved) * scale(order - moved) / scale(order)
    )


@table
def source_coupling(order: int, lmax: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Takes the solid harmonics of a source to the matrix from its features to its moments: (moment
    rows, rows, harmonics).
    """
    moments = source_moments(order, lmax)
    matrix = torch.zeros(
        moments[-1].rows.stop, num_rows(lmax), num_rows(order), dtype=torch.float64
    )
    for moment in moments:
        coupling = clebsch_gordan(moment.degree_in, moment.moved, moment.degree)
        matrix[moment.rows, degree_slice(moment.degree_in), degree_slice(moment.moved)] = (
            coupling.permute(2, 0, 1)
        )
    return matrix.to(dtype=dtype, device=device)


@table
def target_coupling(order: int, lmax: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same from the summed moments of a target to the components of all paths: (coupled rows,
    moment rows, harmonics).
    """
    moments = source_moments(order, lmax)
    matrix = torch.zeros(
        coupled_rows(order, lmax), moments[-1].rows.stop, num_rows(order), dtype=torch.float64
    )
    for path in coupling_paths(order, lmax):
        for moment in moments:
            rest = order - moment.moved
            if (
                moment.degree_in != path.degree_in
                or not abs(moment.degree - rest) <= path.degree_out <= moment.degree + rest
            ):
                continue
            factor = (
                math.sqrt(2 * order + 1)
                * binomial_scale(order, moment.moved)
                * recoupling(path, moment, order)
            )
            coupling = clebsch_gordan(moment.degree, rest, path.degree_out)
            matrix[path.rows, moment.rows, degree_slice(rest)] = factor * coupling.permute(2, 0, 1)
    return matrix.to(dtype=dtype, device=device)


def recoupling(path: Path, moment: Moment, order: int) -> float:
    """U of the recoupling: ``[x (x) [S_k (x) S_(l-k)]^l]^L`` in terms of ``[[x (x) S_k]^d (x)
    S_(l-k)]^L``.
    """
    lam, out, k, d = path.degree_in, path.degree_out, moment.moved, moment.degree
    sign = (-1) ** (lam + order + out)
    return (
        sign
        * math.sqrt((2 * d + 1) * (2 * order + 1))
        * wigner_6j(lam, k, d, order - k, out, order)
    )


def node_form(
    order: int, lmax: int, kernel, x: Tensor, weights: Tensor, geometry: NearFieldGeometry
) -> Tensor:
    """The same coupled sums; edges carry ``w / (r^2 + s^2)^(order / 2)`` only."""
    origins, kind = geometry.local_origins, (x.dtype, x.device)
    moments = _couple(
        source_coupling(order, lmax, *kind),
        origins.source_position,
        x.index_select(0, origins.node),
    )
    sums = kernel(origins.edges, geometry.softened_length**-order, weights, moments).squeeze(
        1
    )  # (pairs, moment rows, channels)
    coupled = _couple(target_coupling(order, lmax, *kind), origins.target_position, sums)
    return x.new_zeros(x.shape[0], *coupled.shape[1:]).index_add(0, origins.target, coupled)


def _couple(coupling: Tensor, positions: Tensor, x: Tensor) -> Tensor:
    """Tensor products on nodes: coupling (out, rows, harmonics) and positions (nodes, 3) take x
    (nodes, rows, k) to (nodes, out, k).
    """
    order = round(coupling.shape[-1] ** 0.5) - 1
    matrices = solid_harmonics(positions, order) @ coupling.flatten(0, 1).T
    return torch.bmm(matrices.view(-1, *coupling.shape[:2]), x)


FORMS = {"edge": edge_form, "node": node_form}
CANCELS = (
    "form 'node' subtracts large, nearly equal numbers, which kernel 'flash' rounds to 8 "
    "bits; take 'edge' or 'memory_efficient'"
)


class WignerConvolution(nn.Module):
    """Convolution of one order; the two forms are the same function of the same parameters.

    ``forward(x (nodes, rows, channels_in), weights (edges, channels_in), geometry) -> (nodes, rows,
    channels_out)``. form: a name in ``FORMS``; kernel: a name in ``KERNELS``, how the sum over
    edges is carried out. Raises ValueError for unknown names and for an order no path of which
    reaches a degree up to lmax.
    """

    def __init__(
        self,
        order: int,
        lmax: int,
        channels_in: int,
        channels_out: int,
        form: str = "edge",
        kernel: str = "memory_efficient",
    ):
        super().__init__()
        for name, value, known in (("form", form, FORMS), ("kernel", kernel, KERNELS)):
            if value not in known:
                raise ValueError(
                    f"{name} of a Wigner convolution must be one of {', '.join(known)}, got "
                    f"{value!r}"
                )
        if form == "node" and kernel == "flash":
            raise ValueError(CANCELS)
        if not 0 <= order <= 2 * lmax:
            raise ValueError(
                f"order of a Wigner convolution must be 0 .. {2 * lmax} at lmax {lmax}, got {order}"
            )
        self.order, self.lmax, self.channels_out = order, lmax, channels_out
        self.form, self.kernel = form, kernel
        paths = coupling_paths(order, lmax)
        self.counts = [
            sum(path.degree_out == out for path in paths) for out in range(lmax + 1)
        ]  # paths to each degree
        sizes = [count * channels_in for count in self.counts]
        self.mix = nn.ParameterList(
            torch.randn(size, channels_out) / math.sqrt(max(size, 1)) for size in sizes
        )

    def forward(self, x: Tensor, weights: Tensor, geometry: NearFieldGeometry) -> Tensor:
        """(nodes, rows, channels_in) -> (nodes, rows, channels_out)."""
        coupled = FORMS[self.form](
            self.order, self.lmax, KERNELS[self.kernel], x, weights, geometry
        )
        parts = coupled.split([count * (2 * out + 1) for out, count in enumerate(self.counts)], 1)
        mixed = []
        for out, (part, mix) in enumerate(zip(parts, self.mix, strict=True)):
            mixed.append(
                part.reshape(x.shape[0], 2 * out + 1, mix.shape[0]) @ mix
            )  # (nodes, 2 out + 1, paths channels_in) @ ...
        return torch.cat(mixed, 1)
