"""Several sets of structures as one: a batch holds structures of any of them.

Labels that a batch has are those that all sets have. Open sets get cells of zeros, and zeros as
their stress, where others are periodic. ``graph_features["set_index"]`` says which set a structure
belongs to. Cost: one batch of each set and a copy of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from farfield.dataloader.storage.files import json_checksum
from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import GraphIndex
from farfield.models.heads.per_set import SET_INDEX

CELL_LABELS = ("cell", "stress")  # an open set has them as zeros


class JoinedSets:
    """The same split of several sets; ``dataset[indices]`` is a batch.

    Arguments
        sets     name -> data set (`MoleculeDataset` or `StreamedDataset`), of one cutoff
        weights  how often an epoch draws each structure of a set, see `SetPlan`

    Structures are numbered set by set. ``ValueError`` for sets of several cutoffs.
    """

    def __init__(self, sets: dict, weights: Sequence[float]):
        self.sets, self.set_weights = dict(sets), list(weights)
        self.names = list(sets)
        self._members = list(sets.values())
        self.set_sizes = [len(member) for member in self._members]
        self._first = np.concatenate([[0], np.cumsum(self.set_sizes)])

        cutoffs = {name: member.cutoff for name, member in sets.items()}
        if len(set(cutoffs.values())) > 1:
            said = ", ".join(f"{name} {cutoff} A" for name, cutoff in cutoffs.items())
            raise ValueError(
                f"the sets were preprocessed with several cutoffs ({said}); preprocess all with one"
            )
        self.cutoff = self._members[0].cutoff
        self._cells = self.has("cell")

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def data_hash(self) -> str:
        """Identifies the sets, their names and their order."""
        return json_checksum([[name, member.data_hash] for name, member in self.sets.items()])

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that occur in some set, in order."""
        return sorted(set().union(*(member.elements for member in self._members)))

    @property
    def atoms_per_structure(self) -> np.ndarray:
        """(structures,)"""
        return np.concatenate([member.atoms_per_structure for member in self._members])

    @property
    def edges_per_structure(self) -> np.ndarray:
        """(structures,)"""
        return np.concatenate([member.edges_per_structure for member in self._members])

    def has(self, label: str) -> bool:
        """Whether batches have a label: all sets do, or the others are open and it is of cells."""
        having = [member for member in self._members if member.has(label)]
        lacking = [member for member in self._members if not member.has(label)]
        if label in CELL_LABELS and having:
            return not any(member.has("cell") for member in lacking)
        return not lacking

    def summary(self) -> str:
        """Lines for the reader, set by set."""
        lines = [f"{len(self)} structures of {len(self.sets)} sets"]
        for (name, member), weight in zip(self.sets.items(), self.set_weights, strict=True):
            lines.append(f"  {name} (weight {weight:g}): {member.summary()}")
        return "\n".join(lines)

    def largest_of_each_kind(self) -> np.ndarray:
        """The largest structure of each kind of periodicity of every set (kinds,)."""
        places = [
            first + member.largest_of_each_kind()
            for first, member in zip(self._first, self._members, strict=False)
        ]
        return np.concatenate(places)

    def __getitem__(self, indices: int | Sequence[int] | np.ndarray) -> AtomBatch:
        ids = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(f"structures are 0 .. {len(self) - 1}, got {ids.min()} .. {ids.max()}")

        # one batch for each run of structures of one set, so that the order stays
        owner = np.searchsorted(self._first, ids, side="right") - 1
        parts = []
        for run in np.split(np.arange(len(ids)), np.flatnonzero(np.diff(owner)) + 1):
            number = int(owner[run[0]])
            parts.append(self._part(number, ids[run] - self._first[number]))
        return joined_batch(parts)

    def _part(self, number: int, ids: np.ndarray) -> AtomBatch:
        """Structures of one set as batches of all sets have them."""
        batch = self._members[number][ids]
        graphs, positions = batch.num_graphs, batch.positions
        batch.graph_features[SET_INDEX] = torch.full((graphs,), number)
        if self._cells and batch.cell is None:
            batch.cell = positions.new_zeros(graphs, 3, 3)
            batch.periodic = torch.zeros(graphs, 3, dtype=torch.bool)
            batch.image_shift = torch.zeros(batch.num_edges, 3, dtype=torch.int32)
        if "stress" not in batch.labels and self.has("stress"):
            batch.labels["stress"] = positions.new_zeros(graphs, 3, 3)

        derived = {"residual_energy": "energy"}
        batch.labels = {
            name: values
            for name, values in batch.labels.items()
            if self.has(derived.get(name, name))
        }
        return batch


def joined_batch(parts: Sequence[AtomBatch]) -> AtomBatch:
    """Batches one after the other as one; features that not all of them have are left out.

    All or none of them have cells. They have no cached basis and one cutoff.
    """
    if len(parts) == 1:
        return parts[0]
    graphs = [part.graph for part in parts]
    first = np.cumsum([0, *(graph.num_nodes for graph in graphs)]).tolist()
    graph = GraphIndex(
        torch.cat([one.src + node for one, node in zip(graphs, first, strict=False)]),
        torch.cat([one.dst + node for one, node in zip(graphs, first, strict=False)]),
        torch.cat([one.nodes_per_graph for one in graphs]),
    )

    def joined(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    def joined_all(name: str) -> dict[str, Tensor]:
        held = [getattr(part, name) for part in parts]
        common = [key for key in held[0] if all(key in one for one in held)]
        return {key: torch.cat([one[key] for one in held]) for key in common}

    return AtomBatch(
        graph=graph,
        positions=joined("positions"),
        atomic_numbers=joined("atomic_numbers"),
        cell=joined("cell"),
        periodic=joined("periodic"),
        image_shift=joined("image_shift"),
        labels=joined_all("labels"),
        graph_features=joined_all("graph_features"),
        position_remainder=joined("position_remainder"),
        cutoff=parts[0].cutoff,
    )
