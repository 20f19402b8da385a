"""Preprocess MD22, or files of its format: splits and neighbour graphs.

    # LSR-MP protocol, downloads into data/raw
    python -m preprocess.preprocess_md22 --molecule AT-AT --out data/md22/AT-AT
    python -m preprocess.preprocess_md22 --molecule AT-AT --data-path FOLDER --split time \\
        --gap 10 --out data/md22/AT-AT_time
    python -m preprocess.preprocess_md22 --file mine.npz --energy-unit eV --split time \\
        --out data/mine

The protocol draws a sample of the molecule's own size at random, trains on 95 % of it, validates on
5 % and tests on all other frames. Files whose labels are of another method say so (``theory`` in
the file) and it is shown; short correlated trajectories want ``--split time``. What is written, and
when it is used again: see preprocess.structure_folder. Without a network, the message says which
file to put where.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python preprocess/preprocess_md22.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])


from farfield.common.command_line import OptionParser, add_config_option, run_script
from farfield.common.monitor import progress_bar
from farfield.dataloader.sources import md22
from farfield.dataloader.sources.download import fetch
from farfield.dataloader.splits import SplitOptions
from farfield.preprocess.structure_folder import (
    Source,
    add_data_options,
    add_split_options,
    make_folder,
    own_choice,
    split_options,
)


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("preprocess_md22", __doc__)
    add_config_option(parser)
    add_data_options(parser, "data/md22", list(md22.SAMPLE_SIZES), "AT-AT")
    add_split_options(parser)
    return parser


def published_source(data) -> Source:
    """The published file of the molecule (letters of any case), to be downloaded if it is not in
    ``--data-path``.
    """
    remote = md22.official_file(data.molecule)
    folder = Path(data.data_path)
    path = md22.local_file(folder, data.molecule) or folder / remote.name

    def obtain():
        if not path.exists():
            fetch(
                remote,
                folder,
                lambda total, done: progress_bar(
                    total, initial=done, desc=remote.name, unit="B", unit_scale=True
                ),
            )

    return Source(
        (path,),
        md22.read_md22,
        obtain,
        words={"units": str(md22.FILE_UNITS), "molecule": data.molecule},
    )


def choose_source(config) -> tuple[Source, str, SplitOptions]:
    """Source, protocol and its options."""
    data, split = config.data, config.split
    if own := own_choice(data, split):
        return own
    protocol, defaults = (
        split.name or "lsr-mp",
        {"sample": md22.SAMPLE_SIZES[data.molecule], "seed": md22.SPLIT_SEED},
    )
    return published_source(data), protocol, split_options(split, protocol, **defaults)


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    config = build_parser().parse_config(argv)
    make_folder(config, *choose_source(config))


if __name__ == "__main__":
    run_script(main)
