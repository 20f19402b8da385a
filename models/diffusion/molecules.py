"""Molecules as a diffusion takes them: open structures whose atoms are all joined to each other.

Cost: quadratic in the atoms of a molecule, since all pairs are edges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from farfield.models.batch import AtomBatch
from farfield.models.complete_graphs import ragged_complete_edges
from farfield.models.elements import check_elements
from farfield.models.graph_ops import GraphIndex


def blank_molecules(
    atomic_numbers: Sequence[Sequence[int]], dtype: torch.dtype = torch.float32
) -> AtomBatch:
    """A batch of molecules of which only the elements are known; all atoms lie at the origin.

    Example: water and methane, to be made from noise.

        blank_molecules([[8, 1, 1], [6, 1, 1, 1, 1]])
    """
    counts = torch.tensor([len(numbers) for numbers in atomic_numbers])
    if not len(counts) or int(counts.min()) == 0:
        raise ValueError("every molecule needs one atom or more; give e.g. [[8, 1, 1]]")
    numbers = torch.tensor([number for molecule in atomic_numbers for number in molecule])
    check_elements(numbers)
    return AtomBatch(
        GraphIndex(*ragged_complete_edges(counts), counts),
        positions=torch.zeros(len(numbers), 3, dtype=dtype),
        atomic_numbers=numbers,
    )


def with_all_pairs(batch: AtomBatch) -> AtomBatch:
    """The batch with all pairs of each molecule as edges, whatever edges it had.

    What belonged to the edges is left out. ValueError for structures that repeat in space.
    """
    if batch.cell is not None and (batch.periodic is None or bool(batch.periodic.any())):
        raise ValueError(
            "diffusion is for molecules in open space, got a batch with cells; give structures "
            "without periodic boundaries"
        )
    counts = batch.graph.nodes_per_graph
    return dataclasses.replace(
        batch,
        graph=GraphIndex(*ragged_complete_edges(counts), counts),
        edge_features={},
        image_shift=None,
        cell=None,
        periodic=None,
        edge_basis=None,
        cutoff=None,
    )
