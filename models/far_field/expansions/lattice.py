"""The far field's sum over all periodic images, in reciprocal space.

Formula of the sum over one image: ``expansion.py``. A kernel of the open system is a quadrature of
a Fourier-Bessel integral over (0, kappa_max], kappa_q and w_q its Gauss-Legendre nodes and weights.
The integral is what a crystal needs, because its spectrum can be read at any wave number:

    sum_q a_lq j_l(kappa_q r)  ~  (1 / 2 pi^2) int k^2 dk g_l(k) j_l(k r),
    g_l(k) = 2 pi^2 A_l(k) t(k) / k^2,        A_l(kappa_q) = a_lq / w_q.

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

Source: Ewald's reciprocal sum; Frenkel & Smit, Understanding Molecular Simulation, 12.1.

Cost: ``models/kernels/moments.py`` with 2 K moments, K = V kappa_max^3 / (12 pi^2) vectors: atoms x
volume, quadratic for a growing cell of one density. Geometry is computed for a whole batch, sums
graph by graph: faster than one padded sum, because spectra differ from graph to graph.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from farfield.models.far_field.expansion import EXPANSIONS, Expansion, ExpansionOptions
from farfield.models.far_field.spectral_shapes import SpectralShape
from farfield.models.graph_ops import GraphIndex, broadcast_nodes
from farfield.models.kernels.moments import MomentReadout
from farfield.models.layers.radial import polynomial_envelope
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, num_rows, table

TAPER_START = 0.8  # fraction of kappa_max from which on t falls
SMALLEST_VOLUME = 1e-6  # of a cell, as a fraction of the product of its three lengths


def periodic_cell(graphs: int, cell: Tensor | None, periodic: Tensor | None) -> Tensor | None:
    """The cells (graphs, 3, 3) of a periodic batch, None of an open one.

    periodic: (graphs, 3) bool; None means all directions wherever there is a cell. Raises
    ValueError in one line for slabs and wires, for open and periodic structures in one batch, for
    periodic directions without a cell, and for shapes that do not fit.
    """
    if periodic is None:
        return cell
    if periodic.shape != (graphs, 3) or periodic.dtype != torch.bool:
        raise ValueError(
            f"periodic must be ({graphs}, 3) bool, got {tuple(periodic.shape)} {periodic.dtype}"
        )

    directions = periodic.sum(1)  # periodic directions of each structure
    mixed = (directions != 0) & (directions != 3)
    if mixed.any():
        first = int(mixed.nonzero()[0])
        raise ValueError(
            "the far field serves structures that are periodic in all three directions or in "
            f"none, got {periodic[first].tolist()} for structure {first} (a slab or wire): make it "
            "periodic in all three with vacuum in its cell"
        )
    if not periodic.any():
        return None
    if not periodic.all():
        count = int((directions == 3).sum())
        raise ValueError(
            "the far field takes batches that are open or periodic as a whole, got "
            f"{count} periodic of {graphs} structures; train on one kind, or with the near field "
            "alone, e.g. --schedule first-order2"
        )
    if cell is None:
        raise ValueError(
            f"{graphs} periodic structures need their cells ({graphs}, 3, 3), got none"
        )
    return cell


def reciprocal_vectors(
    cell: Tensor, kappa_max: float, with_zero: bool = False
) -> tuple[Tensor, Tensor]:
    """Integer vectors n of one of each pair +-k with 0 < |k| < kappa_max.

    cell: (graphs, 3, 3). with_zero: k = 0 comes first. Returns n (graphs, K, 3) float64, filled up
    with (1, 0, 0), and which of them count (graphs, K) bool; K >= 1 is the largest number of a
    graph.
    """
    cell = cell.detach().double()

    # k . a = 2 pi n_a bounds n_a by the length of lattice vector a.
    bounds = (cell.norm(dim=2).amax(0) * (kappa_max / (2 * math.pi))).int().tolist()
    axes = [
        torch.arange(-bound, bound + 1, dtype=torch.float64, device=cell.device) for bound in bounds
    ]
    box = torch.cartesian_prod(*axes)
    # In lexical order, what stands behind (0, 0, 0) is the opposite of what stands before it.
    box = box[box.shape[0] // 2 + (0 if with_zero else 1) :]

    # The vectors inside the sphere of each graph move to the front of its row.
    inside = _wave_vectors(box, cell).norm(dim=2) < kappa_max  # (graphs, box)
    counts = inside.sum(1)
    graph, which = inside.nonzero(as_tuple=True)
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
    """The matrix from coefficients a_q to the Legendre series of A: (n, q)."""
    nodes = torch.from_numpy(np.polynomial.legendre.leggauss(count)[0])
    weight = (2 * torch.arange(count, dtype=torch.float64) + 1) / kappa_max
    return (_legendre(nodes, count).T * weight[:, None]).to(device, dtype)


def band_limit(wave_numbers: tuple[float, ...]) -> float:
    """The kappa_max for which ``wave_numbers`` are the Gauss-Legendre nodes of (0, kappa_max].

    Raises ValueError if there is none.
    """
    kappa = np.asarray(wave_numbers)
    limit = 2 * float(kappa.mean())
    nodes = limit * (np.polynomial.legendre.leggauss(len(kappa))[0] + 1) / 2
    if not (limit > 0 and np.allclose(kappa, nodes, rtol=0, atol=1e-6 * limit)):
        raise ValueError(
            "expansion 'lattice' needs the Gauss-Legendre nodes of (0, kappa_max], got "
            f"{len(kappa)} wave numbers {kappa[0]:.4g} .. {kappa[-1]:.4g}: use kappa_grid "
            "gauss_legendre with kappa_min 0"
        )
    return limit


@EXPANSIONS.register("lattice")
class LatticeExpansion(Expansion):
    """The sum over all periodic images, with the parameters of an open system.

    Exact for any cell and equivariant up to rounding: nothing is truncated, so the tolerance and
    the radius of ``options`` do not matter, and ``options.budget`` bounds temporaries. If no
    reciprocal vector of a cell is shorter than kappa_max (all its planes are closer than
    ``2 pi / kappa_max``), its far field is exactly zero, and one warning says so.
    """

    cells = "needed"
    wider = "a larger far_kappa_max"  # what widens the sphere
    with_zero = False  # whether k = 0 is in the sum: it is for a kernel that has an integral

    @classmethod
    def of_shape(cls, shape: SpectralShape, options: ExpansionOptions) -> LatticeExpansion:
        """The sum with the transform of the kernel itself, read at every vector."""
        return ShapeLattice(shape, options)

    def __init__(
        self, wave_numbers: tuple[float, ...], lmax: int, options: ExpansionOptions | None = None
    ):
        super().__init__(wave_numbers, lmax, options)
        self.kappa_max = band_limit(wave_numbers)
        self.readout = MomentReadout(self.options.budget)
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
        """See :meth:`Expansion.forward`; needs cells, and refuses flat ones."""
        self.check_cell(graph, cell)
        check_volume(cell)
        if not graph.num_nodes:
            return values.new_zeros(0, values.shape[1], num_rows(self.lmax), values.shape[2])

        # Geometry of the whole batch, in float64 where it decides which vectors there are.
        vectors, counted = reciprocal_vectors(cell, self.kappa_max, self.with_zero)
        self._warn_of_empty_spheres(cell, counted)
        spectrum, harmonics = self._spectrum(vectors, counted, cell.double(), coefficients)
        phases = self._phases(graph, positions, vectors, cell.double())

        # Sums graph by graph, each with its own number of vectors.
        sizes, counts = graph.sizes, counted.sum(1).clamp_min(1).tolist()
        nodes = (tensor.split(sizes) for tensor in (phases, queries, keys, values))
        each = zip(sizes, counts, *nodes, spectrum.unbind(0), harmonics.unbind(0), strict=True)
        return torch.cat(
            [self._sum_graph(size, count, *parts) for size, count, *parts in each if size]
        )

    def expected_error(self, radius: float) -> float:
        """0.0: the sum over images is exact."""
        return 0.0

    def transform(self, kappa: Tensor, coefficients: Tensor) -> Tensor:
        """``g_lh(k)`` of kappa (...) > 0, float64: (lmax + 1, heads, ...).

        A_l by its Legendre series, times t and ``2 pi^2 / k^2``.
        """
        scaled = kappa / self.kappa_max
        falling = ((scaled - TAPER_START) / (1 - TAPER_START)).clamp_min(0)
        taper = polynomial_envelope(falling, power=3)
        weight = 2 * math.pi**2 * taper / kappa.square()

        dtype, count = coefficients.dtype, len(self.wave_numbers)
        to_series = _series(count, self.kappa_max, dtype, coefficients.device)
        series = coefficients @ to_series.T  # (l, heads, n)
        shape = (weight.unsqueeze(-1) * _legendre(2 * scaled - 1, count)).to(dtype)
        return torch.einsum("...n,lhn->lh...", shape, series)

    def _spectrum(
        self, vectors: Tensor, counted: Tensor, cell: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``+-2 g_lh(|k|) / V`` (graphs, K, l, heads) and Y(k^) (graphs, K, rows).

        The sign is what (-i)^l leaves to cosines and sines; the 2 counts -k, which k = 0 lacks.
        """
        wave_vector = _wave_vectors(vectors, cell)
        zero = ~vectors.any(2)
        x_axis = cell.new_tensor([1.0, 0.0, 0.0])
        harmonics = spherical_harmonics(
            torch.where(zero.unsqueeze(2), x_axis, wave_vector), self.lmax
        )
        length = torch.where(counted & ~zero, wave_vector.norm(dim=2), 0.0)
        length = torch.where(counted, length, self.kappa_max)

        # padded vectors are cut off later, per graph
        transform = self.transform(length, coefficients)  # (l, heads, graphs, K)
        weight = torch.where(zero, 1.0, 2.0) / torch.linalg.det(cell).abs()[:, None]
        signs = coefficients.new_tensor([(-1) ** (l // 2) for l in range(self.lmax + 1)])
        spectrum = torch.einsum("lhgk,gk,l->gklh", transform, weight.to(transform), signs)
        return spectrum, harmonics.to(coefficients.dtype)

    @staticmethod
    def _phases(graph: GraphIndex, positions: Tensor, vectors: Tensor, cell: Tensor) -> Tensor:
        """k.r with the atoms wrapped into their cells: (nodes, K)."""
        inverse = broadcast_nodes(graph, torch.linalg.inv(cell))
        fractional = (positions.double().unsqueeze(1) @ inverse).squeeze(1)  # (nodes, 3)
        fractional = (fractional - fractional.detach().floor()).to(positions.dtype)
        own = broadcast_nodes(graph, vectors.to(positions.dtype))  # (nodes, K, 3)
        return 2 * math.pi * (own @ fractional.unsqueeze(-1)).squeeze(-1)

    def _sum_graph(
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
        """The sum of one graph of ``size`` atoms and ``count`` vectors: (atoms, heads, rows, V).

        phases: (atoms, K). spectrum: (K, l, heads). harmonics: (K, rows).
        """
        # sin k.(r - s) = sin k.r cos k.s - cos k.r sin k.s, and the cosine of even degrees.
        cosine, sine = phases[:, :count].cos(), phases[:, :count].sin()
        even = torch.cat([cosine, sine], 1)  # (atoms, 2 K)
        odd = torch.cat([sine, -cosine], 1)
        targets = torch.stack([even, odd], 1).index_select(1, self.degree % 2)  # (atoms, rows, 2 K)

        own = spectrum[:count].index_select(1, self.degree)  # (K, rows, heads)
        scale = torch.einsum("krh,kr->hrk", own, harmonics[:count]).repeat(1, 1, 2)
        moments = self.readout((size,), even, keys, values)
        return self.readout.read_back((size,), targets, scale, queries, moments)

    def _warn_of_empty_spheres(self, cell: Tensor, counted: Tensor) -> None:
        """Warn the first time no reciprocal vector of a cell lies below kappa_max."""
        if self._warned:
            return
        empty = ~counted.any(1)
        if not empty.any():
            return

        # Columns of the inverse are the reciprocal basis, over 2 pi.
        inverse = torch.linalg.inv(cell.detach()[empty].double())
        shortest = float(2 * math.pi * inverse.norm(dim=1).amin(1).max())
        warnings.warn(
            f"{int(empty.sum())} of {empty.shape[0]} cells have no reciprocal vector below "
            f"kappa_max {self.kappa_max:.3g} / Angstrom, all are above {shortest:.3g}: their far "
            f"field is exactly zero; give {self.wider}, or leave it to the near field",
            stacklevel=3,
        )
        self._warned = True

    def extra_repr(self) -> str:
        return f"lmax={self.lmax}, kappa_max={self.kappa_max:.3g}"


class ShapeLattice(LatticeExpansion):
    """The sum over images of a kernel whose transform is a function.

    shape: of the densities. A kernel that ends has the term k = 0, so that the sum is that over
    all images; one with a tail leaves it out, as charges in a uniform background do.
    """

    def __init__(self, shape: SpectralShape, options: ExpansionOptions):
        Expansion.__init__(self, (), shape.lmax, options)
        self.shape, self.kappa_max = shape, shape.kappa_max
        self.with_zero = math.isfinite(shape.reach)
        self.readout = MomentReadout(self.options.budget)
        self.register_buffer("degree", degree_of_row(shape.lmax), persistent=False)
        self.wider = "a smaller far_range"
        self._warned = self.with_zero  # its sphere is never empty

    def transform(self, kappa: Tensor, coefficients: Tensor) -> Tensor:
        """``g_lh(k)`` of kappa (...): (lmax + 1, heads, ...)."""
        return self.shape.transform(kappa, coefficients).to(coefficients)


def check_volume(cell: Tensor) -> None:
    """Raise ValueError for the first singular cell of a batch."""
    cell = cell.detach().double()
    volume = torch.linalg.det(cell).abs()
    flat = ~(volume > SMALLEST_VOLUME * cell.norm(dim=2).prod(1))
    if flat.any():
        first = int(flat.nonzero()[0])
        raise ValueError(
            f"the cell of structure {first} is singular: |det| = {float(volume[first]):.3g} "
            f"Angstrom^3, must exceed {SMALLEST_VOLUME:g} of the product of its lengths"
        )
