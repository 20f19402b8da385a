"""Preprocess QM9, or any npz file of molecules with properties.

    # archive of 133,885 files, downloaded
    python -m preprocess.preprocess_qm9 --out data/qm9
    # gdb9.sdf with its table
    python -m preprocess.preprocess_qm9 --source sdf --split 3dml --out data/qm9_3dml
    # DGL's file, bonds included
    python -m preprocess.preprocess_qm9 --source edge --split nvidia --out data/qm9_dgl
    python -m preprocess.preprocess_qm9 --file molecules.npz --graph cutoff --cutoff 5 \\
        --train 16000 --val 2000 --out data/mine
    python -m preprocess.preprocess_qm9 --graph complete --workers 8 --out data/qm9_complete

It writes labels in fixed units, splits, graphs, bond kinds and edge bases (see
dataloader.datasets.property_data). Graphs and bases are made by ``--workers`` processes in shards
(see preprocess.basis_shards); the same command continues after an interruption or a kill, uses
again what fits its settings and checksums, and refuses the rest. Units of all labels: see
dataloader.sources.qm9_targets. Without a network, the message says which file to put where.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python preprocess/preprocess_qm9.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses

import numpy as np
from easydict import EasyDict
from tqdm import tqdm

from farfield.common.command_line import OptionParser, Section, add_config_option, run_script
from farfield.common.log import count_bar
from farfield.common.plugins import import_named_files
from farfield.common.quantities import file_size
from farfield.dataloader.chemistry.bonds import BondTable
from farfield.dataloader.chemistry.molecule_graphs import GRAPH_RULES, graph_rule
from farfield.dataloader.datasets.property_data import BASIS, BOND_KINDS, MOLECULES
from farfield.dataloader.prepared_folder import MANIFEST, SPLIT_FILE
from farfield.dataloader.sources import qm9
from farfield.dataloader.sources.download import RAW_FOLDER, RAW_FOLDER_HELP, RemoteFile, fetch
from farfield.dataloader.sources.qm9 import QM9_FORMS
from farfield.dataloader.sources.qm9_assembly import Report
from farfield.dataloader.split_protocols import FOR_MOLECULES, SHARES, SPLITS, protocols_for
from farfield.dataloader.splits import Split, SplitOptions, make_split
from farfield.dataloader.storage import files
from farfield.dataloader.storage.basis_cache import BasisCache
from farfield.dataloader.storage.basis_rows import CacheSettings
from farfield.dataloader.storage.files import REBUILD_HINT
from farfield.dataloader.structures import Structures
from farfield.preprocess.basis_shards import FORMER_SHARDS, SHARDS, make_basis
from farfield.preprocess.manifest import Manifest, being_made, remove
from farfield.preprocess.progress import download_bar, reading_bar

FORMAT = 1
LMAX = 3  # of the published networks: degrees 0 .. 3
BONDS = "bonds.npz"  # of a source that has them
OWN_FILE = "npz"  # form of QM9 that --file reads


@dataclasses.dataclass(frozen=True)
class MoleculeSource:
    """Where the molecules come from.

    form: a name in QM9_FORMS. paths: the file, and the list of uncharacterised molecules if there
    is one. remotes: public files that are downloaded into ``folder``. limit: only the first
    molecules (None: all).
    """

    form: str
    paths: tuple[Path, ...]
    folder: Path
    remotes: tuple[RemoteFile, ...] = ()
    limit: int | None = None

    @property
    def words(self) -> dict:
        """What the reading depends on, stored with the data."""
        return {"source": self.form, "limit": self.limit}

    def obtain(self) -> None:
        """Download the public files that are missing."""
        for remote in self.remotes:
            fetch(remote, self.folder, download_bar)

    def read(self) -> tuple[Structures, BondTable | None, Report]:
        """Molecules, bonds or None, and a report of what was left out."""
        left_out = qm9.read_uncharacterised(self.paths[1]) if len(self.paths) > 1 else None
        with reading_bar(self.paths[0], "molecule") as bar:
            structures, bonds, report = QM9_FORMS[self.form].read(
                self.paths[0], left_out, bar.update
            )
        if self.limit is None:
            return structures, bonds, report
        return structures[: self.limit], None if bonds is None else bonds[: self.limit], report


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("preprocess_qm9", __doc__)
    add_config_option(parser)
    _add_data_options(parser.section("data", "where the molecules come from"))
    _add_split_options(parser.section("split", "which molecules train, validate and test"))
    _add_graph_options(parser.section("graphs", "which atoms are neighbours, and edge features"))
    return parser


def _add_data_options(data: Section) -> None:
    # published forms
    data.add("--out", str, "data/qm9", help="folder to write to")
    data.add(
        "--source",
        str,
        None,
        choices=list(QM9_FORMS),
        help=f"published form of QM9 (default archive), or {OWN_FILE} for --file",
    )
    data.add("--data-path", str, RAW_FOLDER, help=RAW_FOLDER_HELP)

    # molecules of your own
    data.add(
        "--file",
        str,
        None,
        help="npz file of your own with n_atoms, Z, R and properties in QM9's units",
    )
    data.add(
        "--uncharacterised",
        str,
        None,
        help="list of molecules to leave out of --file (published forms: as QM9 lists them)",
    )
    data.add("--limit", int, None, low=1, help="number of molecules to take, the first ones")
    data.add("--rebuild", bool, False, help="replace what is in the folder")


def _add_split_options(split: Section) -> None:
    split.add(
        "--split",
        str,
        "random",
        key="name",
        choices=protocols_for(FOR_MOLECULES),
        help="split protocol",
    )

    # sizes and order
    for name in SPLITS:
        words = f"number of molecules of the {name} split (default: as the protocol says)"
        split.add(f"--{name}", int, None, low=1, help=words)
    split.add("--split-seed", int, 0, low=0, high=2**32 - 1, help="seed of the random order")
    split.add(
        "--split-path", str, None, help="npz file with index lists train, val, test (--split file)"
    )


def _add_graph_options(graphs: Section) -> None:
    # edges
    graphs.add(
        "--graph",
        str,
        "bonds",
        choices=list(GRAPH_RULES),
        help="edges: chemical bonds, pairs closer than --cutoff, or all pairs",
    )
    graphs.add("--cutoff", float, 5.0, above=0, help="cutoff of --graph cutoff, Angstrom")

    # what is known of an edge
    graphs.add(
        "--bond-kinds",
        bool,
        None,
        help="kinds of the bonds as edge features (default: yes, except for --graph cutoff)",
    )
    graphs.add(
        "--lmax",
        int,
        LMAX,
        low=1,
        high=11,
        help="largest degree of the edge basis; at least the degree of the network",
    )
    graphs.add("--workers", int, 1, low=1, help="number of processes that make graphs and bases")


def choose_source(data: EasyDict) -> MoleculeSource:
    """The source of the options; ``ValueError`` or ``FileNotFoundError`` for options and files that
    do not fit.
    """
    form = data.source or (OWN_FILE if data.file else "archive")
    if (form == OWN_FILE) != (data.file is not None):
        verb = "needs" if form == OWN_FILE else "excludes"
        raise ValueError(f"--source {form} {verb} --file, got --file {data.file}")
    if form != OWN_FILE and data.uncharacterised:
        raise ValueError(
            f"--uncharacterised {data.uncharacterised} is for --file; --source {form} has its "
            "list in --data-path"
        )

    folder = Path(data.data_path)
    if form != OWN_FILE:
        remotes = (QM9_FORMS[form].remote, qm9.UNCHARACTERISED)
        paths = tuple(folder / remote.name for remote in remotes)
        return MoleculeSource(form, paths, folder, remotes, data.limit)
    paths = tuple(Path(path) for path in (data.file, data.uncharacterised) if path)
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist; give --file or --uncharacterised an existing file"
            )
    return MoleculeSource(form, paths, folder, limit=data.limit)


def _bar(total: int, what: str) -> tqdm:
    return count_bar(total, what, "molecules")


def split_options(split: EasyDict, count: int) -> SplitOptions:
    """Options of the protocol for ``count`` molecules.

    A random split without sizes is 110,000 / 10,000 / rest of QM9, and 80 / 10 / 10 % of other
    data.
    """
    sizes = {name: split[name] for name in SPLITS}
    if split.name == "random" and sizes["train"] is None and sizes["val"] is None:
        if count == qm9.WHOLE_COUNT - qm9.UNCHARACTERISED_COUNT:
            sizes |= qm9.RANDOM_SIZES
        else:
            sizes |= {name: max(1, round(share * count)) for name, share in SHARES.items()}
    return SplitOptions(**sizes, seed=split.split_seed, path=split.split_path)


def make_folder(config: EasyDict, source: MoleculeSource) -> None:
    """Write everything that ``config.data.out`` lacks and print what is in it.

    ``ValueError`` or ``OSError`` with one line.
    """
    folder, graphs = Path(config.data.out), config.graphs
    rule = graph_rule(graphs.graph, graphs.cutoff)
    bond_kinds = graphs.graph != "cutoff" if graphs.bond_kinds is None else graphs.bond_kinds

    # everything that the files depend on
    settings = {
        "format": FORMAT,
        "reading": source.words,
        "split": dict(config.split),
        "graph_rule": rule,
        "lmax": graphs.lmax,
        "bond_kinds": bond_kinds,
    }

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


def remove_all(folder: Path) -> None:
    """Remove what this script has written into ``folder``."""
    written = (MANIFEST, SPLIT_FILE, MOLECULES, BONDS, BASIS, BOND_KINDS, SHARDS, FORMER_SHARDS)
    remove(folder / name for name in written)


def make_molecules(folder: Path, source: MoleculeSource, settings: dict, split: EasyDict) -> None:
    """Write the molecules, their bonds if the source has them, and the split, where missing."""
    manifest = Manifest(folder / MANIFEST, settings, [MOLECULES, BONDS, SPLIT_FILE])
    sources = {"molecules": source.paths}

    # finished data stay good when the files that they came from are gone
    if all(path.is_file() for path in source.paths):
        manifest.check_source(sources)
    finished = manifest.finished.keys()
    bonds_finished = BONDS in finished or not manifest.content.get("has_bonds")
    if {MOLECULES, SPLIT_FILE} <= finished and bonds_finished:
        return

    source.obtain()
    manifest.check_source(sources)
    structures, bonds, words = source.read()
    print(words)
    count = len(structures)
    made = make_split(split.name, count, structures.data_hash, split_options(split, count))
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
    sizes = " / ".join(str(len(getattr(split, name))) for name in SPLITS)
    print(
        f"{folder}: {file_size(size)}, split {split.settings['name']} {sizes} with seed "
        f"{split.settings['seed']}"
    )
    print(structures.summary())

    per_molecule = cache.num_edges / len(cache)
    print(
        f"graphs {cache.settings.graph_rule}: {cache.num_edges} undirected edges, "
        f"{per_molecule:.2f} per molecule; basis of lmax {cache.settings.lmax}, "
        f"{file_size(cache.num_bytes)}"
    )


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    argv = import_named_files(argv)  # before the parser lists forms and graph rules
    config = build_parser().parse_config(argv)
    make_folder(config, choose_source(config.data))


if __name__ == "__main__":
    run_script(main)
