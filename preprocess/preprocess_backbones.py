"""Preprocess protein backbones for denoising: PDB and mmCIF files, or chains that are built here.

    # 60 built chains of 16 to 32 residues, in a second; needs no file
    python -m preprocess.preprocess_backbones --sample --out data/backbones_sample
    # built chains of another number and size
    python -m preprocess.preprocess_backbones --build 500 --residues 24,64 --out data/built
    # a folder of PDB and mmCIF files, or files with commas between them
    python -m preprocess.preprocess_backbones --pdb proteins --out data/proteins
    python -m preprocess.preprocess_backbones --pdb 1abc.pdb,2xyz.cif.gz,3def.pdb --out data/three

Files are read by gemmi (`pip install gemmi`). All pieces of a file are in one split, and so is each
built chain: 80 / 10 / 10 % of the files or chains at random, unless --train, --val or --test name
other numbers of them. What is taken of a file: see dataloader.sources.protein_backbones; how chains
are built: dataloader.sources.built_backbones.

It writes {train,val,test}.npz (dataloader.backbones), split.npz and manifest.json (settings and
SHA-256 of all files). When a folder is used again, and when it is refused: see preprocess.manifest.
Train on the folder with train.train_denoise.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python preprocess/preprocess_backbones.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
from typing import NamedTuple

import numpy as np
from easydict import EasyDict

from farfield.common.command_line import OptionParser, add_config_option, run_script
from farfield.common.log import count_bar
from farfield.common.quantities import file_size
from farfield.dataloader.backbones import BackboneChain, backbone_structures
from farfield.dataloader.chemistry.residues import ATOMS_PER_RESIDUE
from farfield.dataloader.prepared_folder import MANIFEST, SPLIT_FILE, structures_file
from farfield.dataloader.sources.built_backbones import build_backbones
from farfield.dataloader.sources.protein_backbones import find_protein_files, read_protein
from farfield.dataloader.split_protocols import SPLITS, SplitOptions
from farfield.dataloader.splits import Split, make_split
from farfield.dataloader.storage.files import REBUILD_HINT
from farfield.dataloader.structures import Structures
from farfield.preprocess.manifest import Manifest, being_made, remove
from farfield.preprocess.progress import DELAY

FORMAT = 1
PROTOCOL = "fractions"
SAMPLE = {"build": 60, "residues": "16,32", "seed": 0}
LONGEST_BUILT = 2000  # residues
HOW = "--pdb FILES, --build NUMBER or --sample"


class Gathered(NamedTuple):
    """Chains, and what they come from.

    groups: (chains,) number of the file or chain that each comes from; a group is in one split.
    """

    chains: list[BackboneChain]
    groups: np.ndarray


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("preprocess_backbones", __doc__)
    add_config_option(parser)
    data = parser.section("data", "where the chains come from, where the folder is written")
    data.add("--out", str, "data/backbones", help="folder to write to")
    data.add("--rebuild", bool, False, help="replace what is in the folder")

    # one of three
    files = "PDB and mmCIF files, also gzipped, and folders of them, with commas between them"
    data.add("--pdb", str, None, help=files)
    data.add("--build", int, None, low=3, high=10**6, help="number of chains to build")
    sample = f"the same as --build {SAMPLE['build']} --residues {SAMPLE['residues']}"
    data.add("--sample", bool, False, help=sample)

    # what is taken
    residues = "residues of a built chain, least and most (default 24,64)"
    data.add("--residues", str, None, help=residues)
    least = "residues of a piece; shorter pieces of a file are left out"
    data.add("--min-residues", int, 8, low=1, help=least)
    seed = "seed of built chains and of the split"
    data.add("--seed", int, 0, low=0, high=2**32 - 1, help=seed)
    for name in SPLITS:
        words = f"number of files, or of built chains, of the {name} split (default: a share)"
        data.add(f"--{name}", int, None, low=1, help=words)
    return parser


def read_options(argv: list[str] | None = None) -> EasyDict:
    """The configuration of a command line; ``ValueError`` for options that exclude each other."""
    config = build_parser().parse_config(argv)
    data = config.data
    ways = {"--pdb": data.pdb, "--build": data.build, "--sample": data.sample}
    given = [flag for flag, value in ways.items() if value]
    if not given:
        raise ValueError(f"there are no backbones to preprocess; give {HOW}")
    if len(given) > 1:
        raise ValueError(f"{given[0]} and {given[1]} exclude each other; give one of {HOW}")

    if data.residues is not None and not data.build:
        raise ValueError(f"--residues is for --build, not for {given[0]}; leave it out")
    if data.sample:
        data.build, data.residues = SAMPLE["build"], SAMPLE["residues"]
    data.residues = data.residues or "24,64"
    residue_range(data.residues)
    return config


def residue_range(text: str) -> tuple[int, int]:
    """Least and most residues of ``--residues``; ``ValueError`` for another text."""
    try:
        least, most = (int(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"--residues must be two whole numbers like 24,64, got {text!r}") from None
    if not 2 <= least <= most <= LONGEST_BUILT:
        raise ValueError(
            f"--residues must be least,most with 2 <= least <= most <= {LONGEST_BUILT}, got {text}"
        )
    return least, most


def protein_files(data: EasyDict) -> list[Path]:
    """The files of ``--pdb``, none without it."""
    return find_protein_files(data.pdb.split(",")) if data.pdb else []


def folder_settings(data: EasyDict) -> dict:
    """Everything that the files of the folder depend on, as the manifest stores it."""
    if data.pdb:
        reading = {"source": "pdb", "min_residues": data.min_residues}
    else:
        reading = {"source": "built", "count": data.build, "residues": data.residues}
        reading["seed"] = data.seed
    options = dataclasses.asdict(split_options(data))
    return {"format": FORMAT, "reading": reading, "split": PROTOCOL, "split_options": options}


def split_options(data: EasyDict) -> SplitOptions:
    """Sizes and seed of the split."""
    return SplitOptions(train=data.train, val=data.val, test=data.test, seed=data.seed)


def gather(data: EasyDict) -> Gathered:
    """Read or build all chains.

    ``ValueError`` or ``OSError`` in one line for files that cannot be read or hold nothing.
    """
    if not data.pdb:
        with count_bar(data.build, "build", "chains", delay=DELAY) as bar:
            chains = build_backbones(
                data.build, *residue_range(data.residues), data.seed, bar.update
            )
        return Gathered(chains, np.arange(len(chains)))

    paths = protein_files(data)
    chains: list[BackboneChain] = []
    groups: list[int] = []
    used, left_out = 0, 0
    with count_bar(len(paths), "read", "files", delay=DELAY) as bar:
        for path in paths:
            found = read_protein(path, data.min_residues)
            left_out += found.left_out
            groups += [used] * len(found.chains)
            chains += found.chains
            used += bool(found.chains)
            bar.update(1)
    print(
        f"{len(paths)} files: {len(chains)} pieces of >= {data.min_residues} residues; "
        f"{left_out} shorter pieces are left out, {len(paths) - used} files have no other"
    )
    if not chains:
        raise ValueError(
            f"no piece of --pdb {data.pdb} has {data.min_residues} residues; lower --min-residues"
        )
    return Gathered(chains, np.array(groups))


def divide(data: EasyDict) -> tuple[Structures, Split]:
    """All chains, and their split by files or built chains."""
    chains, groups = gather(data)
    theory = "files" if data.pdb else "built from internal coordinates"
    everything = backbone_structures(chains, f"protein backbones, {theory}")
    count = int(groups.max()) + 1
    if count < len(SPLITS):
        raise ValueError(
            f"{count} files cannot be divided into {', '.join(SPLITS)}: pieces of one file stay "
            f"together; give at least {len(SPLITS)} files with --pdb"
        )

    # whole groups are divided, then their chains follow
    data_hash = everything.data_hash
    of_groups = make_split(PROTOCOL, count, data_hash, split_options(data))
    parts = {name: np.flatnonzero(np.isin(groups, getattr(of_groups, name))) for name in SPLITS}
    settings = {**of_groups.settings, "groups": count}
    return everything, Split(**parts, count=len(chains), data_hash=data_hash, settings=settings)


def make_chains(folder: Path, data: EasyDict) -> None:
    """Write everything that ``folder`` lacks; with ``--rebuild`` replace what is there.

    ``ValueError`` or ``OSError`` with one line.
    """
    names = {name: structures_file(folder, name).name for name in SPLITS}
    divided = None
    if data.rebuild:
        # read first: bad input leaves the old folder as it is
        divided = divide(data)
        remove([folder / name for name in (MANIFEST, SPLIT_FILE, *names.values())])

    manifest = Manifest(folder / MANIFEST, folder_settings(data), [SPLIT_FILE, *names.values()])
    if data.pdb:
        manifest.check_source({"proteins": protein_files(data)})
    if {SPLIT_FILE, *names.values()} <= manifest.finished.keys():
        return

    everything, split = divided or divide(data)
    manifest.add(SPLIT_FILE, split.save)
    for name in SPLITS:
        manifest.add(names[name], everything[getattr(split, name)].save)


def report(folder: Path) -> None:
    """Print what is in the folder."""
    size = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
    print(f"{folder}: {file_size(size)}")
    for name in SPLITS:
        chains = Structures.load(structures_file(folder, name), REBUILD_HINT)
        residues = chains.counts // ATOMS_PER_RESIDUE
        print(
            f"{name}: {len(chains)} chains of {residues.min()} to {residues.max()} residues, "
            f"{chains.num_atoms} atoms"
        )


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    data = read_options(argv).data
    folder = Path(data.out)
    with being_made(folder):
        make_chains(folder, data)
    report(folder)


if __name__ == "__main__":
    run_script(main)
