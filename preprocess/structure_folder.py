"""A folder of splits with neighbour graphs, made from a source of structures.

The files of the folder are described in dataloader.prepared_folder. Every file is complete or
missing; when a folder is used again, and when it is refused: see preprocess.manifest. Cost: 0.1 ms
for a structure of 9 atoms, some ms for one of several hundred.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from farfield.common.log import count_bar
from farfield.common.quantities import file_size
from farfield.dataloader.graphs import NeighborStore, check_cutoff
from farfield.dataloader.label_checks import SAMPLE
from farfield.dataloader.label_statistics import Statistics
from farfield.dataloader.prepared_folder import (
    MANIFEST,
    SPLIT_FILE,
    STATISTICS,
    graphs_folder,
    load_statistics,
    structures_file,
)
from farfield.dataloader.reference_energies import (
    AVERAGE,
    ISOLATED,
    charge_offsets,
    chosen_references,
    isolated_atoms,
    isolated_references,
    reference_limits,
)
from farfield.dataloader.sources.source_registry import Source
from farfield.dataloader.split_protocols import (
    SPLITS,
    USUAL_SIZES,
    SplitOptions,
    too_small_for_usual_sizes,
)
from farfield.dataloader.splits import Split, make_split, split_by_files
from farfield.dataloader.storage.files import REBUILD_HINT
from farfield.dataloader.structures import LABELS_OF_CHARGE, Structures
from farfield.preprocess.label_report import FrameNames, report_labels
from farfield.preprocess.manifest import Manifest, being_made, remove
from farfield.preprocess.progress import download_bar, reading_bar

FORMAT = 2


@dataclasses.dataclass(frozen=True)
class FolderPlan:
    """What a folder is made from.

    protocol and options divide the structures of the source; cutoff: of the neighbour graphs,
    Angstrom. references: what ``parse_references`` gives. without_new_elements: leave out
    structures of val and test with elements that no training structure has. check_labels: a mode of
    dataloader.label_checks; the files do not depend on it.
    """

    source: Source
    protocol: str
    options: SplitOptions
    cutoff: float
    references: str | dict[int, float] = AVERAGE
    without_new_elements: bool = False
    check_labels: str = SAMPLE

    @property
    def settings(self) -> dict:
        """Everything that the files depend on, as the manifest stores it.

        Options that older folders do not know are named where they are not the default.
        """
        named = {}
        if self.references != AVERAGE:
            named["references"] = self.references
        if isinstance(self.references, dict):
            named["references"] = {str(z): energy for z, energy in self.references.items()}
        if self.without_new_elements:
            named["without_new_elements"] = True
        return named | {
            "format": FORMAT,
            "reading": self.source.words,
            "cutoff": check_cutoff(self.cutoff),
            "split": self.protocol,
            "split_options": dataclasses.asdict(self.options),
        }

    @property
    def source_files(self) -> dict[str, tuple[Path, ...]]:
        """Files of the source by what becomes of them, as the manifest stores it."""
        groups = {"train and val": self.source.paths, "test": self.source.test_paths}
        return groups | ({"val": self.source.val_paths} if self.source.val_paths else {})


def make_folder(folder: str | Path, plan: FolderPlan, rebuild: bool = False) -> None:
    """Write everything that ``folder`` lacks and print what is in it.

    rebuild: replace what is there, once the new structures are read. ``ValueError`` or ``OSError``
    with one line.
    """
    folder = Path(folder)
    with being_made(folder):
        divided = None
        if rebuild:
            divided = divide(plan)
            remove_all(folder)
        manifest = make_splits(folder, plan, divided)
        stores = {split: make_graphs(folder, split, plan.cutoff) for split in SPLITS}
        train = Structures.load(structures_file(folder, "train"), REBUILD_HINT)
        references = training_references(folder, plan, train)
        statistics = Statistics.of(train, stores["train"].num_edges, references)
        manifest.add(STATISTICS, statistics.save)
    report(folder, plan.source, stores)


def remove_all(folder: Path) -> None:
    """Remove everything that :func:`make_folder` has written into ``folder``."""
    pieces = [structures_file(folder, split) for split in SPLITS]
    pieces += [graphs_folder(folder, split) for split in SPLITS]
    remove([folder / MANIFEST, folder / SPLIT_FILE, folder / STATISTICS, *pieces])


def divide(plan: FolderPlan) -> tuple[Structures, Split]:
    """All structures of the source, downloaded where needed, and their split."""
    source = plan.source
    source.obtain(download_bar)

    # in this order: the splits count from the end
    pool = _read_files(source, source.paths)
    val = _read_files(source, source.val_paths)
    test = _read_files(source, source.test_paths)
    parts = [*pool, *val, *test]
    everything = Structures.concatenate(parts).wrapped()
    report_labels(everything, FrameNames(source, parts), plan.check_labels)
    _say_what_is_lost(everything, parts)
    counts = [sum(map(len, group)) for group in (pool, val, test)]
    everything, counts = _selected(source, everything, counts)
    count, data_hash = len(everything), everything.data_hash

    if source.val_paths:
        split = split_by_files(*counts, data_hash)
    else:
        groups = source.groups(everything)
        split = make_split(plan.protocol, count, data_hash, plan.options, counts[2], groups)
        if plan.protocol == "random" and not counts[2] and groups is None:
            _say_if_fractions(count, plan.options)
    split = _without_isolated_atoms(everything, split, plan)
    if plan.without_new_elements:
        split = _without_new_elements(everything, split)
    for name in ("val", "test"):
        _warn_of_copies(everything, split, name)
        _warn_of_new_elements(everything, split, name)
    return everything, split


def training_references(
    folder: Path, plan: FolderPlan, train: Structures
) -> dict[int, float] | None:
    """Reference energies that the plan names, Z -> eV, for the training structures; None: a fit.

    Energies of isolated atoms are kept in the split file.
    """
    given = plan.references
    if given == ISOLATED:
        stored = Split.load(folder / SPLIT_FILE).settings["references"]
        given = {int(number): energy for number, energy in stored.items()}
    return None if given == AVERAGE else chosen_references(train, given)


def _without_isolated_atoms(structures: Structures, split: Split, plan: FolderPlan) -> Split:
    """The split without frames of single atoms, and their energies in its settings, if they are the
    references; else a hint that they might be.
    """
    alone = isolated_atoms(structures)
    if plan.references != ISOLATED:
        if alone.any() and not alone.all():
            print(
                f"note: {int(alone.sum())} frames are isolated atoms and belong to the splits like "
                f"others; --E0s {ISOLATED} makes them the reference energies"
            )
        return split

    energies = isolated_references(structures)
    found = ", ".join(f"{chemical_symbols[z]} {energy:.6f}" for z, energy in energies.items())
    print(f"reference energies of {int(alone.sum())} isolated atoms (eV): {found}")
    kept = {name: part[~alone[part]] for name, part in _parts(split).items()}
    settings = split.settings | {"references": {str(z): e for z, e in energies.items()}}
    return dataclasses.replace(split, **kept, settings=settings)


def _without_new_elements(structures: Structures, split: Split) -> Split:
    """The split without structures of val and test whose elements no training structure has."""
    known = structures[split.train].elements
    foreign = ~np.isin(structures.atomic_numbers, known)
    new = np.bincount(structures.structure_of_atom[foreign], minlength=len(structures)) > 0

    for name in ("val", "test"):
        part = getattr(split, name)
        left_out = part[new[part]]
        if len(left_out):
            elements = np.setdiff1d(structures[left_out].elements, known)
            symbols = ", ".join(chemical_symbols[number] for number in elements)
            print(
                f"{name}: {len(left_out)} structures with {symbols} left out, which no training "
                "structure has"
            )

    kept = {name: part[~new[part]] for name, part in _parts(split).items()}
    return dataclasses.replace(split, **kept)


def _parts(split: Split) -> dict[str, np.ndarray]:
    """Indices of each split by its name."""
    return {name: getattr(split, name) for name in SPLITS}


def _read_files(source: Source, paths: Sequence[Path]) -> list[Structures]:
    """The structures of each file, named after the file if they have no names."""
    parts = []
    for path in paths:
        with reading_bar(path, "frame") as bar:
            part = source.read(path, bar.update)
        print(f"{path}: {len(part)} structures, {source.units}")
        for remark in part.remarks:
            print(f"  {remark}")
        if part.names is None:
            part.names = np.full(len(part), path.stem)
        parts.append(part)
    return parts


def _selected(
    source: Source, everything: Structures, counts: Sequence[int]
) -> tuple[Structures, list[int]]:
    """The structures that the source takes, and how many of each kind of file.

    counts: structures of the files that are divided, of the validation and of the test files.
    """
    kept, remarks = source.select(everything)
    for remark in remarks:
        print(f"  {remark}")
    if kept.all():
        return everything, list(counts)
    parts = np.split(kept, np.cumsum(counts)[:-1])
    return everything[kept], [int(part.sum()) for part in parts]


def _say_what_is_lost(everything: Structures, parts: Sequence[Structures]) -> None:
    """Say which labels only some of the files have."""
    for name in LABELS_OF_CHARGE:
        had = any(getattr(part, name) is not None for part in parts)
        if had and getattr(everything, name) is None:
            print(f"note: not in every file, so not kept: {name}")


def _say_if_fractions(count: int, options: SplitOptions) -> None:
    if too_small_for_usual_sizes(count, options):
        print(
            f"note: {count} structures are too few for {' + '.join(map(str, USUAL_SIZES))} and a "
            "test set; they are divided 80 / 10 / 10 % (give --train, --val, --test for other "
            "sizes)"
        )


def _warn_of_copies(structures: Structures, split: Split, name: str) -> None:
    twice = repeated(structures, split.train, getattr(split, name))
    if twice:
        print(
            f"note: {twice} structures of the {name} split have exactly the elements and positions "
            "of a training structure"
        )


def _warn_of_new_elements(structures: Structures, split: Split, name: str) -> None:
    """Say which elements no training structure has: a network cannot learn them."""
    known = structures[split.train].elements
    if np.isin(structures.elements, known).all():
        return

    # every element once, with its first structure
    for index in np.sort(getattr(split, name)).tolist():
        new = np.setdiff1d(structures[index].elements, known)
        if not len(new):
            continue
        symbols = ", ".join(chemical_symbols[number] for number in new)
        print(
            f"note: {symbols} in structure {index} of the {name} split is in no training "
            "structure, so training will refuse this folder; give --leave-out-new-elements, or "
            "files for the splits (--val-file, --test-file)"
        )
        known = np.union1d(known, new)


def repeated(structures: Structures, one: np.ndarray, other: np.ndarray) -> int:
    """How many structures of ``other`` are in ``one``, by elements and positions."""

    def geometry(index: int) -> tuple[bytes, bytes]:
        """Elements and positions of a structure, to be compared."""
        rows = slice(structures.offsets[index], structures.offsets[index + 1])
        return structures.atomic_numbers[rows].tobytes(), structures.positions[rows].tobytes()

    known = {hash(geometry(index)) for index in one.tolist()}
    return sum(hash(geometry(index)) in known for index in other.tolist())


def make_splits(
    folder: Path, plan: FolderPlan, divided: tuple[Structures, Split] | None = None
) -> Manifest:
    """Write the split file and the structures of each split, whatever is missing.

    divided: all structures and their split, if they are read already.
    """
    names = [SPLIT_FILE, *(structures_file(folder, split).name for split in SPLITS)]
    manifest = Manifest(folder / MANIFEST, plan.settings, names)

    # finished data stay good when the files that they came from are gone
    sources = plan.source_files
    if all(path.is_file() for paths in sources.values() for path in paths):
        manifest.check_source(sources)
    if set(names) <= manifest.finished.keys():
        return manifest

    everything, split = divided or divide(plan)
    manifest.check_source(sources)
    manifest.add(SPLIT_FILE, split.save)
    for name in SPLITS:
        manifest.add(structures_file(folder, name).name, everything[getattr(split, name)].save)
    return manifest


def make_graphs(folder: Path, split: str, cutoff: float) -> NeighborStore:
    """The neighbour graphs of a split: opened if they exist, else made."""
    structures = Structures.load(structures_file(folder, split), REBUILD_HINT)
    target = graphs_folder(folder, split)
    if target.exists():
        return NeighborStore.open(target, data_hash=structures.data_hash, cutoff=cutoff)
    with count_bar(len(structures), f"neighbours {split}", "structures") as bar:
        return NeighborStore.build(target, structures, cutoff, bar.update)


def report(folder: Path, source: Source, stores: dict[str, NeighborStore]) -> None:
    """Print the splits with their labels, and the statistics of the training split."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    settings = Split.load(folder / SPLIT_FILE).settings
    print(
        f"{folder}: {file_size(size)}, split {settings['name']} with seed {settings['seed']}, "
        f"read with {source.units}"
    )

    for split, store in stores.items():
        structures = Structures.load(structures_file(folder, split), REBUILD_HINT)
        print(f"{split}: {structures.summary()}")
        print(f"  {store.num_edges} edges within {store.cutoff} Angstrom")

    print_statistics(folder)

    # references that the data do not determine look like facts
    train = Structures.load(structures_file(folder, "train"), REBUILD_HINT)
    limits = reference_limits(train)
    if limits:
        print(f"note: {limits}")

    # references of the elements cannot say what a charge costs
    offsets = charge_offsets(train, load_statistics(folder).references)
    if offsets:
        means = ", ".join(f"{charge:+g} e {mean:.3f}" for charge, mean in offsets.items())
        print(
            f"train: mean energy less references (eV) by total charge: {means}; a network tells "
            "charges apart with --condition total_charge"
        )


def print_statistics(path: Path) -> None:
    """Print what a folder or a file says of its training split."""
    statistics = load_statistics(path)
    print(
        f"train: force rms {statistics.force_rms:.4f} eV/Angstrom, "
        f"{statistics.average_neighbors:.2f} neighbours per atom, "
        f"radius {statistics.design_radius:.2f} Angstrom"
    )
    energies = [
        f"{chemical_symbols[number]} {energy:.6f}"
        for number, energy in statistics.references.items()
    ]
    print(f"train: reference energies (eV) {', '.join(energies)}")
