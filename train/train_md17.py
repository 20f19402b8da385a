"""Train E2Former on energies and forces of small molecules: MD17, rMD17, 3BPA, the bundled sample,
or any preprocessed folder.

    python -m preprocess.preprocess_md17 --sample --out data/ethanol_sample                 # once
    # a run in runs/md17
    python -m train.train_md17 --data-path data/ethanol_sample --max-cpu-minutes 4
    # after an interruption: bit-identical
    python -m train.train_md17 --run-dir runs/md17 --resume
    python -m train.train_md17 --data-path data/md17/aspirin --preset base \\
        --schedule first-order --layers 3 --run-dir runs/aspirin
    # the test table again
    python -m train.evaluate runs/md17/checkpoint_best.pt
    python -m train.evaluate runs/md17/checkpoint_best.pt --data-path data/other \\
        --energy-offset per-composition

Energies and forces in eV and Angstrom; tables in meV and in kcal/mol. The run folder holds
config.yaml, checkpoint_last.pt, checkpoint_best.pt, tensorboard/, plots/, results.json and log.txt.
"""

import sys
from pathlib import Path

if not __package__:  # `python train/train_md17.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from farfield.common.command_line import run_script
from farfield.train.launch import Script

SCRIPT = Script(
    module="train.train_md17",
    task="energy_forces",
    description=__doc__,
    defaults={"run_dir": "runs/md17", "data_path": "data/md17", "batch_size": 8},
)


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    SCRIPT.main(argv)


if __name__ == "__main__":
    run_script(main, several_ranks=True)
