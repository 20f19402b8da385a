"""Structures that are one geometry: a shift, a rotation and an exchange of equal atoms apart.

Mirror images are two geometries. Structures of one composition are compared by their distances,
sorted for each pair of elements, which no such change alters; where these agree, atoms of one are
laid over atoms of the other:

    a  atom farthest from the centre,   b  farthest from a,   c  farthest from the line a b

and any three atoms of the other structure with the elements and distances of a, b, c say a
rotation. Under the right one every atom comes to lie on an atom of its element. Cost: a comparison
of n^2 / 2 distances for each two structures of one composition with like mean distances.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

from farfield.dataloader.structures import Structures

TOLERANCE = 0.02  # Angstrom, between an atom and its counterpart
SMALLEST_SPREAD = 0.1  # Angstrom from a line, below which atoms lie on it


class _Geometry:
    """Atoms of a structure about their mean, and what no rotation and exchange alters."""

    def __init__(self, place: int, numbers: np.ndarray, positions: np.ndarray):
        order = np.argsort(numbers, kind="stable")
        self.place, self.numbers = place, numbers[order]
        self.positions = positions[order] - positions.mean(0)

        # distances of all pairs, by elements, then by length
        first, second = np.triu_indices(len(numbers), 1)
        distances = distances_between(self.positions, self.positions)[first, second]
        pair = self.numbers[first] * 1000 + self.numbers[second]
        self.distances = distances[np.lexsort((distances, pair))]


def first_alike(structures: Structures, tolerance: float = TOLERANCE) -> np.ndarray:
    """Place of the first structure with the geometry of each (structures,): its own place where
    none before it has.

    tolerance: Angstrom, largest distance between an atom and its counterpart.
    """
    found = np.arange(len(structures))
    for geometries in _by_composition(structures):
        # structures with like mean distances stand side by side
        kept: list[_Geometry] = []
        means = np.empty(0)
        for geometry in geometries:
            mean = geometry.distances.mean() if len(geometry.distances) else 0.0
            for index in np.flatnonzero(np.abs(means - mean) <= 2 * tolerance):
                if is_same_geometry(kept[index], geometry, tolerance):
                    found[geometry.place] = kept[index].place
                    break
            else:
                kept.append(geometry)
                means = np.append(means, mean)
    return found


def _by_composition(structures: Structures) -> Iterator[list[_Geometry]]:
    """Structures of one composition, in their order."""
    groups: dict[bytes, list[_Geometry]] = {}
    for place in range(len(structures)):
        atoms = slice(*structures.offsets[place : place + 2])
        one = _Geometry(place, structures.atomic_numbers[atoms], structures.positions[atoms])
        groups.setdefault(one.numbers.tobytes(), []).append(one)
    yield from groups.values()


def is_same_geometry(one: _Geometry, other: _Geometry, tolerance: float) -> bool:
    """Whether two structures of one composition are one geometry."""
    if np.abs(one.distances - other.distances).max(initial=0.0) > 2 * tolerance:
        return False
    if len(one.numbers) < 3:
        return True
    return any(
        _agrees(one, other, _rotation(one.positions[chosen], other.positions[found]), tolerance)
        for chosen, found in _matching_atoms(one, other, tolerance)
    )


def _matching_atoms(
    one: _Geometry, other: _Geometry, tolerance: float
) -> Iterator[tuple[list[int], list[int]]]:
    """Two or three atoms of ``one`` that fix its place, and all atoms of ``other`` like them."""
    chosen = _spread_atoms(one.positions)
    within, there = (distances_between(atoms.positions, atoms.positions) for atoms in (one, other))

    def extended(found: list[int]) -> Iterator[list[int]]:
        """``found`` with one more atom that has the element and the distances of its model."""
        model = chosen[len(found)]
        fits = other.numbers == one.numbers[model]
        for mine, its in zip(chosen, found, strict=False):
            fits = fits & (np.abs(there[its] - within[mine, model]) <= 2 * tolerance)
        for atom in np.flatnonzero(fits).tolist():
            yield [*found, atom]

    tuples: list[list[int]] = [[]]
    for _ in chosen:
        tuples = [longer for found in tuples for longer in extended(found)]
    for found in tuples:
        yield chosen, found


def _spread_atoms(positions: np.ndarray) -> list[int]:
    """The atoms a, b and, unless all lie on the line a b, c of the doc string."""
    first = int(np.linalg.norm(positions, axis=1).argmax())
    away = positions - positions[first]
    second = int(np.linalg.norm(away, axis=1).argmax())
    axis = away[second] / np.linalg.norm(away[second])
    apart = np.linalg.norm(away - np.outer(away @ axis, axis), axis=1)
    third = int(apart.argmax())
    return [first, second, third] if apart[third] > SMALLEST_SPREAD else [first, second]


def distances_between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distances of all atoms of two structures (atoms of one, atoms of other)."""
    return np.linalg.norm(one[:, None] - other, axis=-1)


def _rotation(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """The matrix (3, 3) that lays ``points`` over ``onto`` best, both about the origin."""
    from scipy.spatial.transform import Rotation  # slow to import: --help does not wait for it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of atoms on a line any rotation about it will do
        return Rotation.align_vectors(onto, points)[0].as_matrix()


def _agrees(one: _Geometry, other: _Geometry, rotation: np.ndarray, tolerance: float) -> bool:
    """Whether every atom of ``one``, rotated, lies on an atom of its element, after the rotation is
    fitted to all atoms.
    """
    away = distances_between(one.positions @ rotation.T, other.positions)
    away[one.numbers[:, None] != other.numbers] = np.inf
    partner = away.argmin(1)
    if len(np.unique(partner)) < len(partner):
        return False
    fitted = one.positions @ _rotation(one.positions, other.positions[partner]).T
    return bool(np.linalg.norm(fitted - other.positions[partner], axis=1).max() <= tolerance)
