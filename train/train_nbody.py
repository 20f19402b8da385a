"""Train the SE(3)-Transformer on the N-body experiment.

    python -m preprocess.preprocess_nbody --out data/nbody               # once
    python -m train.train_nbody --protocol p1000 --epochs 50             # a run in runs/nbody
    # after an interruption: continues bit-identically
    python -m train.train_nbody --run-dir runs/nbody --resume
    python -m train.train_nbody --protocol p500 --max-cpu-minutes 45 --seeds 3 --run-dir runs/p500
    # the test table again, from the checkpoint alone
    python -m train.evaluate runs/nbody/checkpoint_best.pt

The run folder holds config.yaml, checkpoint_last.pt, checkpoint_best.pt, tensorboard/, plots/,
results.json and log.txt.
"""

import sys
from pathlib import Path

if not __package__:  # `python train/train_nbody.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from farfield.common.command_line import run_script
from farfield.train.launch import Script

SCRIPT = Script(
    module="train.train_nbody",
    task="nbody",
    description=__doc__,
    defaults={"run_dir": "runs/nbody"},
)


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    SCRIPT.main(argv)


if __name__ == "__main__":
    run_script(main, several_ranks=True)
