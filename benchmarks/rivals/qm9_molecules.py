"""Molecules of a folder of preprocess_qm9 as schnetpack reads them; part of ``qm9_program.py``.

Imports nothing of farfield: its python has schnetpack alone. Neighbours are all pairs of atoms of a
molecule within the cutoff, listed once, before training. Labels are normalised by the training
split: a linear fit on the counts of the elements and the deviation from it for extensive targets,
mean and deviation for intensive ones. Cost: 12 bytes and a few microseconds for each edge.
"""

from pathlib import Path

import numpy as np
import schnetpack.properties as keys
import torch
from tqdm import tqdm

EXTENSIVE = ("alpha", "zpve", "U0", "U", "H", "G", "Cv", "U0_atom", "U_atom", "H_atom", "G_atom")
INTENSIVE = ("homo", "lumo", "gap")
TARGETS = (*EXTENSIVE, *INTENSIVE, "mu")
SPLITS = ("train", "val", "test")


class Molecules:
    """All molecules with their neighbours and normalised labels in memory.

    Arguments
        folder    holds molecules.npz (ends of molecules from ``counts``) and split.npz
        targets   names of the labels
        cutoff    Angstrom

    Attributes: ``split``, the molecules of each part; ``references`` and ``scales`` by target, so
    that label = (value - reference) / scale.
    """

    def __init__(self, folder: Path, targets: list[str], cutoff: float):
        with np.load(folder / "split.npz", allow_pickle=False) as file:
            self.split = {name: file[name] for name in SPLITS}
        with np.load(folder / "molecules.npz", allow_pickle=False) as file:
            self.numbers = file["atomic_numbers"]
            self.positions = file["positions"].astype(np.float64)
            self.counts = file["counts"]
            values = {name: file[f"extra_{name}"].astype(np.float64) for name in targets}
        self.first = np.concatenate([[0], np.cumsum(self.counts)])  # first atom of each molecule

        self.references, self.scales, self.labels = {}, {}, {}
        for name in targets:
            reference, scale = self._normalisation(name, values[name])
            self.references[name], self.scales[name] = reference, scale
            self.labels[name] = ((values[name] - reference) / scale).astype(np.float32)
        self.neighbours, self.vectors, self.edge_first = self._neighbours(cutoff)

    def _normalisation(self, name: str, values: np.ndarray) -> tuple[np.ndarray, float]:
        """Reference of every molecule (molecules,) and the scale, both from the training split."""
        train = self.split["train"]
        if name in EXTENSIVE:
            species = np.unique(self.numbers)
            counts = [np.add.reduceat(self.numbers == z, self.first[:-1]) for z in species]
            design = np.stack(counts, 1).astype(np.float64)
            reference = design @ np.linalg.lstsq(design[train], values[train], rcond=None)[0]
        elif name in INTENSIVE:
            reference = np.full(len(values), values[train].mean())
        else:
            reference = np.zeros(len(values))  # the length of a dipole
        return reference, float((values - reference)[train].std())

    def _neighbours(self, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of centre and neighbour (edges, 2), and vectors between them (edges, 3).

        Pairs count atoms inside their molecule. Third, the first edge of each molecule, and the
        number of all edges: (molecules + 1,).
        """
        pairs, vectors, counts = [], [], np.zeros(len(self.counts), np.int64)
        for molecule, count in enumerate(tqdm(self.counts, desc="neighbours", mininterval=1)):
            own = self.positions[self.first[molecule] : self.first[molecule] + count]
            between = own[None, :] - own[:, None]  # [i, j] points from i to j
            squared = np.einsum("ijk,ijk->ij", between, between)
            np.fill_diagonal(squared, np.inf)

            centre, neighbour = np.nonzero(squared < cutoff**2)
            pairs.append(np.stack([centre, neighbour], 1).astype(np.int16))
            vectors.append(between[centre, neighbour].astype(np.float32))
            counts[molecule] = len(centre)
        first = np.concatenate([[0], np.cumsum(counts)])
        return np.concatenate(pairs), np.concatenate(vectors), first

    def batch(self, chosen: np.ndarray) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """schnetpack's dictionary of inputs, and the labels, of the chosen molecules."""
        atoms, of_atom, counts = _rows(self.first, chosen)
        edges, of_edge, _ = _rows(self.edge_first, chosen)

        # Centroids at zero; pairs count atoms of the whole batch.
        first = np.cumsum(counts) - counts
        positions = self.positions[atoms]
        centres = np.add.reduceat(positions, first) / counts[:, None]
        pairs = self.neighbours[edges].astype(np.int64) + first[of_edge][:, None]
        inputs = {
            keys.Z: torch.from_numpy(self.numbers[atoms].astype(np.int64)),
            keys.idx_m: torch.from_numpy(of_atom),
            keys.R: torch.from_numpy((positions - centres[of_atom]).astype(np.float32)),
            keys.n_atoms: torch.from_numpy(counts),
            keys.Rij: torch.from_numpy(self.vectors[edges]),
            keys.idx_i: torch.from_numpy(pairs[:, 0].copy()),
            keys.idx_j: torch.from_numpy(pairs[:, 1].copy()),
        }
        labels = {name: torch.from_numpy(values[chosen]) for name, values in self.labels.items()}
        return inputs, labels


def _rows(first: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the chosen molecules, the place in ``chosen`` of each row, and how many each has."""
    counts = first[chosen + 1] - first[chosen]
    place = np.repeat(np.arange(len(chosen)), counts)
    shift = first[chosen] - (np.cumsum(counts) - counts)
    return np.arange(counts.sum()) + shift[place], place, counts
