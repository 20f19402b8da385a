"""What preprocess_md17 and preprocess_md22 share: options, and a folder of splits with neighbour
graphs made from files of structures.

The folder holds (see dataloader.datasets.potential_data)

    train.npz  val.npz  test.npz       structures of the splits        split.npz         which
               structures of the source they are
    train_graphs/  val_graphs/  ...    neighbour graphs                statistics.json   of the
                   training split
    manifest.json                      settings, SHA-256 of the source and of the files above

Every piece is whole or absent; when a folder is used again, and when refused: see
preprocess.manifest. Cost: 0.1 ms for a structure of 9 atoms, some ms for one of several hundred.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from farfield.common.command_line import OptionParser
from farfield.common.monitor import progress_bar
from farfield.dataloader.graphs import NeighborStore, check_cutoff
from farfield.dataloader.label_statistics import Statistics
from farfield.dataloader.prepared_folder import (
    MANIFEST,
    SPLIT_FILE,
    STATISTICS,
    graphs_folder,
    structures_file,
)
from farfield.dataloader.sources.extxyz import read_extxyz
from farfield.dataloader.sources.npz import ABSENT, KEYS, read_npz
from farfield.dataloader.split_protocols import PROTOCOLS, SPLITS, STRUCTURES, protocols_for
from farfield.dataloader.splits import Split, SplitOptions, make_split
from farfield.dataloader.storage.files import REBUILD_HINT
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import ENERGY_UNITS, LENGTH_UNITS, Units
from farfield.models.networks.e2former_options import E2FormerOptions
from farfield.preprocess.manifest import Manifest, being_made, remove

FORMAT = 2
FILE_UNITS = {"energy_unit": "eV", "length_unit": "Angstrom"}  # unless said otherwise


@dataclasses.dataclass(frozen=True)
class Source:
    """Where structures come from.

    paths: files with the structures that are divided. test_paths: files that are the test set by
    themselves. read: file -> structures. obtain: brings the files if they are not there. words:
    what the reading depends on, stored with the data.
    """

    paths: tuple[Path, ...]
    read: Callable[[Path], Structures]
    obtain: Callable[[], object] = lambda: None
    test_paths: tuple[Path, ...] = ()
    words: dict = dataclasses.field(default_factory=dict)


def add_data_options(parser: OptionParser, out: str, molecules: list[str], molecule: str):
    """Options of the section data: where from, where to, and how files of one's own are read."""
    data = parser.section("data", "where the structures come from")
    data.add("--out", str, out, help="folder to write to")
    data.add("--molecule", str, molecule, choices=molecules, help="which published file")
    data.add(
        "--data-path",
        str,
        "data/raw",
        help="folder with the published files; what is missing is downloaded there",
    )
    data.add(
        "--file",
        str,
        None,
        help="files of one's own instead, with commas between: npz, or extended xyz (.xyz, "
        ".extxyz)",
    )
    data.add(
        "--test-file",
        str,
        None,
        help="files that are the test set; the others are divided into train and val",
    )
    data.add(
        "--energy-unit",
        str,
        FILE_UNITS["energy_unit"],
        choices=list(ENERGY_UNITS),
        help="of --file",
    )
    data.add(
        "--length-unit",
        str,
        FILE_UNITS["length_unit"],
        choices=list(LENGTH_UNITS),
        help="of --file",
    )
    data.add(
        "--force-unit",
        str,
        None,
        help="of --file, e.g. hartree/bohr (default: energy unit / length unit)",
    )
    for quantity in KEYS:
        without = f"; {ABSENT}: read without" if quantity == "forces" else ""
        words = f"name of the {quantity} in --file (default: a usual one{without})"
        data.add(f"--{quantity}-key", str, None, key=f"{quantity}_key", help=words)
    data.add("--stress-key", str, None, help="name of the stress in --file (default: read without)")
    data.add(
        "--periodic",
        bool,
        None,
        help="whether the cells of --file repeat (default: as extended xyz says; npz must be told)",
    )
    data.add("--rebuild", bool, False, help="replace what is in the folder")


def add_split_options(parser: OptionParser):
    """Options of the sections split and graphs."""
    split = parser.section("split", "which structures train, validate and test")
    split.add(
        "--split",
        str,
        None,
        key="name",
        choices=protocols_for(STRUCTURES),
        help="protocol (default: that of the data)",
    )
    for part in SPLITS:
        split.add(
            f"--{part}",
            int,
            None,
            low=1,
            help=f"structures of the {part} split (default: the protocol's)",
        )
    split.add(
        "--split-seed",
        int,
        None,
        low=0,
        high=2**32 - 1,
        help="seed of the protocol's random numbers",
    )
    split.add(
        "--sample-size",
        int,
        None,
        low=2,
        help="structures of lsr-mp's sample (default: the molecule's)",
    )
    split.add(
        "--gap",
        int,
        None,
        low=0,
        help="frames left out between the parts of the time split (default 0)",
    )
    split.add(
        "--split-number",
        int,
        None,
        low=1,
        high=5,
        help="which of the published splits of rMD17 (default 1)",
    )
    split.add(
        "--split-path",
        str,
        None,
        help="npz file with index lists (split file), or folder of the index files (split rmd17)",
    )
    graphs = parser.section("graphs", "who sees whom")
    graphs.add("--cutoff", float, E2FormerOptions.cutoff, above=0, help="Angstrom")


