"""Preprocess MD22 with its published splits, or files in its format.

    # LSR-MP protocol, downloads into data/raw
    python -m preprocess.preprocess_md22 --molecule AT-AT --out data/md22/AT-AT
    python -m preprocess.preprocess_md22 --molecule AT-AT --data-path FOLDER --split time \\
        --gap 10 --out data/md22/AT-AT_time
    python -m preprocess.preprocess_md22 --file mine.npz --energy-unit eV --split time \\
        --out data/mine

The protocol draws a sample at random whose size depends on the molecule, trains on 95 % of it,
validates on 5 % and tests on all other frames. Files whose labels come from another method say so
(``theory`` in the file) and it is shown; short correlated trajectories need ``--split time``. What
is written, and when it is used again: see preprocess.structure_folder. Without a network, the
message says which file to put where.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python preprocess/preprocess_md22.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from easydict import EasyDict

from farfield.common.command_line import OptionParser, add_config_option, run_script
from farfield.dataloader.sources.md22 import MD22
from farfield.dataloader.sources.own_files import OwnFiles
from farfield.preprocess.lmdb_writing import make_set
from farfield.preprocess.structure_folder import FolderPlan
from farfield.preprocess.structure_options import (
    USUAL_FOR_OWN_FILES,
    add_data_options,
    add_split_options,
    own_files_or_none,
    planned,
    source_from,
)


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("preprocess_md22", __doc__)
    add_config_option(parser)
    data = add_data_options(parser, out="data/md22")
    data.add_fields(MD22)
    data.add_fields(OwnFiles)
    add_split_options(parser, usual=f"lsr-mp; {USUAL_FOR_OWN_FILES}")
    return parser


def choose(config: EasyDict) -> FolderPlan:
    """What the options ask for; ``ValueError`` for options that exclude each other."""
    own = own_files_or_none(config.data)
    if own is not None:
        return planned(config, own, usual="random")
    return planned(config, source_from(config.data, MD22))


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    config = build_parser().parse_config(argv)
    make_set(config.data.out, choose(config), config.data.rebuild)


if __name__ == "__main__":
    run_script(main)
