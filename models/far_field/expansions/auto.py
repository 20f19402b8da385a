"""The cheapest expansion for each graph: pairs for small ones, multipoles for large ones, the
lattice sum for periodic ones.

Times of forward and backward, in nanoseconds of one thread of an AMD EPYC (float32; least squares
of relative errors over eight shapes and 20 .. 900 atoms, mostly within 20 %) for n atoms, H heads
of d keys and V values, t = (lmax + 1)^2 kernel components, P moments and W waves:

    pairwise    1.6e6 + n^2 (12 Q (lmax + 1) + 6.7 H t + 0.06 H t V), the second part x 1.6 if the
                pairs need more than one piece
    multipole   4.1e6 + 3 P H d V + n (94 W + 5 P t H + 0.15 P H V (2 d + t))

``benchmarks/speed/bench_far_field.py`` compares the choice with both. It depends on the graph's own
size alone, never on its batch, so that a structure's answer is the same in every batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.far_field.expansion import ExpansionOptions
from farfield.models.far_field.expansions.lattice import LatticeExpansion
from farfield.models.far_field.expansions.multipole import MultipoleExpansion
from farfield.models.far_field.expansions.pairwise import PairwiseExpansion
from farfield.models.graph_ops import GraphIndex
from farfield.models.so3.irreps import num_rows


class AutoExpansion(nn.Module):
    """Each graph by the expansion that the cost model calls cheaper; batches with cells by the
    lattice sum. Call: ``expansions.py``.
    """

    def __init__(
        self, wave_numbers: tuple[float, ...], lmax: int, options: ExpansionOptions | None = None
    ):
        super().__init__()
        self.wave_numbers, self.lmax = tuple(wave_numbers), lmax
        self.pairwise = PairwiseExpansion(wave_numbers, lmax, options)
        self.multipole = MultipoleExpansion(wave_numbers, lmax, options)
        self.lattice, self._no_lattice = None, ""
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
        cell=None,
    ) -> Tensor:
        """The sum of ``expansions.py``; shapes as there. Raises ValueError for cells if the wave
        numbers do not suit the lattice sum.
        """
        if cell is not None:
            if self.lattice is None:
                raise ValueError(self._no_lattice)
            return self.lattice(graph, positions, queries, keys, values, coefficients, cell)
        atoms = (positions, queries, keys, values)
        by_pairs = self.prefers_pairs(
            torch.tensor(graph.sizes), *queries.shape[1:], values.shape[2]
        )
        if by_pairs.all():
            return self.pairwise(graph, *atoms, coefficients)
        if not by_pairs.any():
            return self.multipole(graph, *atoms, coefficients)
        found, places = [], []
        by_pairs = by_pairs.to(positions.device)
        for expansion, chosen in ((self.pairwise, by_pairs), (self.multipole, ~by_pairs)):
            nodes = chosen.index_select(0, graph.graph_of_node).nonzero().squeeze(1)
            none = nodes.new_zeros(0)
            part = GraphIndex(none, none, graph.nodes_per_graph[chosen])
            found.append(
                expansion(part, *(tensor.index_select(0, nodes) for tensor in atoms), coefficients)
            )
            places.append(nodes)
        return torch.cat(found).index_select(0, torch.cat(places).argsort())

    def prefers_pairs(self, sizes: Tensor, heads: int, keys: int, values: int) -> Tensor:
        """Whether graphs of these numbers of atoms are cheaper by pairs (formulas above): bool, the
        shape of ``sizes``.
        """
        rows, moments, waves = (
            num_rows(self.lmax),
            self.multipole.moments,
            self.multipole.row.numel(),
        )
        size = sizes.double()
        pair = (
            12 * len(self.wave_numbers) * (self.lmax + 1)
            + 6.7 * heads * rows
            + 0.06 * heads * rows * values
        )
        pieces = (
            size.square() * self.pairwise.numbers_per_pair(heads) > self.pairwise.options.budget
        )
        atom = (
            94 * waves
            + 5 * moments * rows * heads
            + 0.15 * moments * heads * values * (2 * keys + rows)
        )
        by_moments = 4.1e6 + 3 * moments * heads * keys * values + atom * size
        return 1.6e6 + pair * size.square() * torch.where(pieces, 1.6, 1.0) < by_moments

    def extra_repr(self) -> str:
        return f"lmax={self.lmax}"
