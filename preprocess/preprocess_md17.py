"""Preprocess MD17, rMD17 or the bundled sample with their published splits.

    # bundled: 750 / 50 / 200 frames of MD17 ethanol
    python -m preprocess.preprocess_md17 --sample --out data/ethanol_sample
    # 950 / 50 / rest, downloads into data/raw
    python -m preprocess.preprocess_md17 --molecule aspirin --out data/md17/aspirin
    python -m preprocess.preprocess_md17 --revised --molecule aspirin --split rmd17 \\
        --split-number 1 --out data/rmd17/aspirin
    # files of your own, divided like MD17; preprocess_structures divides them 80 / 10 / 10 %
    python -m preprocess.preprocess_md17 --file train_300K.xyz --test-file test_300K.xyz \\
        --out data/3bpa
    python -m preprocess.preprocess_md17 --file set.npz --energy-unit hartree \\
        --length-unit bohr --split random --train 800 --out data/set

What is written, and when it is used again: see preprocess.structure_folder. Every label is printed
with its number, unit, mean and standard deviation. Without a network, the message says which file
to put where.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python preprocess/preprocess_md17.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from easydict import EasyDict

from farfield.common.command_line import OptionParser, add_config_option, run_script
from farfield.dataloader.sources.md17 import (
    MD17,
    SAMPLE_MOLECULE,
    SAMPLE_SIZES,
    MD17Sample,
    RevisedMD17,
)
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
    parser = OptionParser("preprocess_md17", __doc__)
    add_config_option(parser)
    data = add_data_options(parser, out="data/md17")
    data.add_fields(MD17)
    data.add("--revised", bool, False, help="rMD17 instead of MD17")
    data.add("--sample", bool, False, help="the bundled 1000 frames of ethanol; needs no network")
    data.add_fields(OwnFiles)
    sample = " / ".join(map(str, SAMPLE_SIZES.values()))
    usual = f"md17, 950 / 50 / rest; --sample: random, {sample}; {USUAL_FOR_OWN_FILES}"
    add_split_options(parser, usual=usual)
    return parser


def choose(config: EasyDict) -> FolderPlan:
    """What the options ask for; ``ValueError`` for options that exclude each other."""
    data = config.data
    exclusive = {"--sample": data.sample, "--revised": data.revised, "--file": data.file}
    given = [flag for flag, value in exclusive.items() if value]
    if len(given) > 1:
        raise ValueError(f"{given[0]} and {given[1]} exclude each other; give one of them")

    own = own_files_or_none(data)
    if own is not None:
        return planned(config, own, usual="random")
    if not data.sample:
        return planned(config, source_from(data, RevisedMD17 if data.revised else MD17))
    if data.molecule != SAMPLE_MOLECULE:
        raise ValueError(
            f"--sample is {SAMPLE_MOLECULE}, --molecule asks for {data.molecule}; leave one of "
            "them out"
        )
    return planned(config, MD17Sample())


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    config = build_parser().parse_config(argv)
    make_set(config.data.out, choose(config), config.data.rebuild)


if __name__ == "__main__":
    run_script(main)
