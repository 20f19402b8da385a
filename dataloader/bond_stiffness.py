"""Stiffness of the bonds of hydrogen, from forces and lengths alone.

    F . u = -k (r - r_0) + scatter,    least squares over all bonds X-H, X = C, N, O

with u from X to H. Every theory puts k near 33 eV/Angstrom^2 (C-H 30, N-H 40, O-H 47), and all sets
of dynamics have 20 to 48 with correlations below -0.75. So no energy is needed to see the sign of
the forces or a wrong unit. Where bonds are frozen there is no correlation, and nothing is said.
Cost: linear in the atoms.
"""

from __future__ import annotations

import numpy as np

from farfield.dataloader.label_units import Told
from farfield.dataloader.nearest_atoms import NearestAtoms
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import ENERGY_UNITS

PARTNERS = (6, 7, 8)
LONGEST_BOND = 1.4  # Angstrom
LARGEST_STRETCH = 0.3  # Angstrom, from the median of the bonds of an element
LEAST_BONDS = 50
CORRELATED = 0.75
USUAL = (12.0, 80.0)  # eV/Angstrom^2


def stiffness_words(structures: Structures, nearest: NearestAtoms) -> Told | None:
    """What bonds of hydrogen tell of the forces, None where they are as they should be."""
    stretch, force = _bonds(structures, nearest)
    if len(stretch) < LEAST_BONDS or not stretch.any() or not force.any():
        return None
    correlation = np.corrcoef(stretch, force)[0, 1]
    stiffness = -(stretch @ force) / (stretch @ stretch)
    if abs(correlation) < CORRELATED or USUAL[0] < stiffness < USUAL[1]:
        return None

    found = f"bonds of hydrogen have a stiffness of {stiffness:.3g} eV/Angstrom^2, usual are 20-48"
    if USUAL[0] < -stiffness < USUAL[1]:
        text = f"the forces have the wrong sign, they stretch long bonds ({found})"
        return Told(f"{text}: are they gradients? forces are -dE/dx", True)
    for name in ("kcal/mol", "kJ/mol"):
        if USUAL[0] < stiffness * ENERGY_UNITS[name] < USUAL[1] and stiffness > 5 * USUAL[1]:
            text = f"forces are too large, as in {name} per Angstrom ({found})"
            return Told(f"{text}; name the units of the file (--energy-unit, --force-unit)", True)
    return None


def _bonds(structures: Structures, nearest: NearestAtoms) -> tuple[np.ndarray, np.ndarray]:
    """Stretch of each bond, Angstrom, and the force on its hydrogen along it, eV/Angstrom."""
    numbers = structures.atomic_numbers
    is_bond = (numbers[nearest.atom] == 1) & (nearest.distance < LONGEST_BOND)
    is_bond &= nearest.distance > 0
    stretches, forces = [np.zeros(0)], [np.zeros(0)]

    # bonds to each element about their own median
    for partner in PARTNERS:
        rows = np.flatnonzero(is_bond & (numbers[nearest.other] == partner))
        if not len(rows):
            continue
        length = nearest.distance[rows]
        along = (structures.forces[nearest.atom[rows]] * nearest.vector[rows]).sum(1) / length
        stretch = length - np.median(length)
        small = np.abs(stretch) < LARGEST_STRETCH
        stretches.append(stretch[small])
        forces.append((along - np.median(along))[small])
    return np.concatenate(stretches), np.concatenate(forces)
