"""Batches of structures with energies and forces, from memory or from a preprocessed folder, and
the plans that cut epochs into batches.

A folder made by preprocess.preprocess_md17 or preprocess_md22 holds, for each split, ``SPLIT.npz``
(see dataloader.structures) and ``SPLIT_graphs/`` (see dataloader.graphs), and for all ``split.npz``
(which structures of the source), ``statistics.json`` (of the training split) and ``manifest.json``
(settings and SHA-256 of the files).

Open structures are shifted to their centroid, atoms of periodic ones into their cell, in float64
before anything is rounded to float32: molecules drift in long trajectories, and float32 resolves
less far from the origin. A batch is a few gathers: 0.15 ms for 32 molecules of 9 atoms.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from farfield.dataloader.graphs import NeighborStore, check_cutoff
from farfield.dataloader.label_statistics import Statistics, centroids, reference_energy
from farfield.dataloader.storage import files
from farfield.dataloader.structures import Structures, rows_of
from farfield.models.batch import AtomBatch

SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"
STATISTICS = "statistics.json"
MEND = (
    "make the folder with `python -m preprocess.preprocess_md17 --out FOLDER` or "
    "preprocess_md22 (--rebuild replaces what is there)"
)


def structures_file(folder: str | Path, split: str) -> Path:
    """File of the structures of a split; ``ValueError`` for a split there is not."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    return Path(folder) / f"{split}.npz"


def graphs_folder(folder: str | Path, split: str) -> Path:
    """Neighbour graphs of a split."""
    return structures_file(folder, split).with_name(f"{split}_graphs")


def load_statistics(folder: str | Path) -> Statistics:
    """Statistics of the training split of a preprocessed folder; ``FileNotFoundError`` or
    ``ValueError`` if they are not as written.
    """
    path = Path(folder) / STATISTICS
    statistics = Statistics.load(path, MEND)
    if _finished(folder, path.name) != files.file_checksum(path):
        raise ValueError(f"{path} is damaged (its checksum does not fit {MANIFEST}); {MEND}")
    return statistics


def stored_cutoff(folder: str | Path) -> float:
    """Cutoff of the neighbour graphs of a preprocessed folder, Angstrom; ``FileNotFoundError`` or
    ``ValueError`` without one.
    """
    path = Path(folder) / MANIFEST
    settings = files.read_json(path, MEND).get("settings")
    cutoff = settings.get("cutoff") if isinstance(settings, dict) else None
    try:
        return check_cutoff(cutoff)
    except (ValueError, TypeError):
        raise ValueError(f"{path} names no cutoff (it says {cutoff!r}); {MEND}") from None


def _finished(folder: str | Path, name: str) -> str:
    """Checksum of a finished file of a preprocessed folder; ``ValueError`` for one that is not
    finished.
    """
    manifest = files.read_json(Path(folder) / MANIFEST, MEND)
    if not isinstance(manifest.get("files"), dict) or name not in manifest["files"]:
        raise ValueError(
            f"{Path(folder) / MANIFEST} knows no {name}: the folder is not finished; {MEND}"
        )
    return manifest["files"][name]


class StructureDataset:
    """What data sets of structures share, whatever their labels are: sizes, and which atoms a batch
    gathers.

    positions (atoms, 3): as batches have them.
    """

    def __init__(self, structures: Structures, positions: torch.Tensor):
        self.structures, self.positions = structures, positions
        self.atomic_numbers = torch.from_numpy(structures.atomic_numbers)

    def __len__(self) -> int:
        return len(self.structures)

    @property
    def data_hash(self) -> str:
        """Identifies geometry and labels."""
        return self.structures.data_hash

    @property
    def atoms_per_structure(self) -> np.ndarray:
        """(structures,)"""
        return self.structures.counts

    def places(
        self, indices: int | Sequence[int] | np.ndarray
    ) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """The structures of a batch, as array and as tensor (graphs,), and their atoms (nodes,);
        ``IndexError`` for one there is not.
        """
        ids = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(f"structures are 0 .. {len(self) - 1}, got {ids.min()} .. {ids.max()}")
        atoms = rows_of(self.structures.offsets[ids], self.structures.counts[ids])
        return ids, torch.from_numpy(ids), torch.from_numpy(atoms)


