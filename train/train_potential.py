"""Train a network on energies and forces of your own structures.

    # once, any files with energies and forces
    python -m preprocess.preprocess_structures mine.xyz --out data/structures
    # a run in runs/potential
    python -m train.train_potential --data-path data/structures --max-cpu-minutes 10
    # after an interruption: bit-identical
    python -m train.train_potential --run-dir runs/potential --resume
    # the test table again
    python -m train.evaluate runs/potential/checkpoint_best.pt

Folders of preprocess_md17 and preprocess_md22 serve as well; train_md17 and train_md22 are this
script with other defaults. Energies and forces in eV and Angstrom; tables in meV and in kcal/mol.
``--model X --help`` lists the options of network X. The run folder holds config.yaml,
checkpoint_last.pt, checkpoint_best.pt, tensorboard/, plots/, results.json and log.txt.
"""

import sys
from pathlib import Path

if not __package__:  # `python train/train_potential.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from farfield.common.command_line import run_script
from farfield.train.launch import Script

SCRIPT = Script(
    module="train.train_potential",
    task="energy_forces",
    description=__doc__,
    defaults={"run_dir": "runs/potential"},
)


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    SCRIPT.main(argv)


if __name__ == "__main__":
    run_script(main, several_ranks=True)
