"""What a network of a diffusion makes of a few molecules: clean, noised, found again by one step.

    x_0^ = (x_t - sqrt(bbar_t) eps^(x_t, t)) / sqrt(abar_t)

for a time early in the process and a later one. A network that guesses the time is asked for both.
Cost: one pass over a few molecules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from farfield.dataloader.datasets.diffusion_data import DiffusionDataset
from farfield.dataloader.structures import Structures
from farfield.models.batch import AtomBatch
from farfield.train.molecule_pictures import Picture
from farfield.train.tasks.diffusion_errors import times_of_molecules

MOLECULES = 3
TIMES = (0.1, 0.4)  # of the process, from a molecule to noise


@torch.no_grad()
def molecule_pictures(
    model: nn.Module, dataset: DiffusionDataset, device: torch.device | str
) -> list[list[Picture]]:
    """A row for each of a few molecules of the data set: clean, then noised and found at each time.

    Above noised and found molecules stands the root mean square distance to the clean one. model:
    gives "noise", in evaluation mode.
    """
    process, count = dataset.process, min(MOLECULES, len(dataset))
    places = np.linspace(0, len(dataset) - 1, count).astype(np.int64)
    rows = [[Picture("clean", _about_mean(dataset.structures[[place]]))] for place in places]

    for time in TIMES:
        index = round(time * process.last)
        batch = dataset.at_times(places, [index] * count)
        predicted = {name: out.cpu() for name, out in model(batch.to(device=device)).items()}
        found = _found(dataset, batch, predicted)
        noised, found = _structures(batch), _structures(found)
        for place, row in enumerate(rows):
            clean = row[0].molecule
            row.append(_compared(f"t = {index}", noised[[place]], clean))
            row.append(_compared("found", found[[place]], clean))
    return rows


def _compared(words: str, molecule: Structures, clean: Structures) -> Picture:
    """A molecule under its distance to the clean one; one that is not finite is not shown."""
    if not np.isfinite(molecule.positions).all():
        return Picture(f"{words}, not finite", molecule[:0])
    return Picture(f"{words}, {_distance(molecule, clean):.2f} A", molecule)


def _found(
    dataset: DiffusionDataset, batch: AtomBatch, predicted: Mapping[str, Tensor]
) -> AtomBatch:
    """The molecules that the noise found in them speaks for."""
    time = batch.labels["time"] if dataset.told else times_of_molecules(predicted["time"], batch)
    process = dataset.process
    index = process.index(time.nan_to_num(1.0))
    clean = process.clean(batch.graph, batch.positions, index, predicted["noise"])
    return dataclasses.replace(batch, positions=clean)


def _structures(batch: AtomBatch) -> Structures:
    """Elements and positions of a batch."""
    positions = batch.positions.double().numpy()
    counts = batch.graph.nodes_per_graph.numpy()
    return Structures(batch.atomic_numbers.numpy(), positions, counts, check=False)


def _about_mean(molecule: Structures) -> Structures:
    """A molecule where batches have it."""
    positions = molecule.positions - molecule.positions.mean(0)
    return Structures(molecule.atomic_numbers, positions, molecule.counts, check=False)


def _distance(one: Structures, other: Structures) -> float:
    """Root mean square distance of the atoms of two molecules, as they lie."""
    return float(np.sqrt(np.square(one.positions - other.positions).sum(1).mean()))
