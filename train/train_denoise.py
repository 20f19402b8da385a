"""Train a network to take the noise off protein backbones.

    python -m preprocess.preprocess_backbones --sample --out data/backbones_sample        # once
    python -m train.train_denoise --data-path data/backbones_sample --epochs 20
    # bonded pairs are always edges, and less noise
    python -m train.train_denoise --data-path data/proteins --adjacency chain --noise 0.3 \\
        --max-cpu-minutes 10 --run-dir runs/proteins
    # after an interruption: continues bit-identically
    python -m train.train_denoise --run-dir runs/proteins --resume
    # the test table again, from the checkpoint alone
    python -m train.evaluate runs/proteins/checkpoint_best.pt

The table has the rmsd of the denoised chains from the clean ones (row model) and that of the noised
chains (row noised). The run folder holds config.yaml, checkpoint_last.pt, checkpoint_best.pt,
tensorboard/, plots/, results.json and log.txt.
"""

import sys
from pathlib import Path

if not __package__:  # `python train/train_denoise.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from farfield.common.command_line import run_script
from farfield.train.launch import Script

SCRIPT = Script(
    module="train.train_denoise",
    task="denoising",
    description=__doc__,
    defaults={"run_dir": "runs/denoise"},
)


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    SCRIPT.main(argv)


if __name__ == "__main__":
    run_script(main, several_ranks=True)
