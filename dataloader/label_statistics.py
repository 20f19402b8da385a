"""Numbers a network wants to know about its training set: reference energies per element, size of
forces, neighbours, extent.

Reference energies. With n_Z(s) atoms of element Z in structure s, least squares of E_s = sum_Z
n_Z(s) e_Z in float64. Where the compositions do not tell the elements apart (one molecule, or one
ratio of elements) the solution next to "every atom has the mean energy per atom" is taken, so a
single molecule gives exactly its mean energy per atom for every element. Cost: linear in the
structures.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from farfield.dataloader.storage import files
from farfield.dataloader.structures import Structures
from farfield.models.heads.target_scaling import compositions


def fit_references(structures: Structures) -> dict[int, float]:
    """Reference energy of every element, Z -> eV; ``ValueError`` for an empty set or one without
    energies.
    """
    if not len(structures):
        raise ValueError("reference energies need at least one structure, got none")
    counts = compositions(structures.atomic_numbers, structures.counts, structures.elements)
    energy = structures.energy_for("reference energies")
    mean = energy.sum() / structures.counts.sum()
    residual = energy - mean * structures.counts
    deviation = np.linalg.lstsq(counts, residual, rcond=1e-9)[0]
    return {
        int(number): float(mean + shift)
        for number, shift in zip(structures.elements, deviation, strict=True)
    }


def reference_energy(structures: Structures, references: dict[int, float]) -> np.ndarray:
    """Sum of the reference energies of the atoms of every structure (structures,) float64, eV;
    ``ValueError`` for an unknown element.
    """
    elements = sorted(references)
    counts = compositions(structures.atomic_numbers, structures.counts, elements)
    return counts @ np.array([references[number] for number in elements])


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Numbers of a training set.

    structures           their number
    references           Z -> eV
    energy_std           eV, of a structure, after the references
    energy_per_atom_std  eV, likewise, each divided by its atoms
    force_rms            eV/Angstrom, of a component; 0 without forces
    average_neighbors    directed edges per atom
    average_atoms, typical_atoms (median), largest_atoms
    design_radius        largest distance of an atom from the centroid of its structure, Angstrom;
                         what the far field is designed for
    """

    structures: int
    references: dict[int, float]
    energy_std: float
    energy_per_atom_std: float
    force_rms: float
    average_neighbors: float
    average_atoms: float
    typical_atoms: int
    largest_atoms: int
    design_radius: float

    @classmethod
    def of(cls, structures: Structures, num_edges: int) -> Statistics:
        """Statistics of ``structures``, whose neighbour graphs have ``num_edges`` directed edges
        together; they need energies.
        """
        references = fit_references(structures)
        residual = structures.energy - reference_energy(structures, references)
        return cls(
            structures=len(structures),
            references=references,
            energy_std=float(residual.std()),
            energy_per_atom_std=float((residual / structures.counts).std()),
            force_rms=0.0
            if structures.forces is None
            else float(np.sqrt(np.mean(structures.forces**2))),
            average_neighbors=num_edges / structures.num_atoms,
            average_atoms=float(structures.counts.mean()),
            typical_atoms=int(np.median(structures.counts)),
            largest_atoms=int(structures.counts.max()),
            design_radius=float(
                np.linalg.norm(
                    structures.positions - centroids(structures)[structures.structure_of_atom],
                    axis=1,
                ).max()
            ),
        )

    def save(self, path: str | Path):
        """Write a json file, atomically."""
        files.write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: str | Path, hint: str = files.REBUILD_HINT) -> Statistics:
        """Read what :meth:`save` wrote; ``FileNotFoundError`` or ``ValueError`` with file and
        ``hint`` if that cannot be had.
        """
        content = files.read_json(path, hint)
        names = {field.name for field in dataclasses.fields(cls)}
        if set(content) != names:
            raise ValueError(
                f"{path} must hold {', '.join(sorted(names))}, it holds "
                f"{', '.join(sorted(content))}; {hint}"
            )
        return cls(
            **content
            | {
                "references": {
                    int(number): energy for number, energy in content["references"].items()
                }
            }
        )


def centroids(structures: Structures) -> np.ndarray:
    """Mean position of the atoms of every structure (structures, 3)."""
    sums = (
        np.add.reduceat(structures.positions, structures.offsets[:-1], axis=0)
        if len(structures)
        else np.zeros((0, 3))
    )
    return sums / structures.counts[:, None]