def own_source(data) -> Source:
    """The source of ``--file`` and ``--test-file``; ``ValueError`` or ``FileNotFoundError`` for a
    file of no known kind or not there.
    """
    units = Units(data.energy_unit, data.length_unit, data.force_unit)
    keys = {quantity: data[f"{quantity}_key"] for quantity in KEYS if data[f"{quantity}_key"]}

    def from_npz(path: Path) -> Structures:
        return read_npz(path, units, keys, data.periodic, data.stress_key)

    def from_xyz(path: Path) -> Structures:
        chosen = {f"{name}_key": keys[name] for name in ("energy", "forces") if name in keys}
        with progress_bar(None, desc=f"read {path.name}", unit="frame") as bar:
            return read_extxyz(
                path,
                units,
                **chosen,
                stress_key=data.stress_key,
                periodic=data.periodic,
                progress=bar.update,
            )

    readers = {".npz": from_npz, ".xyz": from_xyz, ".extxyz": from_xyz}
    paths, test_paths = (
        [Path(word) for word in text.split(",")] if text else []
        for text in (data.file, data.test_file)
    )
    unread = [
        name for name in ("numbers", "positions") if name in keys
    ]  # an extended xyz file has its own names for these
    given = [path.resolve() for path in paths + test_paths]
    if len(set(given)) < len(given):
        raise ValueError(
            "--file and --test-file name a file twice: its structures would train and test; name "
            "each file once"
        )
    for path in paths + test_paths:
        if unread and path.suffix != ".npz":
            raise ValueError(
                f"{path}: --{unread[0]}-key is of no use in a {path.suffix} file; leave it out"
            )
        if path.suffix not in readers:
            raise ValueError(
                f"{path}: a file of structures must end in {', '.join(readers)}, got "
                f"{path.suffix!r}; give --file another"
            )
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist; give --file or --test-file an existing file"
            )
    words = {
        "units": str(units),
        "keys": keys,
        "stress_key": data.stress_key,
        "periodic": data.periodic,
    }
    return Source(
        tuple(paths),
        lambda path: readers[path.suffix](path),
        test_paths=tuple(test_paths),
        words=words,
    )


SPLIT_FLAGS = {
    "train": "train",
    "val": "val",
    "test": "test",
    "seed": "split_seed",
    "sample": "sample_size",
    "path": "split_path",
}
SPLIT_FLAGS |= {"gap": "gap", "number": "split_number"}  # field of SplitOptions -> option


def split_options(split, protocol: str, **defaults) -> SplitOptions:
    """``SplitOptions`` of the section split; ``defaults`` (seed, sample, train, ...) where nothing
    was given and the protocol reads them.

    ``ValueError`` for an option that the protocol does not read.
    """
    given = {name: split[key] for name, key in SPLIT_FLAGS.items() if split[key] is not None}
    for name in given:
        if name not in PROTOCOLS[protocol].reads:
            read = ", ".join(
                "--" + SPLIT_FLAGS[known].replace("_", "-") for known in PROTOCOLS[protocol].reads
            )
            flag = SPLIT_FLAGS[name].replace("_", "-")
            raise ValueError(
                f"--{flag} changes nothing in --split {protocol}, which reads {read}; leave it out"
            )
    return SplitOptions(
        **{name: value for name, value in defaults.items() if name in PROTOCOLS[protocol].reads}
        | given
    )


def own_choice(data, split) -> tuple[Source, str, SplitOptions] | None:
    """Source, protocol and its options of ``--file``; None without one, and ``ValueError`` for
    options that then describe nothing.
    """
    if data.file:
        protocol = split.name or "random"
        return own_source(data), protocol, split_options(split, protocol)
    if data.test_file:
        raise ValueError(
            f"--test-file {data.test_file} needs --file for the structures to train on"
        )
    for key in (
        *FILE_UNITS,
        "force_unit",
        "stress_key",
        "periodic",
        *(f"{quantity}_key" for quantity in KEYS),
    ):
        if data[key] != FILE_UNITS.get(key):
            raise ValueError(
                f"--{key.replace('_', '-')} {data[key]} describes a --file of your own, and "
                "there is none; leave it out"
            )
    return None


