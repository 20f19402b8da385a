"""Preprocess structures with energies and forces: files of your own, or any source by its name.

    # extended xyz or npz; divided 80 / 10 / 10 % at random
    python -m preprocess.preprocess_structures mine.xyz --out data/mine
    # sizes of your own; a trajectory in the order of time
    python -m preprocess.preprocess_structures a.npz b.npz --train 800 --val 100 --out data/ab
    python -m preprocess.preprocess_structures run.xyz --split time --gap 10 --out data/run
    # a file for each split
    python -m preprocess.preprocess_structures train.xyz --val-file val.xyz \\
        --test-file test.xyz --out data/three
    # other units and names
    python -m preprocess.preprocess_structures set.npz --energy-unit hartree --length-unit bohr \\
        --energy-key my_energy --forces-key my_forces --out data/set
    # LMDB files of published sets; one LMDB file instead of a folder
    python -m preprocess.preprocess_structures part_1.aselmdb part_2.aselmdb --out data/omat.lmdb
    # a published set, or a source of your own (see dataloader.sources.source_registry)
    python -m preprocess.preprocess_structures --source md22 --molecule DHA --out data/dha
    python -m preprocess.preprocess_structures --import my_source.py --source mine --out data/mine

Options of a source are listed by ``--source NAME --help``. What is written, and when it is used
again: see preprocess.structure_folder. Train on the folder with train.train_potential.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python preprocess/preprocess_structures.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
from collections.abc import Sequence

from easydict import EasyDict

from farfield.common import plugins
from farfield.common.argument_parser import OneLineParser
from farfield.common.command_line import UNSET, OptionParser, add_config_option, run_script
from farfield.dataloader.sources.own_files import OwnFiles
from farfield.dataloader.sources.source_registry import SOURCES
from farfield.preprocess.lmdb_writing import make_set
from farfield.preprocess.structure_folder import FolderPlan
from farfield.preprocess.structure_options import (
    add_data_options,
    add_split_options,
    planned,
    source_from,
)

OWN_FILES = "files"  # name of the source that reads the files of the command line
GIVEN_TWICE = "files are given twice, with --file and without; give them once"


class _NamedFiles(argparse.Action):
    """Files named without an option: the same as ``--file`` with commas between them."""

    def __call__(self, parser, namespace, values, option_string=None):
        if values and namespace.file is not UNSET:
            parser.error(GIVEN_TWICE)
        if values:
            parser.named_files = namespace.file = ",".join(values)


def build_parser(source: str = OWN_FILES) -> OptionParser:
    """All options of the script for a source; ``ValueError`` for an unknown one."""
    kind = SOURCES.find(source)
    parser = OptionParser("preprocess_structures", __doc__)
    add_config_option(parser)

    # options of the source, and of every source
    data = add_data_options(parser, out="data/structures")
    data.add("--source", str, source, choices=list(SOURCES), help="name of the source")
    data.add_fields(kind)
    if kind is OwnFiles:
        parser.add_argument(
            "files",
            nargs="*",
            action=_NamedFiles,
            default=argparse.SUPPRESS,
            metavar="FILE",
            help="files of your own: npz or extended xyz",
        )
    usual = "fractions, 80 / 10 / 10 %" if kind is OwnFiles else "as the source says"
    add_split_options(parser, usual)
    return parser


def read_options(argv: Sequence[str] | None = None) -> EasyDict:
    """The configuration of a command line; its source decides which options there are."""
    argv = plugins.import_named_files(argv)

    # the source must be known before there is a parser for its options
    finder = OneLineParser(__doc__, add_help=False)
    finder.add_argument("--source", default=OWN_FILES)
    name = finder.parse_known_args(argv)[0].source

    parser = build_parser(name)
    config = parser.parse_config(argv)
    if getattr(parser, "named_files", None) not in (None, config.data.get("file")):
        raise ValueError(GIVEN_TWICE)
    if config.data.source != name:
        raise ValueError(
            f"the configuration file names the source {config.data.source}; give --source "
            f"{config.data.source} on the command line as well"
        )
    return config


def choose(config: EasyDict) -> FolderPlan:
    """What the options ask for; ``ValueError`` or ``FileNotFoundError`` for what cannot be read."""
    return planned(config, source_from(config.data, SOURCES.find(config.data.source)))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command line."""
    config = read_options(argv)
    make_set(config.data.out, choose(config), config.data.rebuild)


if __name__ == "__main__":
    run_script(main)
