"""Laws of the pieces of a structure: every atom and every edge is in one of them, and they are
compact.
"""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from farfield.dataloader.from_ase import batch_from_atoms
from farfield.dataloader.structure_pieces import StructurePieces, compact_pieces

CUTOFF = 3.0


def structure(pbc) -> Atoms:
    rng = np.random.default_rng(0)
    cell = 8 * np.eye(3) + 0.4 * rng.standard_normal((3, 3))
    return Atoms("C90", rng.uniform(0, 1, (90, 3)) @ cell, cell=cell, pbc=pbc)


@pytest.mark.parametrize("pbc", [False, True, [True, False, True]])
def test_pieces_hold_every_edge_once(pbc):
    atoms = structure(pbc)
    pieces = StructurePieces(atoms, CUTOFF, 20)
    found = []
    for piece in pieces:
        src, dst = (pieces.order[piece.atoms[end].numpy()] for end in (piece.src, piece.dst))
        assert piece.size <= 20 and int(piece.dst.max()) < piece.size
        assert len(piece.atoms.unique()) == len(piece.atoms)
        shift = np.zeros((len(src), 3)) if piece.image_shift is None else piece.image_shift.numpy()
        found.append(np.column_stack([dst, src, shift]))
    found = np.concatenate(found)

    whole = batch_from_atoms([atoms], CUTOFF)
    shift = np.zeros((whole.num_edges, 3)) if whole.image_shift is None else whole.image_shift
    edges = np.column_stack([whole.graph.dst, whole.graph.src, shift])
    assert pieces.num_edges == len(edges)
    assert np.array_equal(np.unique(found, axis=0), np.unique(edges, axis=0))
    assert np.array_equal(np.sort(pieces.order), np.arange(90))


def test_pieces_are_compact_and_about_equal():
    points = np.random.default_rng(1).uniform(0, 1, (10_000, 3))
    pieces = compact_pieces(points, 300)
    sizes = [len(piece) for piece in pieces]
    assert len(pieces) == 34 and max(sizes) <= 300 and min(sizes) >= 290
    assert np.array_equal(np.sort(np.concatenate(pieces)), np.arange(10_000))

    # a cube of their volume has sides of 0.31
    assert max(np.ptp(points[piece], axis=0).max() for piece in pieces) < 0.7


def test_a_single_atom_and_atoms_at_one_place():
    assert len(StructurePieces(Atoms("H"), CUTOFF, 1)) == 1
    pieces = compact_pieces(np.zeros((5, 3)), 2)
    assert sorted(len(piece) for piece in pieces) == [1, 2, 2]
