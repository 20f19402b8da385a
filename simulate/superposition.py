"""How far two geometries of one molecule are apart: least root mean square deviation (RMSD).

    rmsd(x, y) = min over permutations P, rotations R, shifts t of
                 sqrt(1/n sum_i |R x_P(i) + t - y_i|^2)

Rotations are proper, so mirror images stay apart. P runs over the permutations that keep elements
and bonds of the graph of ``y`` (:mod:`farfield.dataloader.chemistry.graph_symmetries`): equal
hydrogens of a methyl group, the two sides of a ring. For one P the minimum follows from the
singular values s of H = sum_i x_i y_i^T, both about their means:
n rmsd^2 = sum |x|^2 + sum |y|^2 - 2 (s_1 + s_2 + sign(det H) s_3) (Kabsch 1976, Acta Cryst. A32,
922).

The result is **exact** where a molecule has at most :data:`MOST_PERMUTATIONS` symmetries: all of
them are tried. Beyond that (long alkanes, several tert-butyl groups) it is an upper bound: from
:data:`MOST_STARTS` superpositions, equal leaves are assigned anew to the nearest places (Hungarian
method) and the rest superposed anew, until nothing changes.

Cost: one superposition for each permutation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from farfield.dataloader.chemistry.bond_graphs import atom_colours
from farfield.dataloader.chemistry.bonds import BondTable
from farfield.dataloader.chemistry.graph_symmetries import GraphSymmetries, graph_symmetries
from farfield.dataloader.structures import Structures

MOST_PERMUTATIONS = 40_000  # neopentane has 31104
PERMUTATIONS_PER_STEP = 4096  # superposed in one call
MOST_STARTS = 64
MOST_ROUNDS = 50  # of one start
CHANGE = 1e-10  # Angstrom, below which a start has come to its end


class MoleculeRmsd(NamedTuple):
    """RMSD (structures,), Angstrom, and whether it is the minimum or an upper bound, ``exact``."""

    rmsd: np.ndarray
    exact: np.ndarray


def symmetric_rmsd(
    structures: Structures,
    reference: Structures,
    bonds: BondTable,
    heavy: bool = False,
    most_permutations: int = MOST_PERMUTATIONS,
) -> MoleculeRmsd:
    """RMSD of every structure from its reference, as the module describes.

    The atoms of both stand in the same order up to symmetry. bonds: of the reference. heavy: leave
    hydrogens out (nan for a structure of hydrogen alone). ``ValueError`` if the sets do not hold
    the same molecules.
    """
    check_same_molecules(structures, reference)
    colours = atom_colours(reference, bonds, np.ones(len(bonds.ends)))
    kept = reference.atomic_numbers > 1 if heavy else np.ones(reference.num_atoms, bool)

    found = np.full(len(reference), np.nan)
    exact = np.ones(len(reference), bool)
    for place in range(len(reference)):
        atoms = np.arange(*reference.offsets[place : place + 2])
        atoms = atoms[kept[atoms]]
        if not len(atoms):
            continue

        # bonds of the kept atoms, counted among them
        index = np.full(reference.counts[place], -1)
        index[atoms - reference.offsets[place]] = np.arange(len(atoms))
        ends = index[bonds.ends[slice(*bonds.offsets[place : place + 2])]]
        ends = ends[(ends >= 0).all(1)]

        symmetries = graph_symmetries(colours[atoms].tolist(), ends.tolist())
        x, y = structures.positions[atoms], reference.positions[atoms]
        exact[place] = symmetries.complete and symmetries.count() <= most_permutations
        search = _over_all if exact[place] else _over_starts
        found[place] = search(x, y, symmetries)
    return MoleculeRmsd(found, exact)


def check_same_molecules(structures: Structures, reference: Structures) -> None:
    """Raise ``ValueError`` unless both have the same atoms in the same order."""
    if len(structures) != len(reference):
        raise ValueError(
            f"{len(structures)} structures cannot be compared with {len(reference)} references; "
            "give one reference for each structure"
        )

    # elements can be compared one by one only where all counts agree
    wrong = np.flatnonzero(structures.counts != reference.counts)
    if not len(wrong):
        differ = np.flatnonzero(structures.atomic_numbers != reference.atomic_numbers)
        wrong = structures.structure_of_atom[differ]

    if len(wrong):
        raise ValueError(
            f"structure {wrong[0]} and its reference have different atoms; give a reference of the "
            "same molecule with its atoms in the same order"
        )


def superpose(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rmsd (...), rotation R (..., 3, 3)) that bring x (..., atoms, 3) closest to y.

    y: (atoms, 3). Both keep their order of atoms; ``x @ R^T`` is superposed once means are shifted.
    """
    x, y = x - x.mean(-2, keepdims=True), y - y.mean(-2, keepdims=True)
    u, s, vt = np.linalg.svd(x.swapaxes(-1, -2) @ y)

    # where the best orthogonal matrix reflects, the smallest singular value turns its sign
    sign = np.sign(np.linalg.det(u @ vt))
    s[..., 2] *= sign
    u[..., :, 2] *= sign[..., None]
    rotation = (u @ vt).swapaxes(-1, -2)

    spread = np.square(x).sum((-1, -2)) + np.square(y).sum()
    squares = (spread - 2 * s.sum(-1)) / len(y)
    return np.sqrt(np.maximum(squares, 0.0)), rotation


def _over_all(x: np.ndarray, y: np.ndarray, symmetries: GraphSymmetries) -> float:
    """Least rmsd over all permutations."""
    rows = symmetries.permutations()
    steps = range(0, len(rows), PERMUTATIONS_PER_STEP)
    return min(
        float(superpose(x[rows[first : first + PERMUTATIONS_PER_STEP]], y)[0].min())
        for first in steps
    )


def _over_starts(x: np.ndarray, y: np.ndarray, symmetries: GraphSymmetries) -> float:
    """Least rmsd that the starts reach."""
    rows = symmetries.skeletons
    by_skeleton, _ = superpose(x[rows][:, symmetries.skeleton], y[symmetries.skeleton])
    best = np.argsort(by_skeleton, kind="stable")[:MOST_STARTS]
    return min(_settle(x, y, row, symmetries) for row in rows[best])


def _settle(x: np.ndarray, y: np.ndarray, row: np.ndarray, symmetries: GraphSymmetries) -> float:
    """Rmsd after leaves and rotation have found each other, from the symmetry ``row`` (atoms,)."""
    row, skeleton = row.copy(), symmetries.skeleton
    centre = y[skeleton].mean(0)
    _, rotation = superpose(x[row][skeleton], y[skeleton])
    moved = (x - x[row][skeleton].mean(0)) @ rotation.T + centre

    rmsd = np.inf
    for _ in range(MOST_ROUNDS):
        for group in symmetries.groups:
            row[group] = row[group][_nearest(moved[row[group]], y[group])]
        before, (rmsd, rotation) = rmsd, superpose(x[row], y)
        moved = (x - x.mean(0)) @ rotation.T + y.mean(0)
        if before - rmsd < CHANGE:
            break
    return float(rmsd)


def _nearest(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Which point (n, 3) goes to each place (n, 3) at the least sum of squared distances (n,)."""
    from scipy.optimize import linear_sum_assignment  # --help does not wait for it

    squares = np.square(places[:, None] - points[None]).sum(-1)
    return linear_sum_assignment(squares)[1]
