"""One large structure in pieces: compact groups of atoms, and the edges that each of them receives.

Atoms are sorted into pieces by halving the longest side of the box around them until no part has
more than a given number of atoms (a k-d tree): pieces are compact, and all have about one size. A
piece receives edges from its own atoms and from the atoms around it, its halo.

Edges are those of ``dataloader/graphs.py`` for the whole structure, kept in few bytes: 4 for the
sender and 6 for an image. Cost: N log N, one search of all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from farfield.dataloader.from_ase import check_structures, joined_batch, placed
from farfield.dataloader.graphs import Neighbors, find_neighbors
from farfield.models.networks.piece_steps import Piece


def compact_pieces(positions: np.ndarray, most: int) -> list[np.ndarray]:
    """Places of the atoms of each piece, at most ``most`` of them; positions (atoms, 3)."""
    found, left = [], [np.arange(len(positions))]
    while left:
        atoms = left.pop()
        if len(atoms) <= most:
            found.append(np.sort(atoms))
            continue

        # halves hold a whole number of pieces each, so that pieces come out equally full
        pieces = -(-len(atoms) // most)
        first = len(atoms) * (pieces // 2) // pieces
        own = positions[atoms]
        axis = int(np.ptp(own, axis=0).argmax())
        order = np.argpartition(own[:, axis], first)
        left += [atoms[order[first:]], atoms[order[:first]]]
    return found


class StructurePieces(Sequence[Piece]):
    """The pieces of one structure, with every pair closer than ``cutoff`` (Angstrom) as an edge.

    Attributes
        order      (atoms,) int64: which atom of the structure stands at each place; pieces are runs
                   of places
        structure  all atoms in this order, without edges, as a batch of one graph in float64

    inputs, optional_inputs, errors: as of ``batch_from_atoms``. most: atoms of a piece.
    """

    def __init__(
        self,
        atoms: Atoms,
        cutoff: float,
        most: int,
        inputs: Sequence[str] = (),
        optional_inputs: Sequence[str] = (),
    ):
        check_structures([atoms])
        points = placed(atoms)
        parts = compact_pieces(points, most)
        self.order = np.concatenate(parts)
        self.starts = np.concatenate([[0], np.cumsum([len(one) for one in parts])])

        ordered, points = atoms[self.order], points[self.order]
        none = Neighbors(*np.zeros((2, 0), np.int64), np.zeros((0, 3), np.int64))
        known = (cutoff, inputs, optional_inputs)
        self.structure = joined_batch([ordered], [points], [none], *known)

        # senders and images of all edges, sorted by receivers: a piece has a run of them
        periodic = atoms.pbc if atoms.pbc.any() else None
        found = find_neighbors(points, cutoff, atoms.cell.array, periodic)
        self._src = found.src.astype(np.int32)
        self._shift = None if periodic is None else found.shift.astype(np.int16)
        degree = np.bincount(found.dst, minlength=len(points))
        self._first = np.concatenate([[0], np.cumsum(degree)])

    @property
    def num_edges(self) -> int:
        """Directed edges of the whole structure."""
        return len(self._src)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> Piece:
        """Piece ``index``, made when it is asked for."""
        start, stop = int(self.starts[index]), int(self.starts[index + 1])
        edges = slice(self._first[start], self._first[stop])
        src = self._src[edges].astype(np.int64)

        # senders outside come behind the own atoms, each once
        inside = (src >= start) & (src < stop)
        halo = np.unique(src[~inside])
        local = np.where(inside, src - start, stop - start + np.searchsorted(halo, src))
        degree = np.diff(self._first[start : stop + 1])
        dst = np.repeat(np.arange(stop - start), degree)
        shift = None if self._shift is None else torch.from_numpy(self._shift[edges])
        return Piece(
            own=slice(start, stop),
            atoms=torch.from_numpy(np.concatenate([np.arange(start, stop), halo])),
            src=torch.from_numpy(local),
            dst=torch.from_numpy(dst),
            image_shift=shift,
        )
