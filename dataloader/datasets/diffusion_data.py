"""Noised molecules as batches, with the noise and the time of each as labels.

    x_t = sqrt(abar_t) x_0 + sqrt(bbar_t) eps,    t uniform in 0 .. T - 1,    eps centred noise

with the steps of models.diffusion.process. Time and noise of a training molecule are a pure
function of (seed, epoch, molecule), those of an evaluation are fixed for each molecule of a split
(``epoch_draws.py``); a filter by size does not change them. Only elements, positions and the
numbers that a network reads are taken from a prepared folder, of whichever script it is.

Cost: a generator for each molecule and a few gathers; the edges are all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from farfield.dataloader import prepared_folder
from farfield.dataloader.datasets import property_data
from farfield.dataloader.datasets.epoch_draws import Chosen, Draws, epoch_and_indices
from farfield.dataloader.datasets.molecule_sizes import MoleculeSizes
from farfield.dataloader.datasets.structure_dataset import StructureDataset, read_inputs
from farfield.dataloader.structures import Structures
from farfield.models.batch import AtomBatch
from farfield.models.choices import check_choice
from farfield.models.complete_graphs import ragged_complete_edges
from farfield.models.diffusion.process import DiffusionProcess
from farfield.models.graph_ops import GraphIndex

TIME = "time"  # label, and input of a network that is told


class DiffusionDataset(StructureDataset):
    """Noised molecules of one split; ``dataset[indices]`` is a batch.

    Arguments
        structures  clean molecules in open space
        split       "train", "val" or "test"; each has noise of its own
        process     the steps of the diffusion
        seed        of times and noise of training batches
        sizes       which molecules are taken
        told        whether a network is told the time: a batch then has it as a graph feature
        dtype       of positions, noise and time; everything is computed in float64
        inputs      names in ``structures.extra`` with one value a molecule (total_charge, spin):
                    they become ``graph_features`` of a batch
        optional_inputs  further such names, read if the structures have them

    ``dataset[EpochIndices(epoch, indices)]`` is a batch of training with the times and the noise of
    that epoch, ``dataset[indices]`` a batch of evaluation.

    A batch has positions (nodes, 3), Angstrom, about their mean; atomic_numbers (nodes,); all pairs
    of each molecule as edges; labels ``noise`` (nodes, 3) and ``time`` (graphs,) in [0, 1].
    ``ValueError`` for structures that repeat in space, and where no molecule has the sizes.
    """

    def __init__(
        self,
        structures: Structures,
        split: str,
        process: DiffusionProcess,
        seed: int = 0,
        sizes: MoleculeSizes | None = None,
        told: bool = True,
        dtype: torch.dtype = torch.float32,
        inputs: Sequence[str] = (),
        optional_inputs: Sequence[str] = (),
    ):
        check_open(structures)
        self.numbers = (sizes or MoleculeSizes()).chosen(structures)  # places in the split
        kept = structures[self.numbers]
        super().__init__(kept, torch.from_numpy(kept.positions))
        self.draws, self.process, self.told, self.dtype = Draws(split, seed), process, told, dtype

        names = [name for name in inputs if name != TIME]
        self.graph_inputs = read_inputs(kept, names, dtype, optional_inputs)

    @classmethod
    def open(
        cls, folder: str | Path, split: str, process: DiffusionProcess, seed: int = 0, **options
    ) -> DiffusionDataset:
        """The split of a folder of any script that prepares molecules.

        options: of the constructor. ``FileNotFoundError`` or ``ValueError`` with one line.
        """
        structures = open_structures(folder, split)
        try:
            return cls(structures, split, process, seed, **options)
        except ValueError as error:
            raise ValueError(f"{split} split of {folder}: {error}") from None

    @property
    def edges_per_structure(self) -> np.ndarray:
        """Directed edges (structures,)."""
        return self.structures.counts * (self.structures.counts - 1)

    def __getitem__(self, chosen: Chosen) -> AtomBatch:
        epoch, indices = epoch_and_indices(chosen)
        ids, *_ = self.places(indices)
        drawn = [self._drawn(place, epoch) for place in ids.tolist()]
        index = torch.tensor([one.index for one in drawn], dtype=torch.int64)
        return self._noised(ids, index, drawn)

    def at_times(self, indices: Sequence[int] | np.ndarray, index: Sequence[int]) -> AtomBatch:
        """A batch of molecules at given times t of the process, with the noise of an evaluation."""
        ids, *_ = self.places(indices)
        drawn = [self._drawn(place, None) for place in ids.tolist()]
        return self._noised(ids, torch.tensor(index, dtype=torch.int64), drawn)

    def _noised(self, ids: np.ndarray, index: torch.Tensor, drawn: Sequence[_Drawn]) -> AtomBatch:
        """Molecules at the times ``index`` (graphs,), with the noise that was drawn for them."""
        _, places, atoms = self.places(ids)
        noise = torch.from_numpy(np.concatenate([one.noise for one in drawn]))  # (nodes, 3)

        # all pairs, and positions at the time of each molecule
        counts = torch.from_numpy(self.structures.counts[ids])
        graph = GraphIndex(*ragged_complete_edges(counts), counts)
        clean = self.positions.index_select(0, atoms)
        positions = self.process.noised(graph, clean, index, noise)

        time = self.process.time(index).to(self.dtype)
        inputs = {
            name: values.index_select(0, places) for name, values in self.graph_inputs.items()
        }
        return AtomBatch(
            graph=graph,
            positions=positions.to(self.dtype),
            atomic_numbers=self.atomic_numbers.index_select(0, atoms),
            graph_features={**inputs, TIME: time} if self.told else inputs,
            labels={"noise": noise.to(self.dtype), TIME: time},
        )

    def _drawn(self, place: int, epoch: int | None) -> _Drawn:
        """Time and noise of a molecule; epoch: None for an evaluation."""
        generator = self.draws.generator(epoch, int(self.numbers[place]))
        index = int(generator.integers(self.process.options.time_steps))
        noise = generator.standard_normal((int(self.structures.counts[place]), 3))
        return _Drawn(index, noise - noise.mean(0))


class _Drawn(NamedTuple):
    """Time index of a molecule and its centred noise (atoms, 3) float64."""

    index: int
    noise: np.ndarray


def open_structures(folder: str | Path, split: str) -> Structures:
    """Structures of a split of any prepared folder, without its graphs.

    ``FileNotFoundError`` or ``ValueError`` with one line.
    """
    check_choice("split", split, prepared_folder.SPLITS)
    folder = Path(folder)
    if not (folder / property_data.MOLECULES).exists():
        return prepared_folder.finished_structures(folder, split)
    property_data.read_settings(folder)  # refuses a folder that is not finished
    molecules, parts = property_data.read_molecules(folder)
    return molecules[getattr(parts, split)]


def check_open(structures: Structures) -> None:
    """``ValueError`` for structures of which some repeat in space."""
    if structures.periodic is not None and structures.periodic.any():
        place = int(structures.periodic.any(1).argmax())
        raise ValueError(
            f"diffusion is for molecules in open space, structure {place} is periodic; give "
            "structures without cells"
        )
