"""The test table of a run again, from its checkpoint alone.

    python -m train.evaluate runs/nbody/checkpoint_best.pt
    python -m train.evaluate runs/nbody/checkpoint_best.pt --data-path elsewhere --split val \\
        --json rows.json
    python -m train.evaluate runs/md17/checkpoint_best.pt --data-path data/larger \\
        --energy-offset per-composition

Model, protocol and data path come from the configuration inside the checkpoint; the averaged
weights are used where averaging was on. The numbers are those of the run's ``results.json``. On
other molecules than those of the training (size transfer) energies may have another zero:
``--energy-offset per-composition`` takes the mean error of each composition off before the energies
are judged.
"""

import sys
from pathlib import Path

if not __package__:  # `python train/evaluate.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse

import torch
from easydict import EasyDict

from farfield.common import checkpoint
from farfield.common.command_line import find_device, run_script
from farfield.common.log import RunLog, format_table, write_json
from farfield.common.precision import PRECISIONS
from farfield.models.choices import check_choice
from farfield.train.tasks import TASKS, find_task
from farfield.train.tasks.energy_force_errors import OFFSETS
from farfield.train.tasks.task import evaluate_model
from farfield.train.tasks.task_registry import task_name


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ValueError(f"{message.removeprefix('argument ')} (--help lists all options)")


def evaluate_checkpoint(
    path,
    split: str = "test",
    data_path=None,
    device: torch.device | str = "cpu",
    energy_offset: str = "none",
) -> list[dict]:
    """Rows of the table of ``split``; ``data_path`` takes the place of the one in the checkpoint,
    ``energy_offset``: see `OFFSETS`.

    Raises ``ValueError`` or ``FileNotFoundError`` for a checkpoint or data that are missing,
    damaged or foreign.
    """
    check_choice("energy_offset", energy_offset, OFFSETS)
    device = find_device(str(device))
    content = checkpoint.read_run(path, device)
    config = EasyDict(content["config"])
    for what, name, known in (
        ("task", task_name(config.get("task")), TASKS),
        ("precision", config.training.precision, PRECISIONS),
    ):
        if name not in known:
            raise ValueError(
                f"checkpoint {path} is of the unknown {what} {name!r}; known: {', '.join(known)}"
            )
    found = find_task(config.task)
    more = {} if energy_offset == "none" else {"energy_offset": energy_offset}
    if more and "energy_offset" not in found.evaluation_options:
        raise ValueError(
            f"--energy-offset {energy_offset} is for energies; {path} is of the task "
            f"{config.task!r}, leave it out"
        )
    if data_path is not None:
        config.data.data_path = str(data_path)
    torch.set_num_threads(config.run.threads)
    model = found.restore(config)
    checkpoint.load_weights(model, checkpoint.evaluation_weights(content), path)
    (task, loader), precision = (
        found.evaluation(config, split, model, **more),
        config.training.precision,
    )
    model = model.to(device=device, dtype=PRECISIONS[precision])
    return task.table(evaluate_model(model, task, loader, device, precision))


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    parser = _OneLineParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="checkpoint_best.pt or checkpoint_last.pt of a run"
    )
    parser.add_argument("--data-path", help="folder of the data, if it has moved")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument(
        "--energy-offset",
        choices=tuple(OFFSETS),
        default="none",
        help="what energy errors may be shifted by",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the rows to this file")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    if options.json is not None and (
        Path(options.json).is_dir() or not Path(options.json).parent.is_dir()
    ):
        raise ValueError(f"--json {options.json}: give a file in a folder that exists")
    rows = evaluate_checkpoint(
        options.checkpoint, options.split, options.data_path, options.device, options.energy_offset
    )
    RunLog()(f"{options.split} split, {options.checkpoint}\n{format_table(rows)}")
    if options.json:
        write_json(
            options.json, {"checkpoint": options.checkpoint, "split": options.split, "rows": rows}
        )


if __name__ == "__main__":
    run_script(main)
