"""Molecules built by hand, and turns of them, for the metrics of molecules."""

import numpy as np
from ase import Atoms
from scipy.spatial.transform import Rotation

from farfield.dataloader.from_ase import structures_from_atoms
from farfield.dataloader.structures import Structures
from tests.support.qm9_data import molecules

# corners of a tetrahedron, unit vectors (4, 3)
TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)


def bromochlorofluoromethane() -> Structures:
    """CHFClBr, the smallest chiral molecule: C and four different atoms around it."""
    lengths = np.array([1.09, 1.35, 1.77, 1.94])
    points = np.concatenate([np.zeros((1, 3)), TETRAHEDRON * lengths[:, None]])
    return structures_from_atoms([Atoms("CHFClBr", points)])


def ammonium() -> Structures:
    """N with four hydrogens, 1.02 Angstrom away."""
    return structures_from_atoms([Atoms("NH4", np.concatenate([[[0, 0, 0]], 1.02 * TETRAHEDRON]))])


def apart(first: str, second: str, distance: float = 8.0) -> Structures:
    """Two molecules of ase in one structure, ``distance`` Angstrom between their places."""
    both = molecules([first, second])
    positions = both.positions.copy()
    positions[both.counts[0] :, 0] += distance
    return Structures(both.atomic_numbers, positions, np.array([both.num_atoms]))


def neopentane() -> Structures:
    """C(CH3)4, whose graph has 4! (3!)^4 = 31104 symmetries."""
    symbols, points = ["C"], [np.zeros(3)]
    for axis in TETRAHEDRON:
        symbols.append("C")
        points.append(1.54 * axis)
        for other in TETRAHEDRON:
            if not np.array_equal(other, axis):
                symbols.append("H")
                points.append(1.54 * axis - 1.09 * other)
    return structures_from_atoms([Atoms(symbols, np.array(points))])


def moved(structures: Structures, seed: int = 0, noise: float = 0.0) -> Structures:
    """The same structures, turned (never reflected), shifted, and blurred by ``noise`` Angstrom."""
    rng = np.random.default_rng(seed)
    turn = Rotation.random(random_state=rng).as_matrix()
    blur = noise * rng.standard_normal(structures.positions.shape)
    positions = (structures.positions + blur) @ turn.T + rng.standard_normal(3)
    return Structures(structures.atomic_numbers, positions, structures.counts)


def mirrored(structures: Structures) -> Structures:
    """The mirror images."""
    return Structures(
        structures.atomic_numbers, structures.positions * [1, 1, -1], structures.counts
    )


def reordered(structures: Structures, order) -> Structures:
    """One molecule with its atoms in another order (atoms,)."""
    return Structures(
        structures.atomic_numbers[order], structures.positions[order], structures.counts
    )
