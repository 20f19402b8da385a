"""The far field's sum over all periodic images, in reciprocal space. Call: ``expansions.py``.

A kernel of the open system is a quadrature of a Fourier-Bessel integral over (0, kappa_max],
kappa_q and w_q its Gauss-Legendre nodes and weights, and the integral is what a crystal needs,
because its spectrum can be read at any wave number:

    sum_q a_q j_l(kappa_q r)  ~  (1 / 2 pi^2) int k^2 dk g_l(k) j_l(k r),    g_l(k) = 2 pi^2 A_l(k)
                              t(k) / k^2,  A_l(kappa_q) = a_lq / w_q.

A_l is the polynomial through its values at the nodes, summed in Legendre polynomials (Gauss
quadrature is exact for their products):

    A_l(k) = sum_(n < Q) (2 n + 1) / kappa_max P_n(2 k / kappa_max - 1)
             sum_q P_n(2 kappa_q / kappa_max - 1) a_lq.

t is 1 up to 0.8 kappa_max and falls to 0 at kappa_max with two continuous derivatives: nothing
jumps when a strained cell moves a reciprocal vector into the sphere. By the plane-wave expansion
and Poisson's formula, with rows of H the lattice vectors and V = |det H|,

    sum over images n of K_lm(r + n H) = (1 / V) sum_k g_l(|k|) Y_lm(k^) Re[(-i)^l exp(i k.r)],
    k in 2 pi Z^3 H^-T,      0 < |k| < kappa_max.

The atom's own images are in the sum. The term k = 0, which only l = 0 has, is left out: every key x
value acts together with a uniform background of the opposite sign (tin-foil boundary for l >= 1).
Half of the sphere is enough by symmetry. Source and target factors are cos k.r and sin k.r of
single atoms; phases are ``2 pi n . (r H^-1 mod 1)``, blind to wrapping and precise in float32.

Source: Ewald's reciprocal sum; Frenkel & Smit, Understanding Molecular Simulation, 12.1. Cost:
``readout.py`` with 2 K moments, K = V kappa_max^3 / (12 pi^2) vectors: atoms x volume, quadratic
for a growing cell of one density. Geometry is made for a batch at once, sums are made graph by
graph: faster than one padded sum for all, whose spectra differ.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor, nn

from farfield.models.far_field.expansion import ExpansionOptions
from farfield.models.graph_ops import GraphIndex, broadcast_nodes
from farfield.models.kernels.moments import MomentReadout
from farfield.models.layers.radial import polynomial_envelope
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, num_rows, table

FLAT = 0.8  # part of kappa_max up to which the spectrum is not tapered
SKEWEST = 1e-6  # volume over the product of the three lengths, at least


def periodic_cell(graphs: int, cell: Tensor | None, periodic: Tensor | None) -> Tensor | None:
    """Cells (graphs, 3, 3) of a batch that is periodic, None of one that is open.

    periodic: (graphs, 3) bool, None for all directions wherever there is a cell. Raises ValueError
    in one line for slabs and wires, for open and periodic structures in one batch, for periodic
    directions without a cell, and for shapes that do not fit.
    """
    if periodic is not None:
        if periodic.shape != (graphs, 3) or periodic.dtype != torch.bool:
            raise ValueError(
                f"periodic must be ({graphs}, 3) bool, got {tuple(periodic.shape)} {periodic.dtype}"
            )
        directions = periodic.sum(1)
        mixed = (directions != 0) & (directions != 3)
        if mixed.any():
            first = int(mixed.nonzero()[0])
            raise ValueError(
                "the far field serves structures that are periodic in all three directions or "
                f"in none, got {periodic[first].tolist()} "
                f"for structure {first} (a slab or wire): make it periodic in all three with "
                "vacuum in its cell"
            )
        if not periodic.any():
            return None
        if not periodic.all():
            count = int((directions == 3).sum())
            reason = (
                "the far field takes batches that are open or periodic as a whole, got "
                f"{count} periodic of {graphs} structures"
            )
            raise ValueError(
                f"{reason}; train on one kind, or with the near field alone, e.g. --schedule "
                "first-order2"
            )
        if cell is None:
            raise ValueError(
                f"{graphs} periodic structures need their cells ({graphs}, 3, 3), got none"
            )
    return cell


def reciprocal_vectors(cell: Tensor, kappa_max: float) -> tuple[Tensor, Tensor]:
    """Integer vectors n of one of each pair +-k with 0 < |k| < kappa_max, for cells (graphs, 3, 3).

    Returns n (graphs, K, 3) float64, filled up with (1, 0, 0), and which of them count (graphs, K)
    bool; K >= 1 is the largest number. ``k . a = 2 pi n_a`` bounds n_a by the length of lattice
    vector a.
    """
    cell = cell.detach().double()
    bounds = (cell.norm(dim=2).amax(0) * (kappa_max / (2 * math.pi))).int().tolist()
    box = torch.cartesian_prod(
        *(
            torch.arange(-bound, bound + 1, dtype=torch.float64, device=cell.device)
            for bound in bounds
        )
    )
    box = box[
        box.shape[0] // 2 + 1 :
    ]  # in lexical order: what stands behind (0, 0, 0) is the opposite of what stands before
    inside = _wave_vectors(box, cell).norm(dim=2) < kappa_max  # (graphs, box)
    graph, which = inside.nonzero(as_tuple=True)
    counts = inside.sum(1)
    column = inside.cumsum(1)[graph, which] - 1
    vectors = cell.new_tensor([1.0, 0.0, 0.0]).repeat(cell.shape[0], max(1, int(counts.max())), 1)
    vectors[graph, column] = box[which]
    return vectors, torch.arange(vectors.shape[1], device=cell.device) < counts[:, None]


def _wave_vectors(vectors: Tensor, cell: Tensor) -> Tensor:
    """``k = 2 pi n H^-T``: (graphs, K, 3)."""
    return 2 * math.pi * (vectors @ torch.linalg.inv(cell).transpose(1, 2))


def _legendre(x: Tensor, count: int) -> Tensor:
    """``P_0 .. P_(count - 1)`` of x (...): (..., count)."""
    values = [torch.ones_like(x), x]
    for n in range(2, count):
        values.append(((2 * n - 1) * x * values[-1] - (n - 1) * values[-2]) / n)
    return torch.stack(values[:count], -1)


@table
def _series(count: int, kappa_max: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Coefficients a_q to the Legendre series of A: (n, q)."""
    nodes = torch.from_numpy(np.polynomial.legendre.leggauss(count)[0])
    weight = (2 * torch.arange(count, dtype=torch.float64) + 1) / kappa_max
    return (_legendre(nodes, count).T * weight[:, None]).to(device, dtype)


