"""Geometries that no network can read are one line, and empty space costs nothing."""

from __future__ import annotations

import numpy as np
import pytest
import vesin
from ase import Atoms

from farfield.dataloader import graphs
from farfield.dataloader.from_ase import batch_from_atoms
from farfield.dataloader.geometry_checks import cell_heights, check_geometry
from farfield.dataloader.neighbor_tree import find_by_tree
from farfield.dataloader.structures import Structures

CUTOFF = 5.0


def far(pbc: bool | list[bool] = False) -> Atoms:
    return Atoms("OHHH", [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1e6]], cell=[9, 9, 9], pbc=pbc)


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (far(), "atom 3 of structure 1 is more than 100000 Angstrom from the middle"),
        (far([True, True, False]), "atom 3 of structure 1 is more than 100000 Angstrom"),
        (Atoms("OH", np.eye(2, 3), pbc=True), "structure 1 is periodic along .* give its cell"),
        (Atoms("O", cell=[9, 9, 0], pbc=True), "structure 1 is periodic along .* give its cell"),
        (Atoms("O", cell=[9, 0.2, 9], pbc=True), "structure 1 repeats every 0.2 Angstrom"),
        (Atoms("O", cell=[[9, 0, 0], [9, 0.1, 0], [0, 0, 9]], pbc=True), "repeats every 0.1 "),
    ],
)
def test_every_door_refuses_the_same_in_one_line(atoms, words):
    both = [Atoms("H"), atoms]
    given = {
        "positions": np.concatenate([one.positions for one in both]),
        "counts": np.array([len(one) for one in both]),
        "cell": np.stack([one.cell.array for one in both]),
        "periodic": np.stack([one.pbc for one in both]),
    }
    numbers = np.concatenate([one.numbers for one in both])
    for door in (
        lambda: check_geometry(**given),
        lambda: Structures(atomic_numbers=numbers, **given),
        lambda: batch_from_atoms(both, CUTOFF),
    ):
        with pytest.raises(ValueError, match=words) as error:
            door()
        assert "\n" not in str(error.value)


def test_far_atoms_and_thin_directions_that_do_not_repeat_pass():
    thin = Atoms("OH", [[0, 0, 0], [0, 0, 9e4]], cell=[9, 9, 0.1], pbc=[True, True, False])
    batch = batch_from_atoms([thin, far(True)], CUTOFF)
    assert batch.num_graphs == 2


def test_heights_are_distances_of_planes():
    cell = np.array([[2.0, 0, 0], [3, 4, 0], [5, 6, 7]])
    volume = np.linalg.det(cell)
    faces = [np.linalg.norm(np.cross(cell[k - 2], cell[k - 1])) for k in range(3)]
    np.testing.assert_allclose(cell_heights(cell, np.ones(3, bool)), volume / faces)
    flat = cell_heights(cell, np.array([True, False, True]))
    base, side = cell[0], cell[2]
    area = np.linalg.norm(np.cross(base, side))
    expected = [area / np.linalg.norm(side), np.inf, area / np.linalg.norm(base)]
    np.testing.assert_allclose(flat, expected)


@pytest.mark.parametrize("repeats", [(0, 0, 0), (1, 1, 0), (0, 1, 0), (1, 0, 1), (1, 1, 1)])
def test_the_tree_finds_what_vesin_finds(repeats):
    """Also of skew cells smaller than the cutoff, and of atoms outside them."""
    rng, periodic = np.random.default_rng(0), np.array(repeats, bool)
    finder = vesin.NeighborList(cutoff=CUTOFF, full_list=True, n_threads=1)
    for _ in range(4):
        positions = rng.uniform(-10, 20, (25, 3))
        cell = np.diag([6.0, 7.0, 4.0]) + 0.8 * rng.standard_normal((3, 3))
        pairs, shift = finder.compute(positions, cell, periodic if any(repeats) else False, "PS")
        expected = np.column_stack([pairs, shift if any(repeats) else np.zeros_like(shift)])
        found = np.column_stack(find_by_tree(positions, CUTOFF, cell, periodic))
        assert np.array_equal(np.unique(found, axis=0), np.unique(expected.astype(int), axis=0))
        assert len(found) == len(expected) > 0


def test_long_structures_go_by_the_tree(monkeypatch):
    """A wire and a slab with an atom far outside, which take vesin minutes or its process."""
    calls = []

    def recorded(*arguments):
        calls.append(1)
        return find_by_tree(*arguments)

    monkeypatch.setattr(graphs, "find_by_tree", recorded)
    rng = np.random.default_rng(1)
    positions = np.concatenate([rng.uniform(0, 8, (20, 3)), [[0, 9e4, 9e4]]])
    cell = np.diag([8.0, 0, 0])
    for periodic in ([False] * 3, [True, False, False]):
        near = graphs.find_neighbors(positions[:-1], CUTOFF, cell, np.array(periodic))
        assert not calls
        whole = graphs.find_neighbors(positions, CUTOFF, cell, np.array(periodic))
        assert calls.pop()
        own = (whole.src == 20) | (whole.dst == 20)  # images of the far atom itself, of a wire
        for one, other in zip(near, whole, strict=True):
            np.testing.assert_array_equal(one, other[~own])
