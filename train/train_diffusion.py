"""Train a network to find the noise in noised molecules, the time they have come to, or both.

    python -m preprocess.preprocess_md17 --sample --out data/ethanol_sample               # once
    python -m train.train_diffusion --data-path data/ethanol_sample --epochs 20
    # molecules of QM9 with 5 to 9 heavy atoms, noise at a known time, another network
    python -m train.train_diffusion --data-path data/qm9 --heavy-atoms 5,9 --objective noise \\
        --model se3_transformer_diffusion --max-cpu-minutes 30 --run-dir runs/noise
    # the time network of the same process
    python -m train.train_diffusion --data-path data/qm9 --heavy-atoms 5,9 --objective time \\
        --run-dir runs/time
    # after an interruption: continues bit-identically
    python -m train.train_diffusion --run-dir runs/noise --resume
    # the test table again, from the checkpoint alone
    python -m train.evaluate runs/noise/checkpoint_best.pt

The table has the errors of noise and time (row model) and those of a guess without looking (row
constant). The run folder holds config.yaml, checkpoint_last.pt, checkpoint_best.pt, tensorboard/,
plots/, results.json and log.txt.
"""

import sys
from pathlib import Path

if not __package__:  # `python train/train_diffusion.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from farfield.common.command_line import run_script
from farfield.train.launch import Script

SCRIPT = Script(
    module="train.train_diffusion",
    task="diffusion",
    description=__doc__,
    defaults={"run_dir": "runs/diffusion"},
)


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    SCRIPT.main(argv)


if __name__ == "__main__":
    run_script(main, several_ranks=True)
