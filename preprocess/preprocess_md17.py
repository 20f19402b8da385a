"""Preprocess MD17, rMD17, the bundled sample, or any files of structures with energies and forces:
splits and neighbour graphs.

    # bundled: 750 / 50 / 200 frames of MD17 ethanol
    python -m preprocess.preprocess_md17 --sample --out data/ethanol_sample
    # 950 / 50 / rest, downloads into data/raw
    python -m preprocess.preprocess_md17 --molecule aspirin --out data/md17/aspirin
    python -m preprocess.preprocess_md17 --revised --molecule aspirin --split rmd17 \\
        --split-number 1 --out data/rmd17/aspirin
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


from farfield.common.command_line import OptionParser, add_config_option, run_script
from farfield.common.monitor import progress_bar
from farfield.dataloader.sources import md17
from farfield.dataloader.sources.download import fetch
from farfield.dataloader.splits import SplitOptions
from farfield.dataloader.units import Units
from farfield.preprocess.structure_folder import (
    Source,
    add_data_options,
    add_split_options,
    make_folder,
    own_choice,
    split_options,
)

SAMPLE_MOLECULE = "ethanol"
SAMPLE_SPLIT = {"train": 750, "val": 50, "test": 200}


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("preprocess_md17", __doc__)
    add_config_option(parser)
    add_data_options(parser, "data/md17", list(md17.MOLECULES), SAMPLE_MOLECULE)
    parser.section("data", "").add("--revised", bool, False, help="rMD17 instead of MD17")
    parser.section("data", "").add(
        "--sample", bool, False, help="the bundled 1000 frames of ethanol; needs no network"
    )
    add_split_options(parser)
    return parser


def published_source(data) -> Source:
    """The published file of the molecule, to be downloaded if it is not in ``--data-path``."""
    folder = Path(data.data_path)
    remote = md17.official_file(data.molecule, data.revised)
    words = {"units": str(md17.FILE_UNITS), "molecule": data.molecule, "revised": data.revised}

    def bar(total, done):
        return progress_bar(total, initial=done, desc=remote.name, unit="B", unit_scale=True)

    if not data.revised:
        return Source(
            (folder / remote.name,), md17.read_md17, lambda: fetch(remote, folder, bar), words=words
        )
    path = md17.revised_file(folder, data.molecule)

    def obtain():
        archive_alone = (folder / remote.name).exists() and not (
            md17.revised_splits(folder) / md17.INDEX_FILES[0]
        ).exists()
        if not path.exists() or archive_alone:  # the second: an unpacking that was cut off
            md17.unpack_revised(fetch(remote, folder, bar), data.molecule, folder)

    return Source((path,), lambda file: md17.read_md17(file, revised=True), obtain, words=words)


def choose_source(config) -> tuple[Source, str, SplitOptions]:
    """Source, protocol and its options; ``ValueError`` for options that exclude each other."""
    data, split = config.data, config.split
    given = [
        flag
        for flag, value in (
            ("--sample", data.sample),
            ("--revised", data.revised),
            ("--file", data.file),
        )
        if value
    ]
    if len(given) > 1:
        raise ValueError(f"{given[0]} and {given[1]} exclude each other; give one of them")
    if own := own_choice(data, split):
        return own
    if data.sample:
        if data.molecule != SAMPLE_MOLECULE:
            raise ValueError(
                f"--sample is {SAMPLE_MOLECULE}, --molecule asks for {data.molecule}; leave one "
                "of them out"
            )
        protocol = split.name or "random"
        sizes = SAMPLE_SPLIT if protocol == "random" else {}
        source = Source(
            (md17.SAMPLE_FILE,),
            lambda path: md17.read_sample(),
            words={"units": str(Units()), "sample": SAMPLE_MOLECULE},
        )
        return source, protocol, split_options(split, protocol, **sizes)
    if split.name == "rmd17" and not data.revised:
        raise ValueError("--split rmd17 divides rMD17; give --revised as well")
    published = {"path": str(md17.revised_splits(data.data_path))} if split.name == "rmd17" else {}
    protocol = split.name or "md17"
    return published_source(data), protocol, split_options(split, protocol, **published)


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    config = build_parser().parse_config(argv)
    make_folder(config, *choose_source(config))


if __name__ == "__main__":
    run_script(main)
