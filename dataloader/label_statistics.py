"""Statistics of a training set that a network is built from.

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
from farfield.dataloader.structure_inputs import find_input
from farfield.dataloader.structures import Structures
from farfield.models.heads.target_scaling import compositions


def fit_references(structures: Structures) -> dict[int, float]:
    """Reference energy of every element, Z -> eV.

    ``ValueError`` for an empty set or one without energies.
    """
    if not len(structures):
        raise ValueError("reference energies need at least one structure, got none")
    counts = compositions(structures.atomic_numbers, structures.counts, structures.elements)
    energy = structures.energy_for("reference energies")

    # least squares of the deviation from the mean per atom: the smallest solution is next to it
    mean = energy.sum() / structures.counts.sum()
    residual = energy - mean * structures.counts
    deviation = np.linalg.lstsq(counts, residual, rcond=1e-9)[0]
    return {
        int(number): float(mean + shift)
        for number, shift in zip(structures.elements, deviation, strict=True)
    }


def reference_limits(structures: Structures) -> str:
    """What the energies of a training set leave open, as one line; empty where nothing is.

    Reference energies are determined only where the compositions tell all elements apart.
    """
    counts = compositions(structures.atomic_numbers, structures.counts, structures.elements)
    distinct = np.unique(counts, axis=0)
    if len(distinct) == 1:
        return "one composition: only energy differences between its geometries mean anything"
    rank, elements = int(np.linalg.matrix_rank(distinct)), len(structures.elements)
    if rank == elements:
        return ""
    return (
        f"{len(distinct)} compositions do not tell {elements} elements apart: energies of "
        "molecules with other ratios of elements mean nothing"
    )


def charge_offsets(structures: Structures, references: dict[int, float]) -> dict[float, float]:
    """Total charge, e -> mean energy less references of the structures that have it, eV.

    Reference energies of elements cannot express what an electron more or less costs: what is left
    of it is for the network. Empty where total charges are not known, or all are equal.
    """
    charges = find_input(structures.extra, "total_charge")
    if charges is None or np.shape(charges) != (len(structures),) or np.ptp(charges) == 0:
        return {}
    values, group = np.unique(charges, return_inverse=True)
    residual = structures.energy - reference_energy(structures, references)
    means = np.bincount(group, residual) / np.bincount(group)
    return dict(zip(values.tolist(), means.tolist(), strict=True))


def reference_energy(structures: Structures, references: dict[int, float]) -> np.ndarray:
    """Sum of the reference energies of the atoms of every structure (structures,) float64, eV.

    ``ValueError`` for an unknown element.
    """
    elements = sorted(references)
    counts = compositions(structures.atomic_numbers, structures.counts, elements)
    return counts @ np.array([references[number] for number in elements])


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of a training set.

    structures           number of structures
    references           reference energy of every element, Z -> eV
    energy_std           standard deviation of the energies minus their references, eV
    energy_per_atom_std  the same, each energy divided by the atoms of its structure, eV
    force_rms            root mean square of a force component, eV/Angstrom; 0 without forces
    average_neighbors    directed edges per atom
    average_atoms        mean number of atoms of a structure
    typical_atoms        median number of atoms of a structure
    largest_atoms        largest number of atoms of a structure
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
        """Statistics of ``structures``, which need energies.

        num_edges: directed edges of all their neighbour graphs.
        """
        references = fit_references(structures)
        residual = structures.energy - reference_energy(structures, references)
        forces = structures.forces
        force_rms = 0.0 if forces is None else float(np.sqrt(np.mean(forces**2)))

        # vector from the centroid of its structure to every atom (atoms, 3)
        offset = structures.positions - centroids(structures)[structures.structure_of_atom]
        return cls(
            structures=len(structures),
            references=references,
            energy_std=float(residual.std()),
            energy_per_atom_std=float((residual / structures.counts).std()),
            force_rms=force_rms,
            average_neighbors=num_edges / structures.num_atoms,
            average_atoms=float(structures.counts.mean()),
            typical_atoms=int(np.median(structures.counts)),
            largest_atoms=int(structures.counts.max()),
            design_radius=float(np.linalg.norm(offset, axis=1).max()),
        )

    def save(self, path: str | Path):
        """Write a json file, atomically."""
        files.write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: str | Path, hint: str = files.REBUILD_HINT) -> Statistics:
        """Read what :meth:`save` wrote.

        hint: what the user can do, the end of an error. ``FileNotFoundError`` or ``ValueError``
        with the file.
        """
        content = files.read_json(path, hint)
        names = {field.name for field in dataclasses.fields(cls)}
        if set(content) != names:
            raise ValueError(
                f"{path} must hold {', '.join(sorted(names))}, it holds "
                f"{', '.join(sorted(content))}; {hint}"
            )

        # json has texts as keys
        references = {int(number): energy for number, energy in content["references"].items()}
        return cls(**content | {"references": references})


def centroids(structures: Structures) -> np.ndarray:
    """Mean position of the atoms of every structure (structures, 3)."""
    if not len(structures):
        return np.zeros((0, 3))
    sums = np.add.reduceat(structures.positions, structures.offsets[:-1], axis=0)
    return sums / structures.counts[:, None]
