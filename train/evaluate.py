"""Judge a trained network: the test table of its run again, or predictions for any file.

    # the table of the run, from its checkpoint alone
    python -m train.evaluate runs/nbody/checkpoint_best.pt
    python -m train.evaluate runs/nbody/checkpoint_best.pt --data-path elsewhere --split val \\
        --json rows.json
    python -m train.evaluate runs/md17/checkpoint_best.pt --data-path data/larger \\
        --energy-offset per-composition
    # how far its outputs are from turning with the structures
    python -m train.evaluate runs/md17/checkpoint_best.pt --equivariance --directions 32
    # any file that ASE reads, with or without labels
    python -m train.evaluate runs/md17/checkpoint_best.pt --input in.xyz --output out.xyz

The first form reads model, protocol and data path from the configuration inside the checkpoint, and
gives the values of the run's ``results.json``. On molecules of another size or composition than the
training, energies may have another zero: ``--energy-offset per-composition`` subtracts the mean
error of each composition before the energies are judged.

``--equivariance`` reads no labels: structures of the split are turned by evenly spread rotations
and reflections, and the table says by how much each output fails to turn with them
(``rotation_errors.py``).

``--input`` needs no preprocessing: structures of any file get energy, forces and stress, or the
properties that the network was trained on. ``--output`` writes them as extended xyz; where the file
has labels, their errors are printed. The averaged weights are used where averaging was on.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python train/evaluate.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import dataclasses
from collections.abc import Mapping

import torch
from torch import nn

from farfield.common.argument_parser import OneLineParser
from farfield.common.command_line import find_device, run_script
from farfield.common.log import RunLog, count_bar, format_table, write_json
from farfield.common.plugins import FLAG, HELP, import_named_files
from farfield.common.precision import TRAINING_PRECISIONS, precision_of_evaluation
from farfield.common.task_registry import TASKS
from farfield.common.trained import TrainedRun
from farfield.dataloader.set_names import parse_sets
from farfield.dataloader.split_protocols import SPLITS
from farfield.models.choices import check_choice
from farfield.train.checkpointing import graph_cutoff
from farfield.train.data_order import EpochLoader
from farfield.train.rotation_errors import rotation_table
from farfield.train.tasks.task import Task, evaluate_model

# options that go with a split of a data set, and with a file
OF_SPLIT = ("data_path", "split", "equivariance", "directions")
QUANTITIES_OF_FILE = ("energy", "forces", "stress", "charges", "dipole")  # with a --...-key each
OF_FILE = (
    "output",
    "overwrite",
    "compile",
    *(f"{quantity}_key" for quantity in QUANTITIES_OF_FILE),
)
DIRECTIONS = 32  # rotations, and as many reflections, where no number is named
BAR_DELAY = 1.0  # seconds; shorter predictions show no bar
OUTPUT_SUFFIXES = (".xyz", ".extxyz")


@dataclasses.dataclass(frozen=True)
class Judged:
    """A trained network and the split that it is judged on."""

    model: nn.Module
    task: Task
    loader: EpochLoader
    device: torch.device
    precision: str

    @classmethod
    def open(
        cls,
        path: str | Path,
        split: str = "test",
        data_path: str | Path | None = None,
        device: torch.device | str = "cpu",
        head: str | None = None,
        **options: str,
    ) -> Judged:
        """Arguments and errors as in :func:`evaluate_checkpoint`."""
        device = find_device(str(device))
        run = TrainedRun.read(path, device)
        config, precision = run.config, run.config.training.precision
        check_choice(f"precision of checkpoint {path}", precision, TRAINING_PRECISIONS)
        precision = precision_of_evaluation(precision)
        check_task_options(run, options)

        if data_path is not None:
            config.data.data_path = str(data_path)
            config.data.set_weights = None
        _check_data_are_there(config)
        torch.set_num_threads(config.run.threads)
        model = run.network(device, precision, head)
        if head is not None or data_path is not None:
            _choose_sets(run, head, data_path)
        if model.energy_steps is not None:
            print(f"note: {model.energy_steps}")
        task, loader = run.task().evaluation(config, split, model, **options)

        # a network that takes any graph is judged on the graphs it has learned from
        cutoff = graph_cutoff(loader)
        if run.cutoff not in (None, cutoff):
            raise ValueError(
                f"{config.data.data_path} has graphs with cutoff {cutoff} A, {path} was trained on "
                f"graphs with cutoff {run.cutoff} A; preprocess with --cutoff {run.cutoff}"
            )
        return cls(model, task, loader, device, precision)


def _check_data_are_there(config) -> None:
    """``FileNotFoundError`` where data of the run are not at their place."""
    for path in parse_sets(config.get("data", {}).get("data_path", ".")).values():
        if not Path(path).exists():
            raise FileNotFoundError(
                f"the data folder of the run, {path}, does not exist as seen from {Path.cwd()}; "
                "give --data-path DIR"
            )


def _choose_sets(run: TrainedRun, head: str | None, data_path: str | Path | None) -> None:
    """Data of one head: those of its set, unless a place of their own is named.

    ``ValueError`` for other data of a network with several heads, none of which is chosen.
    """
    data = run.config.data
    sets = parse_sets(data.data_path)
    if head is None and run.heads and tuple(sets) != run.heads:
        run.check_head(head)
    if head is not None and data_path is None:
        data.data_path, data.set_weights = sets[head], None


def evaluate_checkpoint(
    path: str | Path,
    split: str = "test",
    data_path: str | Path | None = None,
    device: torch.device | str = "cpu",
    head: str | None = None,
    **options: str,
) -> list[dict]:
    """Rows of the table of a split.

    path: of the checkpoint. data_path: folder of the data (None: as in the checkpoint). head: the
    energy head of several that is judged, on its own set unless data_path names other data (None:
    each head on its set). options: of the evaluation, see ``Task.evaluation_options``. Raises
    FileNotFoundError or ValueError for a checkpoint or data that are missing, damaged or of
    something else.
    """
    one = Judged.open(path, split, data_path, device, head, **options)
    found = evaluate_model(one.model, one.task, one.loader, one.device, one.precision)
    return one.task.table(found)


def evaluate_equivariance(
    path: str | Path,
    split: str = "test",
    data_path: str | Path | None = None,
    device: torch.device | str = "cpu",
    directions: int = DIRECTIONS,
    head: str | None = None,
) -> list[dict]:
    """Rows of rotation errors on a split, two for each output; see ``rotation_errors.py``.

    directions: number of rotations, and of reflections. Errors as in :func:`evaluate_checkpoint`.
    """
    one = Judged.open(path, split, data_path, device, head)
    evaluations = len(one.loader) * (1 + 2 * directions)
    with count_bar(evaluations, "turn", "batches", delay=BAR_DELAY) as bar:
        return rotation_table(
            one.model,
            one.loader,
            directions,
            device=one.device,
            precision=one.precision,
            units=one.task.units,
            progress=bar.update,
        )


def check_task_options(run: TrainedRun, options: Mapping[str, str]) -> None:
    """Raise ValueError for options that the task of the run does not have, or not with this value.

    options: name in ``Task.evaluation_options`` -> value.
    """
    known = run.task().evaluation_options
    for name, value in options.items():
        if name not in known:
            raise ValueError(
                f"{flag_of(name)} {value} is no option of the task {run.config.task!r} of "
                f"{run.path}; leave it out"
            )
        check_choice(flag_of(name), value, known[name])


def flag_of(name: str) -> str:
    """``energy_offset`` -> ``--energy-offset``."""
    return f"--{name.replace('_', '-')}"


def task_options() -> dict[str, list[str]]:
    """Option of an evaluation -> names of the tasks that have it."""
    found: dict[str, list[str]] = {}
    for task, cls in TASKS.items():
        for name in cls.evaluation_options:
            found.setdefault(name, []).append(task)
    return found


def evaluate_file(options: argparse.Namespace, log: RunLog) -> list[dict]:
    """Predict the structures of ``--input``; returns the rows of errors, none without labels."""
    from farfield.train import file_predictions
    from farfield.train.prediction import load

    compiled = options.compile or "off"
    device = find_device(options.device)
    model = load(options.checkpoint, device, head=options.head, compile=compiled)
    if model.network.energy_steps is not None:
        log(f"note: {model.network.energy_steps}")
    keys = {quantity: getattr(options, f"{quantity}_key") for quantity in QUANTITIES_OF_FILE}
    atoms = file_predictions.read_input(model, options.input)
    labels = file_predictions.find_labels(atoms, list(model.units), keys)
    with count_bar(len(atoms), "predict", "structures", delay=BAR_DELAY) as bar:
        predictions, seconds = file_predictions.timed_predictions(model, atoms, bar.update)
    log(f"{options.input}: {len(atoms)} structures, {1000 * seconds / len(atoms):.3g} ms each")

    # which labels were read, and what the predictions are worth
    for quantity, found in labels.items():
        log(f"label {quantity}: {found.key!r} of {found.count()} structures")
    rows = file_predictions.error_table(atoms, predictions, labels, model.units)
    if rows:
        log(format_table(rows))
    else:
        log(f"no labels of {', '.join(model.units)} in the file; predictions alone")
    if not rows and not options.output:
        shown = file_predictions.prediction_table(atoms, predictions, model.units)
        log(format_table(shown))
        log(f"{len(shown)} of {len(atoms)} structures; give --output FILE for all predictions")

    if options.output:
        file_predictions.write_predictions(options.output, atoms, predictions, labels)
        log(f"predictions {options.output}")
    return rows


def build_parser() -> OneLineParser:
    """All options of the script."""
    parser = OneLineParser(__doc__, usage="%(prog)s CHECKPOINT [options]")
    checkpoint = "checkpoint_best.pt or checkpoint_last.pt of a run"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=checkpoint)
    device = "cpu, cuda, cuda:1, ... (default cpu)"
    parser.add_argument("--device", default="cpu", help=device)
    head = "energy head of a checkpoint with several (default: each on the split of its set)"
    parser.add_argument("--head", metavar="NAME", help=head)
    parser.add_argument("--json", metavar="FILE", help="json file to write the rows to as well")
    # import_named_files takes the option out of the arguments: here it is for the help alone
    parser.add_argument(FLAG, metavar="FILE", help=HELP)

    data = parser.add_argument_group("a split of the data of the run")
    folder = "folder of the data, where it has moved or other data are judged"
    data.add_argument("--data-path", metavar="DIR", help=folder)
    data.add_argument("--split", choices=SPLITS, help="split of the data (default test)")
    turned = "errors of the outputs when structures turn, instead of errors against labels"
    data.add_argument("--equivariance", action="store_true", default=None, help=turned)
    number = f"number of rotations, and of reflections, of --equivariance (default {DIRECTIONS})"
    data.add_argument("--directions", type=int, metavar="N", help=number)
    for name, tasks in task_options().items():
        choices = {
            choice: None for task in tasks for choice in TASKS[task].evaluation_options[name]
        }
        words = f"for the task {' or '.join(tasks)}: {', '.join(choices)}"
        data.add_argument(flag_of(name), metavar="NAME", help=words)

    file = parser.add_argument_group("a file of structures")
    read = "file of any format that ASE reads; energies in eV, lengths in Angstrom"
    file.add_argument("--input", metavar="FILE", help=read)
    written = "extended xyz file to write the predictions to"
    file.add_argument("--output", metavar="FILE", help=written)
    replaced = "replace the file of --output if it exists"
    file.add_argument("--overwrite", action="store_true", default=None, help=replaced)
    modes = "when a potential is compiled: auto (where it pays), on (first) or off (default)"
    file.add_argument("--compile", choices=("auto", "on", "off"), help=modes)
    for quantity in QUANTITIES_OF_FILE:
        words = f"name of the {quantity} in the file (default: {quantity}, REF_{quantity}, ...)"
        file.add_argument(f"--{quantity}-key", metavar="NAME", help=words)
    return parser


def read_options(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of a command line; ValueError for options that do not go together."""
    options = build_parser().parse_args(import_named_files(argv))
    for name in OF_FILE if options.input is None else (*OF_SPLIT, *task_options()):
        if getattr(options, name) is None:
            continue
        flag = flag_of(name)
        if options.input is None:
            raise ValueError(f"{flag} is for a file of structures; add --input FILE")
        raise ValueError(f"{flag} and --input exclude each other; leave one of them out")

    # errors of turned structures
    if options.directions is not None and not options.equivariance:
        raise ValueError("--directions is for turned structures; add --equivariance")
    if options.directions is not None and options.directions < 1:
        raise ValueError(f"--directions must be >= 1, got {options.directions}; give e.g. 32")
    for name in task_options() if options.equivariance else ():
        if getattr(options, name) is not None:
            raise ValueError(
                f"{flag_of(name)} is for errors against labels, which --equivariance does not "
                "read; leave one of them out"
            )

    # files to write
    for flag, path in (("--json", options.json), ("--output", options.output)):
        if path is not None and (Path(path).is_dir() or not Path(path).parent.is_dir()):
            raise ValueError(f"{flag} {path}: give a file in a folder that exists")
    if options.output is not None:
        check_output(options)
    return options


