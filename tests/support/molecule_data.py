"""Small sets of structures for tests: a smooth pair potential on random atoms, whose forces are
known exactly.
"""

from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from farfield.dataloader.structures import Structures


def pair_energy(positions: np.ndarray) -> tuple[float, np.ndarray]:
    """E = sum over pairs of exp(-r^2 / 4), and the forces -dE/dx."""
    difference = positions[:, None] - positions[None]
    weight = np.exp(-np.square(difference).sum(-1) / 4)
    return (weight.sum() - len(positions)) / 2, (weight[..., None] * difference / 2).sum(1)


def random_structures(sizes=(3, 5, 1, 4), seed=0, elements=(1, 6, 8), spread=2.0) -> Structures:
    """Open structures of the given sizes, with energies and forces of the pair potential."""
    rng = np.random.default_rng(seed)
    positions = [spread * rng.standard_normal((size, 3)) for size in sizes]
    labels = [pair_energy(points) for points in positions]
    return Structures(
        atomic_numbers=rng.choice(elements, sum(sizes)),
        positions=np.concatenate(positions),
        counts=np.array(sizes),
        energy=np.array([energy for energy, _ in labels]),
        forces=np.concatenate([forces for _, forces in labels]),
        extra={"number": np.arange(len(sizes))},
    )


def random_crystals(atoms=5, count=3, seed=0, periodic=(True, True, True)) -> Structures:
    """Structures in skewed cells, atoms anywhere (also outside the cell), labels without
    meaning.
    """
    rng = np.random.default_rng(seed)
    cell = 3.0 * np.eye(3) + 0.4 * rng.standard_normal((count, 3, 3))
    positions = rng.uniform(-4, 7, (count * atoms, 3))
    return Structures(
        atomic_numbers=rng.choice([3, 8], count * atoms),
        positions=positions,
        counts=np.full(count, atoms),
        energy=rng.standard_normal(count),
        forces=rng.standard_normal((count * atoms, 3)),
        cell=cell,
        periodic=np.tile(periodic, (count, 1)),
        stress=rng.standard_normal((count, 3, 3)),
    )


def write_structures(path: Path, structures: Structures) -> None:
    """Write open structures as the user's own file: ragged npz, or extended xyz."""
    if path.suffix == ".npz":
        arrays = {
            "Z": structures.atomic_numbers,
            "R": structures.positions,
            "E": structures.energy,
            "n_atoms": structures.counts,
        }
        if structures.forces is not None:
            arrays["F"] = structures.forces
        np.savez(path, **arrays)
        return
    frames = []
    for index in range(len(structures)):
        one = structures[index]
        atoms = Atoms(one.atomic_numbers, one.positions)
        atoms.calc = SinglePointCalculator(atoms, energy=one.energy[0], forces=one.forces)
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")
