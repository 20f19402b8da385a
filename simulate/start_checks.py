"""Whether a structure can be the start of dynamics: distances of its atoms, and its time step.

The stretch of a bond X-H has a period of 10 fs, that of a bond of lightest mass m one of
10 sqrt(m / m_H) fs. Velocity Verlet is stable up to a period over pi and keeps the energy well
up to a tenth. Cost: one neighbour list.
"""

from __future__ import annotations

import math

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, covalent_radii

from farfield.dataloader.from_ase import check_structures
from farfield.dataloader.graphs import find_neighbors
from farfield.dataloader.nearest_atoms import RARELY_NEAR, TOO_NEAR

SEARCHED = 3.0  # Angstrom
STEP_OF_HYDROGEN = 2.0  # fs, a fifth of the period of a bond of hydrogen


def check_start(atoms: Atoms, timestep: float) -> list[str]:
    """Notes on a structure that is to move with a time step in fs.

    ``ValueError`` for a geometry that no network can read, for masses that are not positive, and
    for atoms nearer than 0.3 of their covalent distance.
    """
    check_structures([atoms])  # a search for neighbours needs a cell where something repeats
    check_masses(atoms)
    notes = _distance_notes(atoms)
    lightest = float(atoms.get_masses().min())
    longest = STEP_OF_HYDROGEN * math.sqrt(lightest / atomic_masses[1])
    if timestep > longest:
        notes.append(
            f"--timestep {timestep:g} fs is long for atoms of {lightest:.3g} u, whose bonds swing "
            f"in {5 * longest:.2g} fs: the energy will drift; give at most {longest / 4:.1g} to "
            f"{longest:.2g} fs"
        )
    return notes


def check_masses(atoms: Atoms) -> None:
    """``ValueError`` for an atom whose mass is no positive number."""
    masses = atoms.get_masses()
    wrong = ~(np.isfinite(masses) & (masses > 0))
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(
            f"atom {place} has the mass {masses[place]:g} u, a mass that moves must be > 0; leave "
            "the masses out of the structure, or correct them"
        )


def _distance_notes(atoms: Atoms) -> list[str]:
    periodic = np.asarray(atoms.pbc, bool)
    cell = atoms.cell.array
    found = find_neighbors(atoms.positions, SEARCHED, cell, periodic)
    if not len(found.src):
        return []
    vectors = atoms.positions[found.dst] - atoms.positions[found.src] + found.shift @ cell
    distance = np.linalg.norm(vectors, axis=1)
    share = distance / (
        covalent_radii[atoms.numbers[found.src]] + covalent_radii[atoms.numbers[found.dst]]
    )

    # the pair that is nearest for its elements
    worst = int(share.argmin())
    pair = sorted((int(found.src[worst]), int(found.dst[worst])))
    words = f"atoms {pair[0]} and {pair[1]} are {distance[worst]:.3g} Angstrom apart"
    if share[worst] < TOO_NEAR:
        raise ValueError(f"{words}, on each other; correct the positions of the structure")
    if share[worst] < RARELY_NEAR:
        return [f"{words}, unusually near: the structure may fly apart; relax it first"]
    return []
