"""A source of one file: triangles of argon with the energy of Lennard and Jones."""

from pathlib import Path

import numpy as np

from farfield.dataloader.sources.source_registry import SOURCES, Source
from farfield.dataloader.structures import Structures

DEPTH, DIAMETER = 0.0104, 3.4  # eV, Angstrom
ARGON = 18


@SOURCES.register("argon_triangles")
class ArgonTriangles(Source):
    """Triangles of argon atoms; one line of the file is nine coordinates in Angstrom."""

    paths = (Path("argon.csv"),)

    def read(self, path, progress):
        """Positions of the file, energies and forces of the formula."""
        positions = np.loadtxt(path, delimiter=",").reshape(-1, 3, 3)
        energy, forces = lennard_jones(positions)
        count = len(positions)
        return Structures(
            atomic_numbers=np.full(3 * count, ARGON),
            positions=positions.reshape(-1, 3),
            counts=np.full(count, 3),
            energy=energy,
            forces=forces.reshape(-1, 3),
            theory="Lennard-Jones",
        )


def lennard_jones(positions):
    """Energy (triangles,) and forces (triangles, 3, 3) of positions (triangles, 3, 3)."""
    energy, forces = np.zeros(len(positions)), np.zeros_like(positions)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        vector = positions[:, i] - positions[:, j]
        square = (vector**2).sum(-1)
        power = (DIAMETER**2 / square) ** 3
        energy += 4 * DEPTH * (power**2 - power)
        pull = (24 * DEPTH * (2 * power**2 - power) / square)[:, None] * vector
        forces[:, i] += pull
        forces[:, j] -= pull
    return energy, forces
