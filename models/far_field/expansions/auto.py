"""The cheapest expansion for each graph.

A kernel that is a function of the wave number goes by pairs, by wave vectors or on a grid
(:class:`ShapeAuto`). Standing waves at fixed wave numbers go by pairs, large structures by
multipole moments, crystals by the lattice sum. Their times of forward and backward in nanoseconds,
for n atoms, H heads of d key features and V values, Q wave numbers, t = (lmax + 1)^2 kernel
components, P moments and W waves:

    pairwise    1.6e6 + n^2 (12 Q (lmax + 1) + 6.7 H t + 0.06 H t V), the second part x 1.6 if the
                pairs need more than one chunk
    multipole   4.1e6 + 3 P H d V + n (94 W + 5 P t H + 0.15 P H V (2 d + t))

Measured on one thread of an AMD EPYC in float32: least squares of relative errors over eight shapes
and 20 .. 900 atoms, mostly within 20 %. ``benchmarks/speed/bench_far_field.py`` compares the choice
with both. A choice depends on the structure alone, never on its batch, so a structure gets the same
answer in every batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from farfield.models.far_field.expansion import EXPANSIONS, Expansion, ExpansionOptions
from farfield.models.far_field.expansions.image_pairs import ImagePairs
from farfield.models.far_field.expansions.lattice import LatticeExpansion
from farfield.models.far_field.expansions.mesh import MeshExpansion
from farfield.models.far_field.expansions.multipole import MultipoleExpansion
from farfield.models.far_field.expansions.pairwise import PairwiseExpansion
from farfield.models.far_field.extent_sum import ExtentSum, subgraphs
from farfield.models.far_field.spectral_shapes import SpectralShape
from farfield.models.graph_ops import GraphIndex
from farfield.models.so3.irreps import num_rows
from farfield.models.tracing import NotTraceableError, is_tracing

# Where the sums cost about the same. benchmarks/speed/bench_far_scaling.py compares them: clusters
# with --option far_expansion=pairwise and mesh, water with lattice and mesh.
PAIRS_ATOMS = 800
LATTICE_ATOMS = 150
PAIR_COST = 80.0  # ns a pair, with derivatives
LATTICE_START, LATTICE_COST = 5e6, 150.0  # ns, and ns an atom and wave vector


def summed_by(
    chosen: Sequence[nn.Module],
    graph: GraphIndex,
    atoms: tuple[Tensor, ...],
    coefficients: Tensor,
    cell: Tensor | None = None,
) -> Tensor:
    """The sums of all graphs, each by the expansion that is ``chosen`` for it (graphs,).

    atoms: positions, queries, keys and values, in the order of ``Expansion.forward``. Graphs of one
    expansion go together as a batch, and rows come back in order.
    """
    kinds = list(dict.fromkeys(chosen))
    if len(kinds) == 1:
        return kinds[0](graph, *atoms, coefficients, cell)

    found, places = [], []
    for expansion in kinds:
        own = torch.tensor([one is expansion for one in chosen], device=atoms[0].device)
        part, nodes = subgraphs(graph, own)
        rows = [tensor.index_select(0, nodes) for tensor in atoms]
        cells = None if cell is None else cell[own]
        found.append(expansion(part, *rows, coefficients, cells))
        places.append(nodes)
    return torch.cat(found).index_select(0, torch.cat(places).argsort())


@EXPANSIONS.register("auto")
class AutoExpansion(Expansion):
    """Each graph by the expansion that the cost model calls cheaper, crystals by the lattice sum.

    Cells raise ValueError if the wave numbers do not suit the lattice sum.
    """

    cells = "accepted"

    @classmethod
    def of_shape(cls, shape: SpectralShape, options: ExpansionOptions) -> ShapeAuto:
        """Pairs, the lattice sum or the grid, by size; see :class:`ShapeAuto`."""
        return ShapeAuto(shape, options)

    def __init__(
        self, wave_numbers: tuple[float, ...], lmax: int, options: ExpansionOptions | None = None
    ):
        super().__init__(wave_numbers, lmax, options)
        self.pairwise = PairwiseExpansion(wave_numbers, lmax, options)
        self.multipole = MultipoleExpansion(wave_numbers, lmax, options)
        self.lattice: LatticeExpansion | None = None
        self._no_lattice = ""
        try:
            self.lattice = LatticeExpansion(wave_numbers, lmax, options)
        except ValueError as refusal:  # wave numbers that only open systems can have
            self._no_lattice = str(refusal)

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
        """See :meth:`Expansion.forward`; takes batches with and without cells."""
        self.check_cell(graph, cell)
        if cell is not None:
            if self.lattice is None:
                raise ValueError(self._no_lattice)
            return self.lattice(graph, positions, queries, keys, values, coefficients, cell)

        atoms = (positions, queries, keys, values)
        heads, features = queries.shape[1:]
        sizes = torch.tensor(graph.sizes)
        by_pairs = self.prefers_pairs(sizes, heads, features, values.shape[2]).tolist()
        chosen = [self.pairwise if pairs else self.multipole for pairs in by_pairs]
        return summed_by(chosen or [self.pairwise], graph, atoms, coefficients)

    def expected_error(self, radius: float) -> float:
        """Error of the multipole expansion: pairs and the lattice sum are exact."""
        return self.multipole.expected_error(radius)

    def prefers_pairs(self, sizes: Tensor, heads: int, keys: int, values: int) -> Tensor:
        """Whether graphs of ``sizes`` atoms are cheaper pair by pair: bool, the shape of ``sizes``.

        keys, values: key features and values of a head.
        """
        rows = num_rows(self.lmax)
        moments = self.multipole.moments
        waves = self.multipole.row.numel()
        size = sizes.double()

        # The two formulas of the text above, term by term.
        bessel = 12 * len(self.wave_numbers) * (self.lmax + 1)
        per_pair = bessel + 6.7 * heads * rows + 0.06 * heads * rows * values
        elements = size.square() * self.pairwise.elements_per_pair(heads)
        in_chunks = elements > self.pairwise.options.budget
        pairs = 1.6e6 + per_pair * size.square() * torch.where(in_chunks, 1.6, 1.0)

        factors = 94 * waves + 5 * moments * rows * heads
        per_atom = factors + 0.15 * moments * heads * values * (2 * keys + rows)
        multipoles = 4.1e6 + 3 * moments * heads * keys * values + per_atom * size
        return pairs < multipoles


class ShapeAuto(Expansion):
    """The same choice for a kernel whose density is a function.

    Open: pairs, or the grid for more than ``PAIRS_ATOMS`` atoms where the kernel ends. Periodic:
    the lattice sum, pairs with images where these are fewer (few atoms in a wide cell), or the grid
    for more than ``LATTICE_ATOMS`` atoms. A structure that is spread so thinly that the grid has
    more points than there are pairs goes by pairs.
    """

    cells = "accepted"

    def __init__(self, shape: SpectralShape, options: ExpansionOptions):
        super().__init__((), shape.lmax, options)
        self.shape, self.ends = shape, math.isfinite(shape.reach)
        pairs = PairwiseExpansion.of_shape(shape, options)
        self.pairs = pairs or ExtentSum(PairwiseExpansion, shape, options)
        self.images = ImagePairs(shape, options) if self.ends else None
        self.lattice = LatticeExpansion.of_shape(shape, options)
        self.mesh = MeshExpansion.of_shape(shape, options)

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
        """See :meth:`Expansion.forward`."""
        self.check_cell(graph, cell)
        atoms = (positions, queries, keys, values)
        chosen = self.chosen(graph, positions, cell)
        none = self.pairs if cell is None else self.lattice  # for a batch without graphs
        return summed_by(chosen or [none], graph, atoms, coefficients, cell)

    def chosen(self, graph: GraphIndex, positions: Tensor, cell: Tensor | None) -> list[nn.Module]:
        """The sum that each graph goes by; arguments as in :meth:`Expansion.forward`."""
        return self._open(graph, positions) if cell is None else self._periodic(graph, cell)

    def _open(self, graph: GraphIndex, positions: Tensor) -> list[nn.Module]:
        """The sum of every open graph; in a trace all have one size, of which only pairs know."""
        if is_tracing():
            if graph.atoms_of_each > PAIRS_ATOMS:
                raise NotTraceableError(f"structures of more than {PAIRS_ATOMS} atoms")
            return [self.pairs]
        sizes = graph.sizes
        if not self.ends or max(sizes, default=0) <= PAIRS_ATOMS:
            return [self.pairs] * len(sizes)
        each = zip(sizes, positions.split(sizes), strict=True)
        return [
            self.mesh if size > PAIRS_ATOMS and self.mesh.open_points(own) < size**2 else self.pairs
            for size, own in each
        ]

    def _periodic(self, graph: GraphIndex, cells: Tensor) -> list[nn.Module]:
        """The sum of every periodic graph."""
        return [self._of_cell(*one) for one in zip(graph.sizes, cells, strict=True)]

    def _of_cell(self, size: int, cell: Tensor) -> nn.Module:
        if size > LATTICE_ATOMS:
            return self.mesh
        if self.images is None or not size:
            return self.lattice

        # half of the wave vectors inside the sphere
        volume = float(torch.linalg.det(cell.detach().double()).abs())
        vectors = volume * self.shape.kappa_max**3 / (12 * math.pi**2)
        by_lattice = LATTICE_START + LATTICE_COST * size * vectors
        cheap = volume and PAIR_COST * self.images.pairs_of(size, cell) < by_lattice
        return self.images if cheap else self.lattice

    def expected_error(self, radius: float) -> float:
        """Error of the grid; the other sums are exact."""
        return self.mesh.expected_error(radius)
