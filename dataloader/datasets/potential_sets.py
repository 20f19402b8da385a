"""Structures with energies and forces, wherever they lie: a folder, one LMDB file, or several of
these; and their statistics.

Sets that share one energy head share their reference energies, which a sample of all of them
decides; sets with heads of their own have statistics of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from farfield.dataloader.datasets.joined_sets import JoinedSets
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.datasets.streamed_data import StreamedDataset
from farfield.dataloader.label_statistics import Statistics
from farfield.dataloader.prepared_folder import load_statistics, stored_cutoff
from farfield.dataloader.sampled_statistics import sample_of, sampled_statistics
from farfield.dataloader.set_names import parse_sets, parse_weights
from farfield.dataloader.storage.structure_lmdb import is_lmdb_name
from farfield.dataloader.structures import Structures

PotentialData = MoleculeDataset | StreamedDataset | JoinedSets


def open_potential_data(path: str | Path, split: str, **options) -> PotentialData:
    """The split of a folder, or of an LMDB file (a name that ends in .lmdb).

    options: of :meth:`MoleculeDataset.open`. ``FileNotFoundError`` or ``ValueError``, one line.
    """
    if is_lmdb_name(path):
        return StreamedDataset(path, split, **options)
    return MoleculeDataset.open(path, split, **options)


def open_sets(
    data_path: str,
    split: str,
    references: Sequence[Mapping[int, float]],
    weights: str | None = None,
    **options,
) -> PotentialData:
    """The split of one set or of several, as ``--data-path`` and ``--set-weights`` name them.

    references: Z -> eV of each set, or one for all of them. options, errors: see
    :func:`open_potential_data`; also ``ValueError`` for weights of a single set.
    """
    sets = parse_sets(data_path)
    if len(sets) == 1:
        if weights is not None:
            raise ValueError(
                f"--set-weights {weights} weighs several sets, --data-path names one; leave it out"
            )
        (path,) = sets.values()
        return open_potential_data(path, split, references=dict(references[0]), **options)

    own = list(references) if len(references) > 1 else [references[0]] * len(sets)
    members = {
        name: open_potential_data(path, split, references=dict(energies), **options)
        for (name, path), energies in zip(sets.items(), own, strict=True)
    }
    return JoinedSets(members, parse_weights(weights, list(sets)))


def cutoff_of_sets(data_path: str) -> float:
    """Cutoff of the neighbour graphs of all sets, Angstrom; ``ValueError`` for several."""
    found = {name: stored_cutoff(path) for name, path in parse_sets(data_path).items()}
    if len(set(found.values())) > 1:
        said = ", ".join(f"{name} {cutoff} A" for name, cutoff in found.items())
        raise ValueError(
            f"the sets were preprocessed with several cutoffs ({said}); preprocess all with one"
        )
    return next(iter(found.values()))


def statistics_of_each(data_path: str) -> dict[str, Statistics]:
    """Statistics of the training split of each set."""
    return {name: load_statistics(path) for name, path in parse_sets(data_path).items()}


def statistics_of_all(data_path: str) -> Statistics:
    """Statistics of the training splits of all sets together, from a sample of each."""
    sets = parse_sets(data_path)
    if len(sets) == 1:
        return load_statistics(next(iter(sets.values())))

    # 20,000 structures of each set at most
    samples, edges, counts = [], 0, []
    for path in sets.values():
        dataset = open_potential_data(path, "train")
        chosen = sample_of(len(dataset))
        samples.append(_sample(dataset, chosen))
        edges += int(dataset.edges_per_structure[chosen].sum())
        counts.append(dataset.atoms_per_structure)
    return sampled_statistics(_joined(samples), edges, np.concatenate(counts))


def _sample(dataset: MoleculeDataset | StreamedDataset, chosen: np.ndarray) -> Structures:
    if isinstance(dataset, StreamedDataset):
        return dataset.read(chosen)
    return dataset.structures[chosen]


def _joined(samples: Sequence[Structures]) -> Structures:
    """All samples, with the labels that all of them have; the stress of open sets is zero."""
    periodic = any(sample.periodic is not None for sample in samples)
    for sample in samples:
        sample.names, sample.extra = None, {}
        if periodic and sample.periodic is None and sample.stress is None:
            sample.stress = np.zeros((len(sample), 3, 3))
    for label in ("forces", "stress", "charges", "dipole"):
        if any(getattr(sample, label) is None for sample in samples):
            for sample in samples:
                setattr(sample, label, None)
    return Structures.concatenate(samples)
