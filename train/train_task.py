"""Train a network on any task by its name, also on a task of your own.

    python -m train.train_task --task energy_forces --data-path data/structures
    # a task that a file of your own registers
    python -m train.train_task --import my_task.py --task my_task

``--task X --help`` lists the options of task X. How a task is written: train/tasks/task.py. The run
folder holds config.yaml, checkpoint_last.pt, checkpoint_best.pt, tensorboard/, plots/, results.json
and log.txt.
"""

import sys
from pathlib import Path

if not __package__:  # `python train/train_task.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from farfield.common.argument_parser import OneLineParser
from farfield.common.command_line import run_script
from farfield.common.plugins import import_named_files
from farfield.common.task_registry import TASKS
from farfield.models.choices import check_choice
from farfield.train.launch import Script


def chosen_script(argv: list[str]) -> tuple[Script | None, list[str]]:
    """The script of ``--task`` and its arguments; None where the help of this one is asked for."""
    finder = OneLineParser(__doc__, usage="%(prog)s --task NAME [options]", add_help=False)
    finder.add_argument("--task", metavar="NAME", help=f"name of a task: {', '.join(TASKS)}")
    found, rest = finder.parse_known_args(argv)
    if found.task is None and {"-h", "--help"} & set(rest):
        finder.print_help()
        return None, rest

    if found.task is None:
        raise ValueError(f"there is no task to train; give --task NAME, one of {', '.join(TASKS)}")
    check_choice("--task", found.task, TASKS)
    script = Script(
        module="train.train_task",
        task=found.task,
        description=__doc__,
        arguments=("--task", found.task),
    )
    return script, rest


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    script, rest = chosen_script(import_named_files(argv))
    if script is not None:
        script.main(rest)


if __name__ == "__main__":
    run_script(main, several_ranks=True)
