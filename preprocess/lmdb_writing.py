"""One LMDB file of splits, made from a source of structures: ``--out x.lmdb``.

The file is described in dataloader.storage.structure_lmdb. It holds what a folder holds but for the
neighbour graphs: their edges are counted for batches with a limit of edges, and found again when a
batch is made. Statistics of the training split come from a sample
(dataloader.sampled_statistics). The file is whole or missing; the same command finds it, another
one is refused unless ``--rebuild`` says so. Cost: 0.2 ms for a structure of 9 atoms, most of it for
its edges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from farfield.common.folder_lock import only_process
from farfield.common.log import count_bar
from farfield.common.quantities import file_size
from farfield.dataloader.graphs import NeighborStore
from farfield.dataloader.prepared_folder import LMDB_HINT
from farfield.dataloader.reference_energies import AVERAGE, ISOLATED, chosen_references
from farfield.dataloader.sampled_statistics import (
    SAMPLE,
    SEED,
    sample_with_all_elements,
    sampled_statistics,
)
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.splits import Split
from farfield.dataloader.storage import files
from farfield.dataloader.storage.structure_lmdb import (
    StructureLmdb,
    StructureLmdbWriter,
    fields_of,
    is_lmdb_name,
)
from farfield.dataloader.structures import EXTRA, Structures
from farfield.preprocess.manifest import REPLACE_HINT
from farfield.preprocess.structure_folder import (
    FolderPlan,
    divide,
    make_folder,
    print_statistics,
)

STRUCTURES_PER_STEP = 2000


def make_set(path: str | Path, plan: FolderPlan, rebuild: bool = False) -> None:
    """Write a folder, or one LMDB file where the name says so; errors as those of either."""
    make = make_lmdb if is_lmdb_name(path) else make_folder
    make(path, plan, rebuild)


def make_lmdb(path: str | Path, plan: FolderPlan, rebuild: bool = False) -> None:
    """Write the file ``path`` if it is missing, and print what is in it.

    rebuild: replace what is there. ``ValueError`` or ``OSError`` in one line for a file that was
    made from something else, and for what cannot be read or written.
    """
    path = Path(path)
    with only_process(path.with_name(f".{path.name}.lock"), "--out"):
        _make_alone(path, plan, rebuild)
    report(path)


def _make_alone(path: Path, plan: FolderPlan, rebuild: bool) -> None:
    """The same, where no other process makes the file."""
    if path.exists() and not rebuild:
        _check_same(path, plan)
    else:
        everything, split = divide(plan)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.atomic_write(path) as temporary:
                _write(temporary, plan, everything, split)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise ValueError(
                f"--out {path} cannot be written ({error.strerror}); give another --out"
            ) from None


def _check_same(path: Path, plan: FolderPlan) -> None:
    """``ValueError`` for a file that was made from other settings or other sources."""
    header = StructureLmdb.open(path, LMDB_HINT).header
    for name in sorted({*plan.settings, *header["settings"]}):
        found, needed = header["settings"].get(name), plan.settings.get(name)
        if found != needed:
            raise ValueError(
                f"{path} holds data with {name} {found}, but {needed} is needed; {REPLACE_HINT}"
            )

    # a finished file stays good when the files that it came from are gone
    sources = [file for group in plan.source_files.values() for file in group]
    if all(file.is_file() for file in sources) and header["source"] != _source(plan):
        raise ValueError(f"{path} was made from other source files; {REPLACE_HINT}")


def _source(plan: FolderPlan) -> list[list[str]]:
    """Kind, name and SHA-256 of every source file."""
    return [
        [group, path.name, files.file_checksum(path)]
        for group, paths in plan.source_files.items()
        for path in paths
    ]


def _write(path: Path, plan: FolderPlan, everything: Structures, split: Split) -> None:
    """Write all structures, split by split, then what the file says of itself."""
    fields = fields_of(everything)
    kept = {field.name for field in fields}
    for name in everything.extra:
        if EXTRA + name not in kept:
            print(f"note: not kept, since it is no number: {name}")

    writer = StructureLmdbWriter(path, fields)

    # structures split by split, and what the header says of each split
    words: dict[str, dict] = {"splits": {}, "elements": {}, "hashes": {}, "summaries": {}}
    edges: dict[str, np.ndarray] = {}
    for name in SPLITS:
        part = everything[getattr(split, name)]
        edges[name] = _written(writer, name, part, plan.cutoff)
        words["splits"][name] = len(part)
        words["elements"][name] = part.elements.tolist()
        words["hashes"][name] = part.data_hash
        words["summaries"][name] = part.summary()

    train = everything[split.train]
    writer.finish(
        words
        | {
            "theory": everything.theory,
            "cutoff": float(plan.cutoff),
            "protocol": split.settings,
            "settings": plan.settings,
            "source": _source(plan),
        }
        | _statistics(plan, train, edges["train"], split)
    )


def _written(writer: StructureLmdbWriter, name: str, part: Structures, cutoff: float) -> np.ndarray:
    """Write a split; directed edges of its structures (structures,)."""
    counts = []
    with count_bar(len(part), f"write {name}", "structures") as bar:
        for group in _groups(part):
            counts.append(NeighborStore.compute(group, cutoff).edges_per_graph)
            writer.add(group, counts[-1])
            bar.update(len(group))
    return np.concatenate(counts)


def _groups(structures: Structures) -> Iterator[Structures]:
    for first in range(0, len(structures), STRUCTURES_PER_STEP):
        yield structures[first : first + STRUCTURES_PER_STEP]


def _statistics(plan: FolderPlan, train: Structures, edges: np.ndarray, split: Split) -> dict:
    """Statistics of the training split, and the sample that they come from."""
    chosen = sample_with_all_elements(train)
    sample, given = train[chosen], plan.references
    if given == ISOLATED:
        given = {int(z): energy for z, energy in split.settings["references"].items()}
    references = None if given == AVERAGE else chosen_references(train, given)
    found = sampled_statistics(sample, int(edges[chosen].sum()), train.counts, references)
    return {
        "statistics": dataclasses.asdict(found),
        "statistics_sample": {"structures": len(chosen), "drawn": SAMPLE, "seed": SEED},
    }


def report(path: Path) -> None:
    """Print the splits with their labels, and the statistics of the training split."""
    file = StructureLmdb.open(path, LMDB_HINT)
    header = file.header
    protocol, sample = header["protocol"], header["statistics_sample"]
    print(
        f"{path}: {file_size(path.stat().st_size)}, split {protocol['name']} with seed "
        f"{protocol['seed']}"
    )

    for name, numbers in file.splits.items():
        print(f"{name}: {header['summaries'][name]}")
        edges = int(file.edges[numbers.start : numbers.stop].sum())
        print(f"  {edges} edges within {header['cutoff']} Angstrom")

    print(
        f"statistics from {sample['structures']} of {len(file.splits['train'])} training "
        f"structures (seed {sample['seed']})"
    )
    print_statistics(path)
