"""Pack a checkpoint: its judged weights alone, a quarter of the size, to keep or to pass on.

    python -m train.pack runs/ethanol/checkpoint_best.pt --output ethanol.pt

The file predicts, simulates, is evaluated and starts other runs (--init-from) as the checkpoint
does. It has no state of an optimiser, so no run resumes from it. The best validation error stays in
it, the history of the run does not.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # `python train/pack.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from farfield.common import checkpoint
from farfield.common.argument_parser import OneLineParser
from farfield.common.command_line import run_script
from farfield.common.log import RunLog

# what only a run that goes on reads
DROPPED = {"averaged": None, "optimizer": {}, "schedule": {}, "random": {}, "history": []}


def packed(content: dict) -> dict:
    """The content of a checkpoint with its judged weights alone."""
    kept = {key: value for key, value in content.items() if key != "format"}
    return kept | {"weights": checkpoint.evaluation_weights(content)} | DROPPED


def build_parser() -> argparse.ArgumentParser:
    """All options of the script."""
    parser = OneLineParser(__doc__)
    parser.add_argument("checkpoint", nargs="?", help="checkpoint_best.pt of a run folder")
    parser.add_argument("--output", metavar="FILE", help="file to write (needed)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    options = build_parser().parse_args(argv)
    if options.checkpoint is None or options.output is None:
        raise ValueError("give a checkpoint and --output FILE, as in --help")
    output = Path(options.output)
    if output.exists() and not options.overwrite:
        raise ValueError(f"{output} exists; give another --output, or --overwrite")

    content = checkpoint.read_run(options.checkpoint)
    checkpoint.save_checkpoint(output, packed(content))
    RunLog()(f"{output}: {output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    run_script(main)
