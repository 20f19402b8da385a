"""Statistics of a training set that a network is built from: reference energies of the elements,
sizes of the labels, neighbours and extents. Cost: linear in the structures.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np

from farfield.dataloader.reference_energies import fit_references, reference_energy
from farfield.dataloader.storage import files
from farfield.dataloader.structures import Structures
from farfield.models.heads.target_scaling import compositions

# standard deviation of a component of a normal vector in units of its mean length
OF_MEAN_LENGTH = math.sqrt(math.pi / 8)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of a training set.

    structures           number of structures
    references           reference energy of every element, Z -> eV
    energy_std           standard deviation of the energies minus their references, eV
    energy_per_atom_std  the same, each energy divided by the atoms of its structure, eV
    compound_std         the same of the means over all structures of one composition, eV
    force_rms            root mean square of a force component, eV/Angstrom; 0 without forces
    force_size           the same from the mean length of the forces, which a few wild ones do not
                         decide, eV/Angstrom: equal for normally distributed components
    stress_rms           root mean square of a component of stress times volume per atom, eV, over
                         the structures that repeat in three directions; 0 without stress
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
    compound_std: float
    force_rms: float
    force_size: float
    stress_rms: float
    average_neighbors: float
    average_atoms: float
    typical_atoms: int
    largest_atoms: int
    design_radius: float

    @property
    def varies_by_composition(self) -> bool:
        """Whether energies above the references scatter more from composition to composition, in eV
        per atom, than forces do in eV/Angstrom: sets of many compounds near their equilibrium.
        """
        return self.compound_std > self.force_size > 0

    @property
    def learned_scale(self) -> float:
        """Size of what a network learns of an atom, eV: the scatter of the energies of many
        compounds, of other sets the forces within an Angstrom; 1 where both vanish.
        """
        scatter = self.energy_per_atom_std
        return (scatter if self.varies_by_composition else self.force_rms or scatter) or 1.0

    @classmethod
    def of(
        cls, structures: Structures, num_edges: int, references: dict[int, float] | None = None
    ) -> Statistics:
        """Statistics of ``structures``, which need energies.

        num_edges: directed edges of all their neighbour graphs. references: Z -> eV (None: fitted).
        """
        references = references or fit_references(structures)
        residual = structures.energy - reference_energy(structures, references)
        forces = structures.forces
        force_rms = force_size = 0.0
        if forces is not None:
            force_rms = float(np.sqrt(np.mean(forces**2)))
            force_size = float(np.linalg.norm(forces, axis=1).mean() * OF_MEAN_LENGTH)

        # vector from the centroid of its structure to every atom (atoms, 3)
        offset = structures.positions - centroids(structures)[structures.structure_of_atom]
        return cls(
            structures=len(structures),
            references=references,
            energy_std=float(residual.std()),
            energy_per_atom_std=float((residual / structures.counts).std()),
            compound_std=compound_std(structures, residual),
            force_rms=force_rms,
            force_size=force_size,
            stress_rms=stress_rms(structures),
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
        return cls.from_words(files.read_json(path, hint), path, hint)

    @classmethod
    def from_words(cls, content: dict, path: str | Path, hint: str) -> Statistics:
        """Statistics from the words of a json file; path, hint: for the ``ValueError``."""
        names = {field.name for field in dataclasses.fields(cls)}
        content = _with_later_statistics(content)
        if set(content) != names:
            raise ValueError(
                f"{path} must hold {', '.join(sorted(names))}, it holds "
                f"{', '.join(sorted(content))}; {hint}"
            )

        # json has texts as keys
        references = {int(number): energy for number, energy in content["references"].items()}
        return cls(**content | {"references": references})


def _with_later_statistics(content: dict) -> dict:
    """What a folder holds, with the statistics that it was made before: sizes as they were used."""
    later = {"force_size": content.get("force_rms"), "stress_rms": 0.0, "compound_std": 0.0}
    return later | content


def compound_std(structures: Structures, residual: np.ndarray) -> float:
    """Standard deviation, eV, over the structures, of the mean energy per atom of a composition.

    residual: energies less their references (structures,), eV.
    """
    rows = compositions(structures.atomic_numbers, structures.counts, structures.elements)
    _, group = np.unique(rows, axis=0, return_inverse=True)
    means = np.bincount(group, residual / structures.counts) / np.bincount(group)
    return float(means[group].std())


def centroids(structures: Structures) -> np.ndarray:
    """Mean position of the atoms of every structure (structures, 3)."""
    if not len(structures):
        return np.zeros((0, 3))
    sums = np.add.reduceat(structures.positions, structures.offsets[:-1], axis=0)
    return sums / structures.counts[:, None]


def stress_rms(structures: Structures) -> float:
    """Root mean square of a component of stress x volume / atoms, eV, over the structures that
    repeat in three directions; 0 where there is none.
    """
    if structures.stress is None or structures.periodic is None:
        return 0.0
    repeats = structures.periodic.all(1)
    if not repeats.any():
        return 0.0
    volume = np.abs(np.linalg.det(structures.cell[repeats])) / structures.counts[repeats]
    return float(np.sqrt(np.mean((structures.stress[repeats] * volume[:, None, None]) ** 2)))