def check_output(options: argparse.Namespace) -> None:
    """ValueError for an ``--output`` that says another format, or would replace a file."""
    path = Path(options.output)
    if path.suffix not in OUTPUT_SUFFIXES:
        raise ValueError(
            f"--output {path}: predictions are written as extended xyz; give a name that ends in "
            f"{' or '.join(OUTPUT_SUFFIXES)}"
        )

    # labels of the input are not written, so they would be lost
    if path.resolve() == Path(options.input).resolve():
        raise ValueError(f"--output {path} is the file of --input; give another file")
    if path.exists() and not options.overwrite:
        raise ValueError(f"--output {path} exists; give another file, or --overwrite")


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    options, log = read_options(argv), RunLog()
    found = {"checkpoint": options.checkpoint}

    # structures of a file, or a split of the data of the run
    if options.input is not None:
        found |= {"input": options.input, "rows": evaluate_file(options, log)}
    else:
        split = options.split or "test"
        where = (options.checkpoint, split, options.data_path, options.device)
        if options.equivariance:
            directions = options.directions or DIRECTIONS
            rows = evaluate_equivariance(*where, directions, options.head)
            found |= {"directions": directions}
        else:
            given = {name: getattr(options, name) for name in task_options()}
            chosen = {name: value for name, value in given.items() if value is not None}
            rows = evaluate_checkpoint(*where, options.head, **chosen)
        log(f"{split} split, {options.checkpoint}\n{format_table(rows)}")
        found |= {"split": split, "rows": rows}
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    run_script(main)
