"""The folder of a run: made or refused at the start, filled with the configuration, at the end with test table and plots."""
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from dataloader.files import atomic_write, make_folder
from train import checkpoint, monitor
from train.loop import Trainer, evaluate_model
from train.options import FREE_ON_RESUME, plain, saved_config
from train.session import Interrupted, SignalWatch

RUN_FILES = ("config.yaml", checkpoint.LAST, checkpoint.BEST, "results.json", "log.txt", "tensorboard", "plots")


def prepare_run_folder(folder: Path, resume: bool, overwrite: bool, names: Sequence[str] = RUN_FILES):
    """Make ``folder``, or refuse (``ValueError``) one that cannot be written, or that holds a run unless it is resumed or overwritten.

    names: the files and folders of a run there.
    """
    if resume and overwrite:
        raise ValueError(f"--resume goes on with the run in {folder}, --overwrite throws it away; give one of them")
    try:
        _prepare(folder, resume, overwrite, names)
    except OSError as error:
        raise ValueError(f"run folder {folder} cannot be written ({error.strerror}); give another --run-dir") from None


def _prepare(folder: Path, resume: bool, overwrite: bool, names: Sequence[str]):
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"run folder {folder} is a file; give another --run-dir")
    found = [name for name in names if (folder / name).exists()]
    if found and not resume and not overwrite:
        mend = "add --resume to go on, --overwrite to replace it, or give another --run-dir"
        raise ValueError(f"run folder {folder} already holds a run ({found[0]}); {mend}")
    make_folder(folder)
    for name in found if overwrite else ():
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def save_config(folder: Path, config, free: frozenset[str] = FREE_ON_RESUME):
    """Write ``config.yaml``, which ``--config`` reads. Where a run is resumed, only ``free`` options may differ (``ValueError``)."""
    path = folder / "config.yaml"
    if path.exists():
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(saved, Mapping) or "task" not in saved:
            raise ValueError(f"{path} is damaged (it names no task); bring it back, or start another run with --run-dir")
        checkpoint.check_same_run(folder, saved, plain(config), free)
        before, now = saved["run"].get("seeds", 1), config.run.get("seeds", 1)
        if (before > 1) != (now > 1):
            raise ValueError(f"cannot resume {folder}: it is of --seeds {before}, not {now}; leave --seeds out, or give another --run-dir")
    with atomic_write(path) as temporary:
        Path(temporary).write_text(yaml.safe_dump(saved_config(config), sort_keys=False), encoding="utf-8")


def finish_run(trainer: Trainer, test_loader) -> dict:
    """Evaluate the best checkpoint on the test split; write ``results.json`` and ``plots/``, print the table; returns the results.

    A first signal waits until all is written, then it is an `Interrupted`; a second one interrupts at once.
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
        raise ValueError(f"{trainer.folder} was never validated: {reason}; give more --max-cpu-minutes or --max-minutes")
    if trainer.best is None:
        raise ValueError(f"no validation of {trainer.folder} gave a finite error, so nothing is best; lower --lr and train again")
    content = checkpoint.read_run(path, trainer.device)
    checkpoint.load_weights(trainer.model, checkpoint.evaluation_weights(content), path)
    ended_by = trainer.ended_by()  # reads the clocks, so before the test split takes its time
    result = evaluate_model(trainer.model, trainer.task, test_loader, trainer.device, trainer.options.precision)
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
    monitor.write_json(trainer.folder / "results.json", results)
    plots = trainer.folder / "plots"
    reference = next(iter(trainer.best["baselines"].values()), {})
    curves = monitor.draw_curves(trainer.history, trainer.task.curves, reference, trainer.task.units)
    monitor.save_figure(plots / "learning_curve.png", curves)
    if result.pairs:
        monitor.save_figure(plots / "predictions.png", monitor.draw_pairs(result.pairs))
        monitor.save_figure(plots / "errors.png", monitor.draw_errors(result.pairs))
    report(trainer, results)
    return results


def report(trainer: Trainer, results: dict):
    """Print the test table and where everything lies."""
    folder, log = trainer.folder, trainer.log
    log(f"test split, weights of epoch {trainer.best['epoch']} (best on the validation split), {results['cpu_minutes']:.2f} CPU minutes, "
        f"{results['parameters']} weights, ended by {results['ended_by']}, {results['waiting_share']:.1%} of the time waiting for data")
    if results["skipped_steps"]:
        log(f"note: {results['skipped_steps']} of {results['steps']} steps had a non-finite loss or gradient and changed no weight")
    log(monitor.format_table(results["test"]))
    log(f"results {folder / 'results.json'}   plots {folder / 'plots'}   checkpoint {folder / checkpoint.BEST}   "
        f"tensorboard --logdir {folder / 'tensorboard'}")


def mean_table(tables: list[list[dict]]) -> list[dict]:
    """Tables of several seeds -> one table with ``mean +- std`` (sample standard deviation over seeds) in every numeric cell."""
    merged = []
    for rows in zip(*tables, strict=True):
        merged.append({})
        for column, first in rows[0].items():
            values = [row[column] for row in rows]
            numeric = isinstance(first, float) and np.ptp(values) > 0
            merged[-1][column] = f"{np.mean(values):.4g} +- {np.std(values, ddof=1):.2g}" if numeric else first
    return merged
