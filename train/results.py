"""The folder of a run: made or refused at the start, filled with the configuration, at the end with
test table and plots.
"""

from pathlib import Path

import numpy as np
import torch

from farfield.common import checkpoint, figures, run_folder
from farfield.common.command_line import saved_config
from farfield.common.log import format_table, write_json
from farfield.common.session import Interrupted, SignalWatch
from farfield.train import plots
from farfield.train.former_runs import current_config
from farfield.train.run_options import FREE_ON_RESUME
from farfield.train.tasks.task import evaluate_model
from farfield.train.trainer import Trainer

RUN_FILES = (
    "config.yaml",
    checkpoint.LAST,
    checkpoint.BEST,
    "results.json",
    "log.txt",
    "tensorboard",
    "plots",
)


def prepare_run_folder(folder: Path, resume: bool, overwrite: bool):
    """The folder of a training: see `common.run_folder.prepare_run_folder`."""
    run_folder.prepare_run_folder(folder, resume, overwrite, RUN_FILES)


def save_config(folder: Path, config):
    """Write ``config.yaml``; where a run is resumed, only `FREE_ON_RESUME` may differ: see
    `common.run_folder.save_config`.
    """
    run_folder.save_config(folder, config, FREE_ON_RESUME, current_config)


def finish_run(trainer: Trainer, test_loader) -> dict:
    """Evaluate the best checkpoint on the test split; write ``results.json`` and ``plots/``, print
    the table; returns the results.

    A first signal waits until all is written, then it is an `Interrupted`; a second one interrupts
    at once.
    """
    with SignalWatch() as signals:
        results = _finish(trainer, test_loader)
    if signals.stop is not None:
        raise Interrupted(f"{signals.stop}: {trainer.folder / 'results.json'} is written")
    return results


def _finish(trainer: Trainer, test_loader) -> dict:
    path = trainer.folder / checkpoint.BEST
    if not trainer.history:
        reason = "the budget was over before the first step"
        raise ValueError(
            f"{trainer.folder} was never validated: {reason}; give more --max-cpu-minutes or "
            "--max-minutes"
        )
    if trainer.best is None:
        raise ValueError(
            f"no validation of {trainer.folder} gave a finite error, so nothing is best; lower "
            "--lr and train again"
        )
    content = checkpoint.read_run(path, trainer.device)
    checkpoint.load_weights(trainer.model, checkpoint.evaluation_weights(content), path)
    ended_by = trainer.ended_by()  # reads the clocks, so before the test split takes its time
    result = evaluate_model(
        trainer.model, trainer.task, test_loader, trainer.device, trainer.options.precision
    )
    rows = trainer.task.table(result)
    results = {
        "test": rows,
        "best": trainer.best,
        "ended_by": ended_by,
        "parameters": sum(weight.numel() for weight in trainer.model.parameters()),
        "seconds": trainer.position.seconds,
        "cpu_minutes": trainer.position.cpu_seconds / 60,
        "waiting_share": trainer.position.waiting / max(trainer.position.seconds, 1e-9),
        "steps": trainer.position.step,
        "skipped_steps": trainer.position.skipped,
        "threads": torch.get_num_threads(),
        "device": str(trainer.device),
        "versions": checkpoint.package_versions(),
        "units": dict(trainer.task.units),
        "config": saved_config(trainer.config),
        "history": trainer.history,
    }
    write_json(trainer.folder / "results.json", results)
    pictures = trainer.folder / "plots"
    reference = next(iter(trainer.best["baselines"].values()), {})
    curves = plots.draw_curves(trainer.history, trainer.task.curves, reference, trainer.task.units)
    figures.save_figure(pictures / "learning_curve.png", curves)
    if result.pairs:
        figures.save_figure(pictures / "predictions.png", plots.draw_pairs(result.pairs))
        figures.save_figure(pictures / "errors.png", plots.draw_errors(result.pairs))
    report(trainer, results)
    return results


def report(trainer: Trainer, results: dict):
    """Print the test table and where everything lies."""
    folder, log = trainer.folder, trainer.log
    log(
        f"test split, weights of epoch {trainer.best['epoch']} (best on the validation split), "
        f"{results['cpu_minutes']:.2f} CPU minutes, "
        f"{results['parameters']} weights, ended by {results['ended_by']}, "
        f"{results['waiting_share']:.1%} of the time waiting for data"
    )
    if results["skipped_steps"]:
        log(
            f"note: {results['skipped_steps']} of {results['steps']} steps had a non-finite loss "
            "or gradient and changed no weight"
        )
    log(format_table(results["test"]))
    log(
        f"results {folder / 'results.json'}   plots {folder / 'plots'}   checkpoint "
        f"{folder / checkpoint.BEST}   "
        f"tensorboard --logdir {folder / 'tensorboard'}"
    )


def mean_table(tables: list[list[dict]]) -> list[dict]:
    """Tables of several seeds -> one table with ``mean +- std`` (sample standard deviation over
    seeds) in every numeric cell.
    """
    merged = []
    for rows in zip(*tables, strict=True):
        merged.append({})
        for column, first in rows[0].items():
            values = [row[column] for row in rows]
            numeric = isinstance(first, float) and np.ptp(values) > 0
            merged[-1][column] = (
                f"{np.mean(values):.4g} +- {np.std(values, ddof=1):.2g}" if numeric else first
            )
    return merged
