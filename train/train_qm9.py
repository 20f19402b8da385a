"""Train a network on properties of molecules: QM9, or any folder of preprocess_qm9; one target or
several at once.

    # once
    python -m preprocess.preprocess_qm9 --out data/qm9
    # a run in runs/qm9
    python -m train.train_qm9 --data-path data/qm9 --targets homo
    python -m train.train_qm9 --data-path data/qm9 --targets alpha,homo,gap,mu,U0,Cv \\
        --max-cpu-minutes 60 --run-dir runs/six
    python -m train.train_qm9 --model se3_transformer_properties --preset published \\
        --targets homo --run-dir runs/se3
    # after an interruption: bit-identical
    python -m train.train_qm9 --run-dir runs/six --resume
    # the test table again
    python -m train.evaluate runs/six/checkpoint_best.pt

``--model X --help`` lists the options of network X. Extensive properties are sums over atoms,
intensive ones pooled; mu and r2 have heads of their own (``--readouts alpha=mean,homo=max`` chooses
others). Tables are in the units of the published ones. The run folder holds config.yaml,
checkpoint_last.pt, checkpoint_best.pt, tensorboard/, plots/, results.json and log.txt.
"""

import sys
from pathlib import Path

if not __package__:  # `python train/train_qm9.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from farfield.common.command_line import run_script
from farfield.train.launch import Script

SCRIPT = Script(
    module="train.train_qm9",
    task="properties",
    description=__doc__,
    defaults={"run_dir": "runs/qm9"},
)


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    SCRIPT.main(argv)


if __name__ == "__main__":
    run_script(main, several_ranks=True)
