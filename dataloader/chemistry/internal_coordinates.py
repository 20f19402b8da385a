"""Atoms placed by internal coordinates: bond length, bond angle, dihedral angle.

The atom D that follows A, B, C lies at the distance r from C, with the angle theta = BCD and the
dihedral phi of A, B, C, D (IUPAC: clockwise is positive when one looks from B to C):

    D = C - r cos(theta) b + r sin(theta) (cos(phi) n x b + sin(phi) n)
    b = (C - B) / |C - B|,   n = (B - A) x b / |(B - A) x b|

(the natural extension reference frame, Parsons et al. 2005, J. Comput. Chem. 26, 1063). All
functions work on any number of atoms at once; angles are in radians.
"""

from __future__ import annotations

import numpy as np


def place_atoms(
    first: np.ndarray,
    second: np.ndarray,
    third: np.ndarray,
    length: float,
    angle: float,
    dihedral: np.ndarray,
) -> np.ndarray:
    """Positions (..., 3) of the atoms that follow ``first``, ``second``, ``third`` (..., 3).

    length: of the bond from ``third``. angle: at ``third``, radians. dihedral: (...,), radians. The
    three atoms may not lie on a line.
    """
    along = _unit(third - second)
    normal = _unit(np.cross(second - first, along))
    across = np.cross(normal, along)
    dihedral = np.asarray(dihedral)[..., None]

    outward = np.cos(dihedral) * across + np.sin(dihedral) * normal
    return third - length * np.cos(angle) * along + length * np.sin(angle) * outward


def dihedral_angles(
    first: np.ndarray, second: np.ndarray, third: np.ndarray, fourth: np.ndarray
) -> np.ndarray:
    """Dihedral angles (...,) in (-pi, pi] of four atoms (..., 3)."""
    along = _unit(third - second)
    left = np.cross(second - first, along)
    right = np.cross(along, fourth - third)
    sine = (np.cross(left, right) * along).sum(-1)
    return np.arctan2(sine, (left * right).sum(-1))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
