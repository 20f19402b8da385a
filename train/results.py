"""The folder of a run: made or refused at the start, filled with the configuration, at the end with
test table and plots.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from farfield.common import checkpoint, ranks, run_folder
from farfield.common.command_line import saved_config
from farfield.common.log import format_table, write_json
from farfield.common.session import Interrupted, SignalWatch
from farfield.train.bad_steps import BAD_STEP
from farfield.train.former_runs import current_config
from farfield.train.run_options import FREE_ON_RESUME
from farfield.train.tasks.task import Evaluation, evaluate_model
from farfield.train.trainer import Trainer

RESULTS = "results.json"
RUN_FILES = (
    "config.yaml",
    checkpoint.LAST,
    checkpoint.BEST,
    RESULTS,
    "log.txt",
    "tensorboard",
    "plots",
    BAD_STEP,
)


def prepare_run_folder(folder: Path, resume: bool, overwrite: bool):
    """The folder of a training: see `common.run_folder.prepare_run_folder`."""
    run_folder.prepare_run_folder(folder, resume, overwrite, RUN_FILES)


def save_config(folder: Path, config):
    """Write ``config.yaml``; where a run is resumed, only `FREE_ON_RESUME` may differ."""
    run_folder.save_config(folder, config, FREE_ON_RESUME, current_config)


def finish_run(trainer: Trainer, test_loader) -> dict:
    """Evaluate the best checkpoint on the test split; write ``results.json`` and ``plots/``, print
    the table; returns the results.

    A first signal waits until all is written, then it is an `Interrupted`; a second one interrupts
    at once. With several ranks all call it, and the first one writes.
    """
    with SignalWatch() as signals:
        ranks.wait()  # until the best checkpoint is written
        _load_best(trainer)
        ended_by = trainer.ended_by()  # reads the clocks, so before the test split takes its time
        evaluation = evaluate_model(
            trainer.model, trainer.task, test_loader, trainer.device, trainer.options.precision
        )
        results = _results(trainer, evaluation, ended_by)

        if ranks.is_first():
            write_json(trainer.folder / RESULTS, results)
        title = f"test split, weights of epoch {trainer.best['epoch']}"
        trainer.plots.write_all(trainer.history, trainer.best, evaluation.pairs, title)
        report(trainer, results)
        for remark in trainer.task.remarks_on(evaluation):
            trainer.log(f"note: {remark}")

    if signals.stop is not None:
        raise Interrupted(f"{signals.stop}: {trainer.folder / 'results.json'} is written")
    return results


def _load_best(trainer: Trainer) -> None:
    """Give the model its best weights; ``ValueError`` where nothing is best."""
    if not trainer.history:
        raise ValueError(
            f"{trainer.folder} was never validated: the budget was over before the first step; "
            "give more --max-cpu-minutes or --max-minutes"
        )
    if trainer.best is None:
        raise ValueError(
            f"no validation of {trainer.folder} gave a finite error, so nothing is best; lower "
            "--lr and train again"
        )

    path = trainer.folder / checkpoint.BEST
    content = checkpoint.read_run(path, trainer.device)
    checkpoint.load_weights(trainer.model, checkpoint.evaluation_weights(content), path)


def _results(trainer: Trainer, evaluation: Evaluation, ended_by: str | None) -> dict:
    """Content of ``results.json``."""
    position = trainer.position

    # the table first: it is what a reader of the file looks for
    return {
        "test": trainer.task.table(evaluation),
        "best": trainer.best,
        "ended_by": ended_by,
        "parameters": sum(weight.numel() for weight in trainer.model.parameters()),
        "seconds": position.seconds,
        "cpu_minutes": position.cpu_seconds / 60,
        "waiting_share": position.waiting / max(position.seconds, 1e-9),
        "steps": position.step,
        "skipped_steps": position.skipped,
        "threads": torch.get_num_threads(),
        "ranks": ranks.count(),
        "device": str(trainer.device),
        "seed": trainer.config.run.seed,
        "deterministic": trainer.config.run.deterministic,
        "versions": checkpoint.recorded_versions(),
        "units": dict(trainer.task.units),
        "config": saved_config(trainer.config),
        "history": trainer.history,
    }


def report(trainer: Trainer, results: dict):
    """Print the test table and where everything lies."""
    folder, log = trainer.folder, trainer.log
    log(
        f"test split, weights of epoch {trainer.best['epoch']} (best on the validation split); "
        f"{results['cpu_minutes']:.2f} CPU minutes, ended by {results['ended_by']}, "
        f"{results['waiting_share']:.1%} of the time waiting for data"
    )
    if results["skipped_steps"]:
        log(
            f"note: {results['skipped_steps']} of {results['steps']} steps had a non-finite loss "
            "or gradient and changed no weight"
        )
    log(format_table(results["test"]))

    places = {
        "results": folder / RESULTS,
        "plots": folder / "plots",
        "checkpoint": folder / checkpoint.BEST,
        "curves": f"tensorboard --logdir {folder / 'tensorboard'}",
    }
    log("\n".join(f"{what:<11}{place}" for what, place in places.items()))


def mean_table(tables: list[list[dict]]) -> list[dict]:
    """Tables of several seeds -> one table with ``mean +- std`` in every cell that differs.

    std: sample standard deviation over the seeds.
    """
    merged = []
    for rows in zip(*tables, strict=True):
        merged.append({column: _mean_cell([row[column] for row in rows]) for column in rows[0]})
    return merged


def _mean_cell(values: list):
    if not isinstance(values[0], float) or np.ptp(values) == 0:
        return values[0]
    return f"{np.mean(values):.4g} +- {np.std(values, ddof=1):.2g}"
