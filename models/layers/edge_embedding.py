"""Invariants of an edge besides its length: the elements of its ends and its kind of bond.

    e_ij = (source[Z_j], target[Z_i], 0 or 1 for each bond kind)

with learned vectors of each element. Cost: linear in edges.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.elements import MAX_ATOMIC_NUMBER
from farfield.models.graph_ops import GraphIndex, gather_dst, gather_src

NUM_BOND_KINDS = 5  # none, single, double, triple, aromatic


class EdgeScalars(nn.Embedding):
    """``forward(batch) -> (edges, features)``: learned vectors of both elements, and the bond.

    size: values of each element at each end. bond_kinds: append 0 or 1 for each kind of bond.

    Reads ``batch.graph``, ``batch.atomic_numbers`` (nodes,) and, with ``bond_kinds``,
    ``batch.edge_features["bond_kinds"]`` (edges,) int64 in 0 .. 4. Raises ValueError for a batch
    without bond kinds, or with kinds out of this range.
    """

    def __init__(self, size: int, bond_kinds: bool = False):
        super().__init__(MAX_ATOMIC_NUMBER + 1, 2 * size)
        self.bond_kinds = bond_kinds
        self.features = 2 * size + bond_kinds * NUM_BOND_KINDS

    def forward(self, batch: AtomBatch) -> Tensor:
        """(edges, features)."""
        source, target = super().forward(batch.atomic_numbers).chunk(2, -1)
        scalars = [gather_src(batch.graph, source), gather_dst(batch.graph, target)]
        if self.bond_kinds:
            bonds = one_hot_bonds(batch.graph, batch.edge_features.get("bond_kinds"))
            scalars.append(bonds.to(source.dtype))
        return torch.cat(scalars, -1)


def one_hot_bonds(graph: GraphIndex, kinds: Tensor | None) -> Tensor:
    """Bond kinds (edges,) as zeros and ones (edges, 5).

    Raises ValueError where there are none, or kinds out of 0 .. 4.
    """
    if kinds is None:
        raise ValueError(
            "the batch has no edge feature 'bond_kinds': preprocess a graph with bonds, or set "
            "the option bond_kinds to false"
        )
    if graph.num_edges:
        low, high = int(kinds.min()), int(kinds.max())
        if low < 0 or high >= NUM_BOND_KINDS:
            raise ValueError(
                f"bond kinds must lie in 0 .. {NUM_BOND_KINDS - 1}, got {low} .. {high}"
            )
    return nn.functional.one_hot(kinds.long(), NUM_BOND_KINDS)
