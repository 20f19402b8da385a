"""The cheapest expansion for each graph: pairs, multipoles, or the lattice sum for crystals.

Small graphs are summed pair by pair, large ones by multipole moments. Times of forward and
backward in nanoseconds, for n atoms, H heads of d key features and V values, Q wave numbers,
t = (lmax + 1)^2 kernel components, P moments and W waves:

    pairwise    1.6e6 + n^2 (12 Q (lmax + 1) + 6.7 H t + 0.06 H t V), the second part x 1.6 if the
                pairs need more than one chunk
    multipole   4.1e6 + 3 P H d V + n (94 W + 5 P t H + 0.15 P H V (2 d + t))

Measured on one thread of an AMD EPYC in float32: least squares of relative errors over eight shapes
and 20 .. 900 atoms, mostly within 20 %. ``benchmarks/speed/bench_far_field.py`` compares the choice
with both. It depends on the graph's own size alone, never on its batch, so a structure gets the
same answer in every batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from farfield.models.far_field.expansion import EXPANSIONS, Expansion, ExpansionOptions
from farfield.models.far_field.expansions.lattice import LatticeExpansion
from farfield.models.far_field.expansions.mesh import MeshExpansion
from farfield.models.far_field.expansions.multipole import MultipoleExpansion
from farfield.models.far_field.expansions.pairwise import PairwiseExpansion
from farfield.models.far_field.extent_sum import ExtentSum, subgraphs
from farfield.models.far_field.spectral_shapes import SpectralShape
from farfield.models.graph_ops import GraphIndex
from farfield.models.so3.irreps import num_rows

# Energy and forces of 16 fields, degree 0, range 15 Angstrom, ms on one thread of a Xeon, at 400,
# 800, 1600 atoms: pairs 8, 46, 202, open grid 34, 46, 85; at 100, 200, 400 atoms: lattice 7, 10,
# 21, periodic grid 7, 9, 11.
PAIRS_ATOMS = 800
LATTICE_ATOMS = 150


@EXPANSIONS.register("auto")
class AutoExpansion(Expansion):
    """Each graph by the expansion that the cost model calls cheaper, crystals by the lattice sum.

    Cells raise ValueError if the wave numbers do not suit the lattice sum.
    """

    cells = "accepted"

    @classmethod
    def of_shape(cls, shape: SpectralShape, options: ExpansionOptions) -> ShapeAuto:
        """Pairs of open structures, the lattice sum of periodic ones."""
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
        by_pairs = self.prefers_pairs(torch.tensor(graph.sizes), heads, features, values.shape[2])
        if by_pairs.all():
            return self.pairwise(graph, *atoms, coefficients)
        if not by_pairs.any():
            return self.multipole(graph, *atoms, coefficients)

        # A mixed batch: each expansion sees its own graphs as a batch, and rows go back in order.
        by_pairs = by_pairs.to(positions.device)
        found, places = [], []
        for expansion, chosen in ((self.pairwise, by_pairs), (self.multipole, ~by_pairs)):
            nodes = chosen.index_select(0, graph.graph_of_node).nonzero().squeeze(1)
            no_edges = nodes.new_zeros(0)
            part = GraphIndex(no_edges, no_edges, graph.nodes_per_graph[chosen])
            own = (tensor.index_select(0, nodes) for tensor in atoms)
            found.append(expansion(part, *own, coefficients))
            places.append(nodes)
        return torch.cat(found).index_select(0, torch.cat(places).argsort())

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
    the lattice sum, or the grid for more than ``LATTICE_ATOMS`` atoms. The choice depends on the
    number of atoms alone: nothing jumps while atoms move.
    """

    cells = "accepted"

    def __init__(self, shape: SpectralShape, options: ExpansionOptions):
        super().__init__((), shape.lmax, options)
        pairs = PairwiseExpansion.of_shape(shape, options)
        self.pairs = pairs or ExtentSum(PairwiseExpansion, shape, options)
        self.lattice = LatticeExpansion.of_shape(shape, options)
        self.mesh = MeshExpansion.of_shape(shape, options)
        self.pairs_atoms = PAIRS_ATOMS if math.isfinite(shape.reach) else math.inf

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
        few, most = (self.pairs, self.pairs_atoms)
        if cell is not None:
            few, most = (self.lattice, LATTICE_ATOMS)
        atoms = (positions, queries, keys, values)
        large = [size > most for size in graph.sizes]
        if not any(large):
            return few(graph, *atoms, coefficients, cell)
        if all(large):
            return self.mesh(graph, *atoms, coefficients, cell)

        # A mixed batch: each sum sees its own graphs as a batch, and rows go back in order.
        on_grid = torch.tensor(large, device=positions.device)
        found, places = [], []
        for expansion, chosen in ((few, ~on_grid), (self.mesh, on_grid)):
            part, nodes = subgraphs(graph, chosen)
            own = [tensor.index_select(0, nodes) for tensor in atoms]
            cells = None if cell is None else cell[chosen]
            found.append(expansion(part, *own, coefficients, cells))
            places.append(nodes)
        return torch.cat(found).index_select(0, torch.cat(places).argsort())

    def expected_error(self, radius: float) -> float:
        """Error of the grid; the other sums are exact."""
        return self.mesh.expected_error(radius)
