"""Structures of any size for the scaling of the far field, made from a seed.

    cluster    a ball of 0.1 atoms / Angstrom^3 of H, C, N and O at random places, no two closer
               than ``CLOSEST``
    water      a periodic cube of water molecules in random orientations on a jittered grid, 0.1
               atoms / Angstrom^3
    ethanol    8 bundled molecules of ethanol in one batch
    molecule   copies of a molecule of a file, or of a cluster of its size without files

Energies and forces are zero: only times are measured. Cost: linear in the atoms.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from ase.build import molecule
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from farfield.dataloader.sources.md17 import read_sample
from farfield.dataloader.sources.npz import read_npz
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import Units

DENSITY = 0.1  # atoms / Angstrom^3
ELEMENTS = (1, 6, 7, 8)
CLOSEST = 1.0  # Angstrom
JITTER = 0.2  # of the distance of neighbours on the grid of water


@dataclasses.dataclass(frozen=True)
class Molecules:
    """A batch of small molecules: copies of one frame.

    file: below the data folder. atoms: of a molecule. energy: unit of the file.
    """

    copies: int
    atoms: int
    file: str
    energy: str


# aspirin, and the two largest molecules of MD22 that a step is measured on
MOLECULES = {
    "aspirin x 4": Molecules(4, 21, "md17/aspirin_train.npz", "eV"),
    "118 atoms": Molecules(1, 118, "md22_at-at-cg-cg.npz", "kcal/mol"),
    "148 atoms": Molecules(1, 148, "md22_buckyball-catcher.npz", "kcal/mol"),
}
ETHANOL = "ethanol x 8"


def unlabelled(numbers: np.ndarray, positions: np.ndarray, copies: int = 1, **more) -> Structures:
    """``copies`` equal neutral structures with zeros for labels.

    numbers: (atoms,). positions: (atoms, 3), Angstrom.
    """
    return Structures(
        np.tile(numbers, copies),
        np.tile(positions, (copies, 1)),
        np.full(copies, len(numbers)),
        energy=np.zeros(copies),
        forces=np.zeros((copies * len(numbers), 3)),
        extra={"total_charge": np.zeros(copies)},
        **more,
    )


def cluster(atoms: int, seed: int = 0) -> Structures:
    """A ball of ``atoms`` atoms."""
    draw = np.random.default_rng(seed)
    radius = (3 * atoms / (4 * np.pi * DENSITY)) ** (1 / 3)
    places = np.zeros((0, 3))
    while len(places) < atoms:
        # Uniform in the ball; of two that are too close the later one goes.
        direction = draw.normal(size=(atoms, 3))
        length = radius * draw.uniform(size=(atoms, 1)) ** (1 / 3)
        new = length * direction / np.linalg.norm(direction, axis=1, keepdims=True)
        places = np.concatenate([places, new])
        close = cKDTree(places).query_pairs(CLOSEST, output_type="ndarray")
        keep = np.ones(len(places), bool)
        for first, later in close[np.lexsort((close[:, 0], close[:, 1]))]:
            keep[later] &= not keep[first]
        places = places[keep]
    return unlabelled(draw.choice(ELEMENTS, atoms), places[:atoms])


def water(atoms: int, seed: int = 0) -> Structures:
    """A periodic cube of about ``atoms`` atoms: whole molecules on a whole grid."""
    draw = np.random.default_rng(seed)
    side = max(1, round((atoms / 3) ** (1 / 3)))
    spacing = (3 / DENSITY) ** (1 / 3)

    # Centres (molecules, 3), then atoms (molecules, 3, 3).
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    centres = spacing * (grid + JITTER * draw.uniform(-0.5, 0.5, grid.shape))
    one = molecule("H2O")
    body = one.positions - one.positions.mean(0)
    turned = np.stack([turn.apply(body) for turn in Rotation.random(len(grid), rng=seed)])
    positions = (centres[:, None] + turned).reshape(-1, 3)

    cell = side * spacing * np.eye(3)
    box = {"cell": cell[None], "periodic": np.ones((1, 3), bool)}
    return unlabelled(np.tile(one.numbers, len(grid)), positions, **box)


def small_molecules(name: str, folder: str | None = None) -> Structures:
    """The batch ``name`` of ``ETHANOL`` or ``MOLECULES``.

    folder: where the files are; None: clusters of the same size.
    """
    if name == ETHANOL:
        frame = read_sample()[0]
        return unlabelled(frame.atomic_numbers, frame.positions, 8)

    chosen = MOLECULES[name]
    if folder is None:
        one = cluster(chosen.atoms)
    else:
        found = sorted(Path(folder).rglob(chosen.file))
        if not found:
            raise FileNotFoundError(
                f"there is no {chosen.file} below {folder}; put it there, or leave --data-path out"
            )
        one = read_npz(found[0], Units(chosen.energy, "Angstrom"), periodic=False)[0]
    return unlabelled(one.atomic_numbers, one.positions, chosen.copies)
