"""Preprocess QM7-X: relaxed molecules, displaced ones, or both.

    # relaxed structures of all eight files, downloaded into data/raw
    python -m preprocess.preprocess_qm7x --out data/qm7x
    # files that are there already; ten displaced structures with every relaxed one
    python -m preprocess.preprocess_qm7x --data-path FOLDER --sets 1000,2000 --kind all \\
        --displaced 10 --out data/qm7x_displaced

What occurs twice is left out (dataloader.sources.qm7x). Splits are made of molecules: all isomers,
conformers and displaced structures of a molecule are on one side, and the sizes of --train, --val
and --test are numbers of molecules. What is written, and when it is used again: see
preprocess.structure_folder. The files are HDF5 and need h5py (`pip install h5py`). Without a
network, the message says which file to put where.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python preprocess/preprocess_qm7x.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from easydict import EasyDict

from farfield.common.command_line import OptionParser, add_config_option, run_script
from farfield.dataloader.sources.qm7x import QM7X
from farfield.preprocess.lmdb_writing import make_set
from farfield.preprocess.structure_folder import FolderPlan
from farfield.preprocess.structure_options import (
    add_data_options,
    add_split_options,
    planned,
    source_from,
)


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("preprocess_qm7x", __doc__)
    add_config_option(parser)
    data = add_data_options(parser, out="data/qm7x")
    data.add_fields(QM7X)
    usual = "qm7x, 4500 / 1250 / rest, or these shares of fewer molecules"
    add_split_options(parser, usual, divided="molecules")
    return parser


def choose(config: EasyDict) -> FolderPlan:
    """What the options ask for; ``ValueError`` for options that have no effect."""
    return planned(config, source_from(config.data, QM7X))


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    config = build_parser().parse_config(argv)
    make_set(config.data.out, choose(config), config.data.rebuild)


if __name__ == "__main__":
    run_script(main)