def make_folder(config, source: Source, protocol: str, options: SplitOptions):
    """Write everything that ``config.data.out`` lacks and print what is in it; ``ValueError`` or
    ``OSError`` with one line.
    """
    folder = Path(config.data.out)
    with being_made(folder):
        settings = {
            "format": FORMAT,
            "reading": source.words,
            "cutoff": check_cutoff(config.graphs.cutoff),
            "split": protocol,
        }
        settings |= {"split_options": dataclasses.asdict(options)}
        divided = None
        if config.data.rebuild:
            divided = divide(
                source, settings, options
            )  # what is there stays until the new data are in hand
            remove_all(folder)
        manifest = make_splits(folder, source, settings, options, divided)
        stores = {split: make_graphs(folder, split, settings["cutoff"]) for split in SPLITS}
        train = Structures.load(structures_file(folder, "train"), REBUILD_HINT)
        manifest.add(STATISTICS, Statistics.of(train, stores["train"].num_edges).save)
    report(folder, source, stores)


def remove_all(folder: Path):
    """Remove what this script has written into ``folder``."""
    pieces = [
        place(folder, split) for split in SPLITS for place in (structures_file, graphs_folder)
    ]
    remove([folder / MANIFEST, folder / SPLIT_FILE, folder / STATISTICS, *pieces])


def divide(source: Source, settings: dict, options: SplitOptions) -> tuple[Structures, Split]:
    """All structures of the source, fetched and read, and their split."""
    source.obtain()
    parts, test_parts = (
        [source.read(path) for path in paths] for paths in (source.paths, source.test_paths)
    )
    for path, part in zip(source.paths + source.test_paths, parts + test_parts, strict=True):
        print(f"{path}: {len(part)} structures, {source.words['units']}")
        part.names = np.full(len(part), path.stem) if part.names is None else part.names
    everything = Structures.concatenate(parts + test_parts).wrapped()
    test_count = sum(len(part) for part in test_parts)
    split = make_split(
        settings["split"], len(everything), everything.data_hash, options, test_count
    )
    for name in ("val", "test"):
        twice = repeated(everything, split.train, getattr(split, name))
        if twice:
            print(
                f"note: {twice} structures of the {name} split have the very elements and "
                "positions of one that trains"
            )
    return everything, split


def repeated(structures: Structures, one: np.ndarray, other: np.ndarray) -> int:
    """How many structures of ``other`` are in ``one``, by elements and positions."""

    def geometry(index: int) -> tuple[bytes, bytes]:
        rows = slice(structures.offsets[index], structures.offsets[index + 1])
        return structures.atomic_numbers[rows].tobytes(), structures.positions[rows].tobytes()

    known = {hash(geometry(index)) for index in one.tolist()}
    return sum(hash(geometry(index)) in known for index in other.tolist())


def make_splits(
    folder: Path,
    source: Source,
    settings: dict,
    options: SplitOptions,
    divided: tuple[Structures, Split] | None = None,
) -> Manifest:
    """Write split.npz and the structures of the splits that are not there yet; ``divided``: if they
    are in hand already.
    """
    wanted = [SPLIT_FILE, *(structures_file(folder, split).name for split in SPLITS)]
    manifest = Manifest(folder / MANIFEST, settings, wanted)
    groups = {"train and val": source.paths, "test": source.test_paths}
    if all(
        path.is_file() for path in source.paths + source.test_paths
    ):  # finished data stay good when their source is gone
        manifest.check_source(groups)
    if set(wanted) <= manifest.finished.keys():
        return manifest
    everything, split = divided or divide(source, settings, options)
    manifest.check_source(groups)
    manifest.add(SPLIT_FILE, split.save)
    for name in SPLITS:
        manifest.add(structures_file(folder, name).name, everything[getattr(split, name)].save)
    return manifest


def make_graphs(folder: Path, split: str, cutoff: float) -> NeighborStore:
    """The neighbour graphs of a split, opened if they are there, else found."""
    structures = Structures.load(structures_file(folder, split), REBUILD_HINT)
    target = graphs_folder(folder, split)
    if target.exists():
        return NeighborStore.open(target, data_hash=structures.data_hash, cutoff=cutoff)
    with progress_bar(
        len(structures), desc=f"neighbours {split}", unit="structure", unit_scale=True
    ) as bar:
        return NeighborStore.build(target, structures, cutoff, bar.update)


def report(folder: Path, source: Source, stores: dict[str, NeighborStore]):
    """Print the splits with their labels, and the statistics."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    settings = Split.load(folder / SPLIT_FILE).settings
    print(
        f"{folder}: {size / 1e6:.1f} MB, split {settings['name']} with seed {settings['seed']}, "
        f"read with {source.words['units']}"
    )
    for split, store in stores.items():
        structures = Structures.load(structures_file(folder, split), REBUILD_HINT)
        print(
            f"{split}: {structures.summary()}\n  {store.num_edges} edges within {store.cutoff} "
            "Angstrom"
        )
    statistics = Statistics.load(folder / STATISTICS)
    sizes = (
        f"{statistics.average_neighbors:.2f} neighbours, radius "
        f"{statistics.design_radius:.2f} Angstrom"
    )
    print(f"train: force rms {statistics.force_rms:.4f} eV/Angstrom, {sizes}")
    print(
        "train: reference energies (eV) "
        + ", ".join(f"Z={number} {energy:.6f}" for number, energy in statistics.references.items())
    )
