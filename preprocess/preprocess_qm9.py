"""Preprocess QM9, or any npz file of molecules with properties: labels in fixed units, splits,
graphs, bond kinds and edge bases.

    # archive of 133,885 files, downloaded
    python -m preprocess.preprocess_qm9 --out data/qm9
    # gdb9.sdf with its table
    python -m preprocess.preprocess_qm9 --source sdf --split 3dml --out data/qm9_3dml
    # DGL's file, bonds included
    python -m preprocess.preprocess_qm9 --source edge --split nvidia --out data/qm9_dgl
    python -m preprocess.preprocess_qm9 --file molecules.npz --graph cutoff --cutoff 5 \\
        --train 16000 --val 2000 --out data/mine
    python -m preprocess.preprocess_qm9 --graph complete --workers 8 --out data/qm9_complete

What is written: see dataloader.datasets.property_data. Graphs and bases are made by ``--workers``
processes in pieces (see preprocess.basis_shards); the same command goes on after an interruption or
a kill, uses again what fits its settings and checksums, and refuses the rest. Units of all labels:
see dataloader.sources.qm9.TARGETS. Without a network, the message says which file to put where.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python preprocess/preprocess_qm9.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
from collections.abc import Callable

import numpy as np

from farfield.common.command_line import OptionParser, add_config_option, run_script
from farfield.common.log import progress_bar
from farfield.dataloader.chemistry.bonds import BondTable
from farfield.dataloader.chemistry.molecule_graphs import GRAPH_RULES, graph_rule
from farfield.dataloader.datasets.property_data import (
    BASIS,
    BOND_KINDS,
    MANIFEST,
    MOLECULES,
    SPLIT_FILE,
)
from farfield.dataloader.sources import qm9
from farfield.dataloader.sources.download import fetch
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.splits import Split, SplitOptions, make_split
from farfield.dataloader.storage import files
from farfield.dataloader.storage.basis_cache import BasisCache, CacheSettings
from farfield.dataloader.storage.files import REBUILD_HINT
from farfield.dataloader.structures import Structures
from farfield.preprocess.basis_shards import PIECES, make_basis
from farfield.preprocess.manifest import Manifest, being_made, remove

FORMAT = 1
LMAX = 3  # of the published networks: degrees 0 .. 3
BONDS = "bonds.npz"  # of a source that has them
SHARES = {"train": 0.8, "val": 0.1}  # of a random split of other data than QM9
# source -> file -> (numbers that are left out, progress of a bar) -> molecules, bonds or None,
# report
READERS: dict[str, Callable] = {
    "archive": qm9.read_archive,
    "sdf": qm9.read_sdf,
    "edge": qm9.read_edge_npz,
    "npz": qm9.read_ragged,
}


@dataclasses.dataclass(frozen=True)
class MoleculeSource:
    """Where the molecules come from.

    paths: the file, and the list of uncharacterised molecules if there is one. obtain: brings them
    if they are not there. words: what the reading depends on. read: ``() -> (structures, bonds or
    None, report)``.
    """

    paths: tuple[Path, ...]
    obtain: Callable[[], object]
    words: dict
    read: Callable[[], tuple[Structures, BondTable | None, object]]


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("preprocess_qm9", __doc__)
    add_config_option(parser)
    data = parser.section("data", "where the molecules come from")
    data.add("--out", str, "data/qm9", help="folder to write to")
    data.add(
        "--source",
        str,
        None,
        choices=list(READERS),
        help="which published file (default archive), or npz with --file",
    )
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
        help="npz file with n_atoms, Z, R and properties in QM9's units instead",
    )
    data.add(
        "--uncharacterised",
        str,
        None,
        help="list of molecules to leave out of --file (published files: that of QM9)",
    )
    data.add("--limit", int, None, low=1, help="only the first so many molecules")
    data.add("--rebuild", bool, False, help="replace what is in the folder")
    split = parser.section("split", "which molecules train, validate and test")
    split.add(
        "--split",
        str,
        "random",
        key="name",
        choices=["random", "3dml", "nvidia", "cormorant", "file"],
        help="protocol",
    )
    for part in SPLITS:
        split.add(
            f"--{part}",
            int,
            None,
            low=1,
            help=f"molecules of the {part} split (default: the protocol's)",
        )
    split.add(
        "--split-seed", int, 0, low=0, high=2**32 - 1, help="seed of the protocol's random numbers"
    )
    split.add(
        "--split-path", str, None, help="npz file with index lists train, val, test (split file)"
    )
    graphs = parser.section("graphs", "who sees whom, and what is known of an edge")
    graphs.add(
        "--graph",
        str,
        "bonds",
        choices=list(GRAPH_RULES),
        help="edges: chemical bonds, pairs within --cutoff, or all pairs",
    )
    graphs.add("--cutoff", float, 5.0, above=0, help="Angstrom, of --graph cutoff")
    graphs.add(
        "--bond-kinds",
        bool,
        None,
        help="kinds of the bonds as edge features (default: but for --graph cutoff)",
    )
    graphs.add(
        "--lmax",
        int,
        LMAX,
        low=1,
        high=11,
        help="largest degree of the edge basis, that of the network",
    )
    graphs.add("--workers", int, 1, low=1, help="processes that make graphs and bases")
    return parser


def choose_source(data) -> MoleculeSource:
    """The source of the options; ``ValueError`` or ``FileNotFoundError`` for options and files that
    do not fit.
    """
    name = data.source or ("npz" if data.file else "archive")
    if (name == "npz") != (data.file is not None):
        raise ValueError(
            f"--source {name} {'needs' if name == 'npz' else 'excludes'} --file, got --file "
            f"{data.file}"
        )
    if name != "npz" and data.uncharacterised:
        raise ValueError(
            f"--uncharacterised {data.uncharacterised} is for --file; --source {name} has its "
            "list in --data-path"
        )
    folder = Path(data.data_path)
    paths = [Path(path) for path in (data.file, data.uncharacterised) if path]
    remotes = [] if name == "npz" else [qm9.SOURCES[name], qm9.UNCHARACTERISED]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist; give --file or --uncharacterised an existing file"
            )
    paths += [folder / remote.name for remote in remotes]

    def obtain():
        for remote in remotes:
            fetch(
                remote,
                folder,
                lambda total, done, file=remote.name: _bar(total, file, unit="B", initial=done),
            )

    def read():
        left_out = qm9.read_uncharacterised(paths[1]) if len(paths) > 1 else None
        if name in ("archive", "sdf"):
            with _bar(None, f"read {paths[0].name}") as bar:
                return READERS[name](paths[0], left_out, bar.update)
        return READERS[name](paths[0], left_out)

    return MoleculeSource(tuple(paths), obtain, {"source": name, "limit": data.limit}, read)


def _bar(total: int | None, what: str, unit: str = "molecule", initial: int = 0):
    return progress_bar(total, desc=what, unit=unit, initial=initial, unit_scale=True)


def split_options(split, count: int) -> SplitOptions:
    """Options of the protocol; a random split without sizes is 110,000 / 10,000 / rest of QM9, else
    80 / 10 / 10 %.
    """
    sizes = {part: split[part] for part in SPLITS}
    if split.name == "random" and sizes["train"] is None and sizes["val"] is None:
        whole = count == qm9.WHOLE_COUNT - qm9.UNCHARACTERISED_COUNT
        sizes |= (
            qm9.RANDOM_SIZES
            if whole
            else {part: max(1, round(share * count)) for part, share in SHARES.items()}
        )
    return SplitOptions(**sizes, seed=split.split_seed, path=split.split_path)


def make_folder(config, source: MoleculeSource):
    """Write everything that ``config.data.out`` lacks and print what is in it; ``ValueError`` or
    ``OSError`` with one line.
    """
    folder, graphs = Path(config.data.out), config.graphs
    rule = graph_rule(graphs.graph, graphs.cutoff)
    bond_kinds = graphs.graph != "cutoff" if graphs.bond_kinds is None else graphs.bond_kinds
    settings = {"format": FORMAT, "reading": source.words, "split": dict(config.split)}
    settings |= {"graph_rule": rule, "lmax": graphs.lmax, "bond_kinds": bond_kinds}
    with being_made(folder):
        if config.data.rebuild:
            remove_all(folder)
        make_molecules(folder, source, settings, config.split)
        structures = Structures.load(folder / MOLECULES, REBUILD_HINT)
        bonds = load_bonds(folder / BONDS) if (folder / BONDS).exists() else None
        cache = make_basis(
            folder,
            structures,
            bonds,
            CacheSettings(graphs.lmax, rule),
            bond_kinds,
            graphs.workers,
            _bar,
        )
    report(folder, structures, cache)


def remove_all(folder: Path):
    """Remove what this script has written into ``folder``."""
    remove(
        folder / name
        for name in (MANIFEST, SPLIT_FILE, MOLECULES, BONDS, BASIS, BOND_KINDS, PIECES)
    )


def make_molecules(folder: Path, source: MoleculeSource, settings: dict, split):
    """Write molecules.npz, bonds.npz if the source has bonds, and split.npz, whatever of them is
    not there.
    """
    manifest = Manifest(folder / MANIFEST, settings, [MOLECULES, BONDS, SPLIT_FILE])
    if all(
        path.is_file() for path in source.paths
    ):  # finished data stay good when their source is gone
        manifest.check_source({"molecules": source.paths})
    finished = manifest.finished.keys()
    if {MOLECULES, SPLIT_FILE} <= finished and (
        BONDS in finished or not manifest.content.get("has_bonds")
    ):
        return
    source.obtain()
    manifest.check_source({"molecules": source.paths})
    structures, bonds, words = source.read()
    print(words)
    limit = settings["reading"]["limit"]
    if limit is not None:
        structures, bonds = structures[:limit], None if bonds is None else bonds[:limit]
    made = make_split(
        split.name, len(structures), structures.data_hash, split_options(split, len(structures))
    )
    manifest.content["has_bonds"] = bonds is not None
    if bonds is not None:
        manifest.add(BONDS, lambda path: save_bonds(path, bonds))
    manifest.add(SPLIT_FILE, made.save)
    manifest.add(MOLECULES, structures.save)


def save_bonds(path: Path, bonds: BondTable):
    """Write a table of bonds as an npz file, atomically."""
    with files.atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, ends=bonds.ends, kinds=bonds.kinds, counts=bonds.counts)


def load_bonds(path: Path) -> BondTable:
    """The table that :func:`save_bonds` wrote; ``ValueError`` if it is damaged."""
    return BondTable(**files.read_npz(path, ("ends", "kinds", "counts"), REBUILD_HINT))


def report(folder: Path, structures: Structures, cache: BasisCache):
    """Print what the folder holds."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    split = Split.load(folder / SPLIT_FILE)
    parts = " / ".join(str(len(getattr(split, part))) for part in SPLITS)
    print(
        f"{folder}: {size / 1e6:.1f} MB, split {split.settings['name']} {parts} with seed "
        f"{split.settings['seed']}"
    )
    print(structures.summary())
    edges = f"{cache.num_edges} undirected edges, {cache.num_edges / len(cache):.2f} a molecule"
    print(
        f"graphs {cache.settings.graph_rule}: {edges}; basis of lmax {cache.settings.lmax}, "
        f"{cache.num_bytes / 1e6:.1f} MB"
    )


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    config = build_parser().parse_config(argv)
    make_folder(config, choose_source(config.data))


if __name__ == "__main__":
    run_script(main)
