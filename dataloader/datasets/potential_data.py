"""Batches of structures with energies and forces, from memory or from a preprocessed folder.

Folders are written by the scripts preprocess.preprocess_structures, preprocess_md17 and
preprocess_md22; dataloader.prepared_folder describes their files.

Open structures are shifted to their centroid and atoms of periodic structures into their cell, in
float64 before anything is rounded to float32: molecules drift in long trajectories, and float32
resolves less far from the origin. Batches keep what was cut off. Cost: a batch is a few gathers,
0.15 ms for 32 molecules of 9 atoms.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from farfield.dataloader import prepared_folder
from farfield.dataloader.datasets.structure_dataset import StructureDataset, read_inputs
from farfield.dataloader.graphs import NeighborStore
from farfield.dataloader.label_statistics import centroids
from farfield.dataloader.reference_energies import reference_energy
from farfield.dataloader.structures import Structures
from farfield.models.batch import AtomBatch, rounded_positions


class MoleculeDataset(StructureDataset):
    """Structures with their neighbour graphs; ``dataset[indices]`` is a batch.

    Arguments
        structures  the data
        neighbors   their neighbour graphs, or a cutoff in Angstrom: the graphs are then found here,
                    in memory
        references  Z -> eV: adds the label residual_energy = energy - sum of the references, small
                    enough for float32
        dtype       of positions and forces
        inputs      names in ``structures.extra`` with one value a structure (total_charge, spin):
                    they become ``graph_features`` of a batch
        optional_inputs  further such names, read if the structures have them

    A batch has positions (nodes, 3), centred for open structures, and atomic_numbers (nodes,).
    Periodic data add cell (graphs, 3, 3), periodic (graphs, 3) and image_shift (edges, 3) int32.
    Labels, each if the data have it: energy (graphs,) float64, forces (nodes, 3), stress
    (graphs, 3, 3), charges (nodes,), dipole (graphs, 3). Note that ``batch.to(dtype=float32)``
    rounds the energy as well: compare residual_energy with the prediction minus its references.

        dataset = MoleculeDataset.open("data/ethanol_sample", "train")
        batch = dataset[[0, 1, 2]]
    """

    def __init__(
        self,
        structures: Structures,
        neighbors: NeighborStore | float,
        references: dict[int, float] | None = None,
        dtype: torch.dtype = torch.float32,
        inputs: Sequence[str] = (),
        optional_inputs: Sequence[str] = (),
    ):
        if not isinstance(neighbors, NeighborStore):
            structures = structures.wrapped()
            neighbors = NeighborStore.compute(structures, neighbors)
        if not np.array_equal(neighbors.nodes_per_graph, structures.counts):
            raise ValueError(
                f"the neighbour graphs ({len(neighbors)}) do not belong to the {len(structures)} "
                "structures; make them again"
            )
        exact = torch.from_numpy(_centred(structures))
        super().__init__(structures, *rounded_positions(exact, dtype))
        self.neighbors, self.references = neighbors, references

        # boxes of all structures, also of the open ones in a mixed set
        self.cell = torch.from_numpy(structures.cell).to(dtype) if neighbors.periodic else None
        self.periodic = torch.from_numpy(structures.periodic) if neighbors.periodic else None

        # labels per atom (atoms, ...) and per structure (structures, ...); energies stay float64
        self.energy = torch.from_numpy(structures.energy_for("batches of energies and forces"))
        self.atom_labels = {}
        if structures.forces is not None:
            self.atom_labels["forces"] = torch.from_numpy(structures.forces).to(dtype)
        self.graph_labels = {"energy": self.energy}
        if references is not None:
            shift = torch.from_numpy(reference_energy(structures, references))
            self.graph_labels["residual_energy"] = self.energy - shift
        if structures.stress is not None:
            self.graph_labels["stress"] = torch.from_numpy(structures.stress).to(dtype)

        # charges of atoms and dipoles of structures
        if structures.charges is not None:
            self.atom_labels["charges"] = torch.from_numpy(structures.charges).to(dtype)
        if structures.dipole is not None:
            self.graph_labels["dipole"] = torch.from_numpy(structures.dipole).to(dtype)

        self.graph_inputs = read_inputs(structures, inputs, dtype, optional_inputs)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        split: str,
        *,
        cutoff: float | None = None,
        verify: str = "full",
        **options,
    ) -> MoleculeDataset:
        """The split "train", "val" or "test" of a preprocessed folder.

        cutoff: Angstrom, of the neighbour graphs (None: any). verify: as in
        :meth:`NeighborStore.open`. options: of the constructor. ``FileNotFoundError`` or
        ``ValueError`` with one line.
        """
        structures = prepared_folder.finished_structures(folder, split)
        store = NeighborStore.open(
            prepared_folder.graphs_folder(folder, split),
            data_hash=structures.data_hash,
            cutoff=cutoff,
            verify=verify,
        )
        return cls(structures, store, **options)

    @property
    def cutoff(self) -> float:
        return self.neighbors.cutoff

    @property
    def edges_per_structure(self) -> np.ndarray:
        """(structures,)"""
        return self.neighbors.edges_per_graph

    def __getitem__(self, indices: int | Sequence[int] | np.ndarray) -> AtomBatch:
        ids, chosen, atoms = self.places(indices)
        graph, shift = self.neighbors.gather(ids)

        # labels of the graphs (graphs, ...) and of the nodes (nodes, ...)
        labels = {
            name: values.index_select(0, chosen) for name, values in self.graph_labels.items()
        }
        labels |= {name: values.index_select(0, atoms) for name, values in self.atom_labels.items()}

        remainder = self.position_remainder
        return AtomBatch(
            graph=graph,
            positions=self.positions.index_select(0, atoms),
            atomic_numbers=self.atomic_numbers.index_select(0, atoms),
            cell=None if self.cell is None else self.cell.index_select(0, chosen),
            periodic=None if self.periodic is None else self.periodic.index_select(0, chosen),
            image_shift=shift,
            labels=labels,
            graph_features={
                name: values.index_select(0, chosen) for name, values in self.graph_inputs.items()
            },
            cutoff=self.cutoff,
            position_remainder=None if remainder is None else remainder.index_select(0, atoms),
        )


def _centred(structures: Structures) -> np.ndarray:
    """Positions (atoms, 3) float64; the centroid of open structures is the origin."""
    shift = centroids(structures)
    if structures.periodic is not None:
        shift[structures.periodic.any(1)] = 0.0
    return structures.positions - shift[structures.structure_of_atom]