def band_limit(wave_numbers: tuple[float, ...]) -> float:
    """kappa_max of which the wave numbers are the Gauss-Legendre nodes of (0, kappa_max];
    ValueError if they are none.
    """
    kappa = np.asarray(wave_numbers)
    limit = 2 * float(kappa.mean())
    nodes = limit * (np.polynomial.legendre.leggauss(len(kappa))[0] + 1) / 2
    if not (limit > 0 and np.allclose(kappa, nodes, rtol=0, atol=1e-6 * limit)):
        raise ValueError(
            "expansion 'lattice' needs the Gauss-Legendre nodes of (0, kappa_max], got "
            f"{len(kappa)} wave numbers "
            f"{kappa[0]:.4g} .. {kappa[-1]:.4g}: use fmm_kappa_grid gauss_legendre with "
            "fmm_kappa_min 0"
        )
    return limit


class LatticeExpansion(nn.Module):
    """The sum over all periodic images (module text): the parameters of an open system, exact for
    any cell, equivariant to rounding.

    ``options.budget`` bounds the readout's temporaries; tolerance and radius have no meaning here,
    nothing is truncated. If no reciprocal vector of a cell is shorter than kappa_max (all its
    planes are closer than ``2 pi / kappa_max``), its far field is exactly zero; one warning says
    so.
    """

    def __init__(
        self, wave_numbers: tuple[float, ...], lmax: int, options: ExpansionOptions | None = None
    ):
        super().__init__()
        self.kappa_max = band_limit(wave_numbers)
        self.wave_numbers, self.lmax = wave_numbers, lmax
        self.readout = MomentReadout((options or ExpansionOptions()).budget)
        self.register_buffer("degree", degree_of_row(lmax), persistent=False)
        self._warned = False

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
        """The sum over all images, k = 0 left out; shapes as in ``expansions.py``. Raises
        ValueError without cells and for flat ones.
        """
        self._check(graph, cell)
        if not graph.num_nodes:
            return values.new_zeros(0, values.shape[1], num_rows(self.lmax), values.shape[2])
        vectors, counted = reciprocal_vectors(cell, self.kappa_max)
        self._warn_of_empty_spheres(cell, counted)
        spectrum, harmonics = self._spectrum(vectors, counted, cell.double(), coefficients)
        sizes, counts = graph.sizes, counted.sum(1).clamp_min(1).tolist()
        parts = (
            tensor.split(sizes)
            for tensor in (
                self._phases(graph, positions, vectors, cell.double()),
                queries,
                keys,
                values,
            )
        )
        each = zip(sizes, counts, *parts, spectrum.unbind(0), harmonics.unbind(0), strict=True)
        return torch.cat([self._one(size, count, *rest) for size, count, *rest in each if size])

    def _spectrum(
        self, vectors: Tensor, counted: Tensor, cell: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``+-2 g_lh(|k|) / V`` (graphs, K, l, heads), with the sign that (-i)^l has beside cos and
        sin, and Y(k^) (graphs, K, rows).
        """
        wave_vector = _wave_vectors(vectors, cell)
        length = torch.where(counted, wave_vector.norm(dim=2), self.kappa_max)
        scaled = length / self.kappa_max
        taper = polynomial_envelope(((scaled - FLAT) / (1 - FLAT)).clamp_min(0), power=3)
        weight = 4 * math.pi**2 * taper / (torch.linalg.det(cell).abs()[:, None] * length.square())
        dtype, count = coefficients.dtype, len(self.wave_numbers)
        series = (
            coefficients @ _series(count, self.kappa_max, dtype, coefficients.device).T
        )  # (l, heads, n)
        shape = (weight.unsqueeze(-1) * _legendre(2 * scaled - 1, count)).to(dtype)
        signs = coefficients.new_tensor([(-1) ** (l // 2) for l in range(self.lmax + 1)])
        spectrum = torch.einsum("gkn,lhn,l->gklh", shape, series, signs)
        return spectrum, spherical_harmonics(wave_vector, self.lmax).to(dtype)

    @staticmethod
    def _phases(graph: GraphIndex, positions: Tensor, vectors: Tensor, cell: Tensor) -> Tensor:
        """k.r, the atoms wrapped into their cells: (nodes, K)."""
        inverse = broadcast_nodes(graph, torch.linalg.inv(cell))
        fractional = (positions.double().unsqueeze(1) @ inverse).squeeze(1)
        fractional = (fractional - fractional.detach().floor()).to(positions.dtype)
        own = broadcast_nodes(graph, vectors.to(positions.dtype))  # (nodes, K, 3)
        return 2 * math.pi * (own @ fractional.unsqueeze(-1)).squeeze(-1)

    def _one(
        self,
        size: int,
        count: int,
        phases: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        spectrum: Tensor,
        harmonics: Tensor,
    ) -> Tensor:
        """Graph of ``size`` atoms, its first ``count`` vectors, spectrum (K, l, heads), harmonics
        (K, rows) -> (atoms, heads, rows, V).
        """
        cosine, sine = phases[:, :count].cos(), phases[:, :count].sin()
        even, odd = (
            torch.cat([cosine, sine], 1),
            torch.cat([sine, -cosine], 1),
        )  # sin k.(r - s) = sin k.r cos k.s - cos k.r sin k.s
        targets = torch.stack([even, odd], 1).index_select(1, self.degree % 2)  # (atoms, rows, 2 K)
        scale = torch.einsum(
            "krh,kr->hrk", spectrum[:count].index_select(1, self.degree), harmonics[:count]
        ).repeat(1, 1, 2)
        moments = self.readout((size,), even, keys, values)
        return self.readout.read_back((size,), targets, scale, queries, moments)

    @staticmethod
    def _check(graph: GraphIndex, cell: Tensor | None) -> None:
        if cell is None:
            raise ValueError(
                "expansion 'lattice' needs periodic cells (graphs, 3, 3), got none; choose "
                "'multipole' for open systems"
            )
        if cell.shape != (graph.num_graphs, 3, 3):
            raise ValueError(
                f"cell must be ({graph.num_graphs}, 3, 3), rows are lattice vectors, got "
                f"{tuple(cell.shape)}"
            )
        volume = torch.linalg.det(cell.detach().double()).abs()
        flat = ~(volume > SKEWEST * cell.detach().double().norm(dim=2).prod(1))
        if flat.any():
            first = int(flat.nonzero()[0])
            raise ValueError(
                f"the cell of structure {first} is singular: |det| = {float(volume[first]):.3g} "
                "Angstrom^3, "
                f"must exceed {SKEWEST:g} of the product of its lengths"
            )

    def _warn_of_empty_spheres(self, cell: Tensor, counted: Tensor) -> None:
        """One warning, the first time no reciprocal vector of a cell lies below kappa_max."""
        empty = None if self._warned else ~counted.any(1)
        if empty is None or not empty.any():
            return
        shortest = float(
            2 * math.pi * torch.linalg.inv(cell.detach()[empty].double()).norm(dim=1).amin(1).max()
        )
        warnings.warn(
            f"{int(empty.sum())} of {empty.shape[0]} cells have no reciprocal vector below "
            f"kappa_max {self.kappa_max:.3g} / Angstrom: "
            f"their far field is exactly zero; set fmm_kappa_max above {shortest:.3g} or leave "
            "it to the near field",
            stacklevel=3,
        )
        self._warned = True

    def extra_repr(self) -> str:
        return f"lmax={self.lmax}, kappa_max={self.kappa_max:.3g}"
