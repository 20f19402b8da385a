"""The batches of one structure whose atoms move a little from batch to batch.

    moving = MovingStructure(cutoff=4.0)
    batch = moving.batch(atoms)

Each batch is what :func:`farfield.dataloader.from_ase.batch_from_atoms` makes of the structure, to
the last digit, but pairs are rarely searched. With a skin s (Verlet 1967, Phys. Rev. 159, 98), all
pairs closer than cutoff + s are found once; while no atom has moved by more than s / 2, no other
pair can have come within the cutoff, and the edges are those of the list that are shorter.

Cost: linear in the edges, one search in some tens of steps of molecular dynamics.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from farfield.dataloader.from_ase import batch_from_atoms, check_structures, placed
from farfield.dataloader.graphs import find_neighbors
from farfield.models.batch import AtomBatch, rounded_positions
from farfield.models.graph_ops import GraphIndex

SKIN = 0.5  # Angstrom; a wider one is searched for less often and holds more pairs


class MovingStructure:
    """Batches of one structure; another structure, cell or input starts a new list.

    Arguments as of :func:`batch_from_atoms`. searches: how often pairs were searched.
    """

    def __init__(
        self,
        cutoff: float,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        inputs: Sequence[str] = (),
        optional_inputs: Sequence[str] = (),
        skin: float = SKIN,
    ):
        self.cutoff, self.skin, self.dtype, self.device = cutoff, skin, dtype, device
        self.inputs, self.optional_inputs = inputs, optional_inputs
        self.searches = 0
        self._known: tuple | None = None

    def batch(self, atoms: Atoms) -> AtomBatch:
        """The batch of the structure as it is now; ValueError as of ``batch_from_atoms``."""
        check_structures([atoms])
        known = (
            atoms.numbers.tobytes(),
            atoms.cell.array.tobytes(),
            atoms.pbc.tobytes(),
            repr(atoms.info) if self.inputs or self.optional_inputs else "",
        )
        if known != self._known or self._moved(atoms) > self.skin / 2:
            self._search(atoms)
            self._known = known

        points = placed(atoms)
        first = self._first
        graph, shift = self._edges(atoms, points)
        positions, remainder = rounded_positions(torch.from_numpy(points), self.dtype)
        return AtomBatch(
            graph,
            positions=positions.to(self.device),
            atomic_numbers=first.atomic_numbers,
            cell=first.cell,
            periodic=first.periodic,
            image_shift=shift,
            graph_features=first.graph_features,
            cutoff=first.cutoff,
            position_remainder=None if remainder is None else remainder.to(self.device),
        )

    def _moved(self, atoms: Atoms) -> float:
        """The longest way of an atom since the search, Angstrom."""
        way = atoms.positions - self._start
        return float(np.einsum("na,na->n", way, way).max()) ** 0.5

    def _search(self, atoms: Atoms) -> None:
        """Find all pairs within cutoff and skin, and what does not change while they last."""
        self.searches += 1
        self._first = batch_from_atoms(
            [atoms], self.cutoff, self.dtype, self.device, self.inputs, self.optional_inputs
        )
        periodic = atoms.pbc if atoms.pbc.any() else None
        self._start = atoms.positions.copy()
        self._placed = placed(atoms)
        self._pairs = find_neighbors(
            self._placed, self.cutoff + self.skin, atoms.cell.array, periodic
        )
        self._short: np.ndarray | None = None

    def _edges(self, atoms: Atoms, points: np.ndarray) -> tuple[GraphIndex, torch.Tensor | None]:
        """Pairs of the list within the cutoff as a graph, and their image shifts.

        points (atoms, 3): the positions of the batch.
        """
        src, dst, shift = self._pairs
        vectors = points[dst] - points[src]
        if self._first.cell is not None:
            # an atom that went through a wall of the cell takes its images along
            inverse = np.linalg.pinv(atoms.cell.array)
            carried = points - self._placed - (atoms.positions - self._start)
            walls = np.rint(carried @ inverse).astype(np.int64)
            shift = shift - walls[dst] + walls[src]
            vectors += shift @ atoms.cell.array

        short = np.einsum("ea,ea->e", vectors, vectors) < self.cutoff**2
        if self._short is None or not np.array_equal(short, self._short):
            ends = (torch.from_numpy(end[short]) for end in (src, dst))
            nodes = torch.tensor([len(points)])
            self._graph, self._short = GraphIndex(*ends, nodes).to(self.device), short
        if self._first.cell is None:
            return self._graph, None
        return self._graph, torch.from_numpy(shift[short].astype(np.int32)).to(self.device)
