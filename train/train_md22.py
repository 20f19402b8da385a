"""Train E2Former on energies and forces of large molecules: MD22, or any preprocessed folder; near
field against hybrid.

    python -m preprocess.preprocess_md22 --molecule AT-AT --out data/md22/AT-AT             # once
    # a run in runs/md22
    python -m train.train_md22 --data-path data/md22/AT-AT --max-cpu-minutes 60
    # two runs, one table
    python -m train.train_md22 --data-path data/md22/AT-AT --compare --max-cpu-minutes 20 \\
        --run-dir runs/AT-AT
    # after an interruption
    python -m train.train_md22 --run-dir runs/AT-AT --resume
    python -m train.evaluate runs/AT-AT/near+far/checkpoint_best.pt

``--compare`` trains the schedule and the same without its far field, with equal split, seed,
optimiser and length. Energies and forces in eV and Angstrom; tables in meV and in kcal/mol, the
unit of the published MD22 tables.
"""

import sys
from pathlib import Path

if not __package__:  # `python train/train_md22.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from farfield.common.command_line import run_script
from farfield.train.launch import Script

SCRIPT = Script(
    module="train.train_md22",
    task="energy_forces",
    description=__doc__,
    defaults={"run_dir": "runs/md22", "data_path": "data/md22"},
)


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    SCRIPT.main(argv)


if __name__ == "__main__":
    run_script(main, several_ranks=True)
