"""Equivariant convolution over edges with tensor products on nodes: E2Former's Wigner-6j convolution, in two forms.

The operator of order l, with harmonics S_l of the softened edge direction (``geometry.py``), weights w per edge and channel:

    m_i^L = sum_lam W_(lam,L) sqrt(2 l + 1) sum_j w_ij (.) [x_j^lam (x) S_l(u_ij)]^L,        lam + l + L even,

where [x (x) y]^L couples by the Clebsch-Gordan isometry and W_(lam,L) mixes channels, one matrix for each path.

edge form   The sum over j of w Y_m x_j is formed for each component m of the harmonic, and coupled once on the receiving node.
node form   (Li et al. 2025, E2Former.) With r_ij = r_i - r_j about any origin, the solid harmonic of the difference is a binomial sum,
            S_l(a - b) = sum_k (-1)^k binom(l, k) a_k a_(l-k) / a_l [S_k(b) (x) S_(l-k)(a)]^l,        a_l^2 = l! / (2 l - 1)!!,
            and recoupling moves the source's harmonic to the source and the target's to the target:
            [x (x) [S_k (x) S_(l-k)]^l]^L = sum_d U [[x (x) S_k]^d (x) S_(l-k)]^L,
            U = (-1)^(lam+l+L) sqrt((2 d + 1)(2 l + 1)) {lam k d; l-k L l}.
            Edges carry only weights w / (r^2 + s^2)^(l/2).

Precision of the node form. The binomial sum cancels |r|^l down to |r_ij|^l. Origins are therefore local: a source belongs to the
cube of side ``CUBE`` its (image's) position falls in, and a target keeps one sum for each cube its sources fall in, about that cube's
centre. Centres are multiples of a power of two, so that differences to them are exact, however far the structure is from the origin.

Cost at lmax 2 per edge and channel: 9 (2 l + 1) multiply-adds in the edge form; 9, 28 or 58 for l = 0, 1, 2 in the node form, and
tensor products on nodes and on pairs of target and cube.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.coupling import clebsch_gordan
from models.irreps import degree_slice, num_rows, table
from models.near_field.geometry import NearFieldGeometry
from models.near_field.harmonic_sum import KERNELS


class Path(NamedTuple):
    """Coupling of source degree ``degree_in`` with the kernel to ``degree_out``; ``start`` and ``step`` place its components."""

    degree_in: int
    degree_out: int
    start: int
    step: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + (2 * self.degree_out + 1) * self.step, self.step)


def coupling_paths(order: int, lmax: int) -> list[Path]:
    """Paths of a kernel of degree ``order`` that keep parity, sorted by the degree they reach.

    Components of all paths to one degree are interleaved, row = start + m (paths to that degree), so that (rows, channels) of a degree
    is (2 L + 1, paths channels) without a copy.
    """
    paths, start = [], 0
    for out in range(lmax + 1):
        sources = [lam for lam in range(lmax + 1) if abs(lam - order) <= out <= lam + order and (lam + order + out) % 2 == 0]
        paths += [Path(lam, out, start + position, len(sources)) for position, lam in enumerate(sources)]
        start += len(sources) * (2 * out + 1)
    return paths


def coupled_rows(order: int, lmax: int) -> int:
    """Number of components of all paths."""
    return sum(2 * path.degree_out + 1 for path in coupling_paths(order, lmax))


@table
def edge_coupling(order: int, lmax: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Couples the sums of the edge form: (coupled rows, (2 order + 1) rows)."""
    matrix = torch.zeros(coupled_rows(order, lmax), 2 * order + 1, num_rows(lmax), dtype=torch.float64)
    for path in coupling_paths(order, lmax):
        coupling = math.sqrt(2 * order + 1) * clebsch_gordan(path.degree_in, order, path.degree_out)
        matrix[path.rows, :, degree_slice(path.degree_in)] = coupling.permute(2, 1, 0)
    return matrix.flatten(1).to(dtype=dtype, device=device)


def edge_form(order: int, lmax: int, kernel, x: Tensor, weights: Tensor, geometry: NearFieldGeometry) -> Tensor:
    """Coupled sums (nodes, coupled rows, channels) of x (nodes, rows, channels) with weights (edges, channels)."""
    harmonics = geometry.harmonics(order)[:, degree_slice(order)]
    sums = kernel(geometry.neighbourhoods, harmonics, weights, x)  # (nodes, 2 order + 1, rows, channels)
    return edge_coupling(order, lmax, x.dtype, x.device) @ sums.flatten(1, 2)


FORMS = {"edge": edge_form}


class WignerConvolution(nn.Module):
    """Convolution of one order; the two forms are the same function of the same parameters.

    ``forward(x (nodes, rows, channels_in), weights (edges, channels_in), geometry) -> (nodes, rows, channels_out)``.
    form: a name in ``FORMS``; kernel: a name in ``KERNELS``, how the sum over edges is carried out. Raises ValueError for unknown names
    and for an order no path of which reaches a degree up to lmax.
    """

    def __init__(self, order: int, lmax: int, channels_in: int, channels_out: int, form: str = "edge", kernel: str = "memory_efficient"):
        super().__init__()
        for name, value, known in (("form", form, FORMS), ("kernel", kernel, KERNELS)):
            if value not in known:
                raise ValueError(f"{name} of a Wigner convolution must be one of {', '.join(known)}, got {value!r}")
        if not 0 <= order <= 2 * lmax:
            raise ValueError(f"order of a Wigner convolution must be 0 .. {2 * lmax} at lmax {lmax}, got {order}")
        self.order, self.lmax, self.channels_out = order, lmax, channels_out
        self.form, self.kernel = form, kernel
        paths = coupling_paths(order, lmax)
        self.counts = [sum(path.degree_out == out for path in paths) for out in range(lmax + 1)]  # paths to each degree
        sizes = [count * channels_in for count in self.counts]
        self.mix = nn.ParameterList(torch.randn(size, channels_out) / math.sqrt(max(size, 1)) for size in sizes)

    def forward(self, x: Tensor, weights: Tensor, geometry: NearFieldGeometry) -> Tensor:
        """(nodes, rows, channels_in) -> (nodes, rows, channels_out)."""
        coupled = FORMS[self.form](self.order, self.lmax, KERNELS[self.kernel], x, weights, geometry)
        parts = coupled.split([count * (2 * out + 1) for out, count in enumerate(self.counts)], 1)
        mixed = []
        for out, (part, mix) in enumerate(zip(parts, self.mix, strict=True)):
            mixed.append(part.reshape(x.shape[0], 2 * out + 1, mix.shape[0]) @ mix)  # (nodes, 2 out + 1, paths channels_in) @ ...
        return torch.cat(mixed, 1)