class MoleculeDataset(StructureDataset):
    """Structures with their neighbour graphs; ``dataset[indices]`` makes the whole batch at once.

    Arguments
        structures  the data
        neighbors   their neighbour graphs, or a cutoff in Angstrom: they are then found here, in
                    memory
        references  Z -> eV: adds the label residual_energy = energy - sum of the references, small
                    enough for float32
        dtype       of positions and forces

    A batch has positions (nodes, 3), centred for open structures, atomic_numbers (nodes,), for
    periodic data cell (graphs, 3, 3), periodic (graphs, 3) and image_shift (edges, 3) int32, and
    the labels energy (graphs,) float64, forces (nodes, 3), stress (graphs, 3, 3), each if the data
    have it. Note that ``batch.to(dtype=float32)`` rounds the energy as well: compare
    residual_energy with the prediction less its references.
    """

    def __init__(
        self,
        structures: Structures,
        neighbors: NeighborStore | float,
        references: dict[int, float] | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        if not isinstance(neighbors, NeighborStore):
            structures = structures.wrapped()
            neighbors = NeighborStore.compute(structures, neighbors)
        if not np.array_equal(neighbors.nodes_per_graph, structures.counts):
            raise ValueError(
                f"the neighbour graphs ({len(neighbors)}) do not belong to the {len(structures)} "
                "structures; make them again"
            )
        super().__init__(structures, torch.from_numpy(_centred(structures)).to(dtype))
        self.neighbors, self.references = neighbors, references
        self.cell = torch.from_numpy(structures.cell).to(dtype) if neighbors.periodic else None
        self.periodic = torch.from_numpy(structures.periodic) if neighbors.periodic else None
        self.energy = torch.from_numpy(structures.energy_for("batches of energies and forces"))
        self.atom_labels = (
            {}
            if structures.forces is None
            else {"forces": torch.from_numpy(structures.forces).to(dtype)}
        )
        self.graph_labels = {"energy": self.energy}
        if references is not None:
            self.graph_labels["residual_energy"] = self.energy - torch.from_numpy(
                reference_energy(structures, references)
            )
        if structures.stress is not None:
            self.graph_labels["stress"] = torch.from_numpy(structures.stress).to(dtype)

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
        """The split ("train", "val", "test") of a preprocessed folder; cutoff: what the graphs must
        have been made with (None: any).

        verify and ``options``: as in :meth:`NeighborStore.open` and the constructor.
        ``FileNotFoundError`` or ``ValueError``: one line.
        """
        path = structures_file(folder, split)
        structures = Structures.load(path, MEND)
        _finished(folder, path.name)
        store = NeighborStore.open(
            graphs_folder(folder, split),
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
        labels = {
            name: values.index_select(0, chosen) for name, values in self.graph_labels.items()
        }
        labels |= {name: values.index_select(0, atoms) for name, values in self.atom_labels.items()}
        return AtomBatch(
            graph=graph,
            positions=self.positions.index_select(0, atoms),
            atomic_numbers=self.atomic_numbers.index_select(0, atoms),
            cell=None if self.cell is None else self.cell.index_select(0, chosen),
            periodic=None if self.periodic is None else self.periodic.index_select(0, chosen),
            image_shift=shift,
            labels=labels,
            cutoff=self.cutoff,
        )


def _centred(structures: Structures) -> np.ndarray:
    """Positions (atoms, 3) float64 with the centroid of every open structure at the origin;
    periodic ones stay.
    """
    shift = centroids(structures)
    if structures.periodic is not None:
        shift[structures.periodic.any(1)] = 0.0
    return structures.positions - shift[structures.structure_of_atom]
