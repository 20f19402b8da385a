"""A training script: options -> one run, one run for each seed, or several variants of it, each in
a run folder, then one table.

What a script brings of its own is in a `Script`: how a run is built from its configuration, and
what is said about it at the start.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from easydict import EasyDict

from farfield.common import checkpoint, monitor
from farfield.common.command_line import plain, saved_config
from farfield.common.session import Interrupted
from farfield.models.factory import model_options
from farfield.models.networks.blocks import parse_schedule
from farfield.train.data_order import EpochLoader
from farfield.train.results import finish_run, mean_table, prepare_run_folder, save_config
from farfield.train.trainer import Trainer

Summary = Callable[[list[dict]], list[dict]]


@dataclass(frozen=True)
class Script:
    """One of the training scripts.

    module    its name on the command line, ``train.train_md17``
    build     configuration -> (trainer, test data); writes nothing; ``ValueError`` or ``OSError``
              for whatever cannot be trained
    describe  says at the start what is learned from, and what learns
    """

    module: str
    build: Callable[[EasyDict], tuple[Trainer, EpochLoader]]
    describe: Callable[[Trainer, EpochLoader], None]

    def train_one(self, config: EasyDict) -> dict | None:
        """One run from start to results; None if ``--pause-after`` ended the session."""
        trainer, test = self.build(config)
        folder, log = trainer.folder, trainer.log
        found = trainer.resumable() if config.run.resume else None  # a refusal changes nothing
        prepare_run_folder(folder, config.run.resume, config.run.overwrite)
        save_config(folder, config)
        self.describe(trainer, test)
        if found is not None:
            trainer.restore(found)
        elif config.run.resume:
            log(f"there is no {checkpoint.LAST} in {folder}: starts at the beginning")
        return finish_run(trainer, test) if trainer.fit() else None

    def train_seeds(self, config: EasyDict) -> list[dict] | None:
        """``--seeds n``: results of one run folder a seed, and the table of the means; None if
        ``--pause-after`` ended the session.
        """
        seeds = range(config.run.seed, config.run.seed + config.run.seeds)
        configs = [variant(config, f"seed_{seed}", {"seed": seed, "seeds": 1}) for seed in seeds]
        title = f"mean +- standard deviation over {config.run.seeds} seeds"
        return self.train_all(
            config, configs, title, lambda results: mean_table([one["test"] for one in results])
        )

    def train_all(
        self, config: EasyDict, configs: list[EasyDict], title: str, summarise: Summary
    ) -> list[dict] | None:
        """Train ``configs`` one after the other, one table ``summarise(results)``; None if
        ``--pause-after`` ended the session.
        """
        parent = Path(config.run.run_dir)
        for one in configs:
            trainer, _ = self.build(one)  # bad input is refused before anything is written
            if config.run.resume:
                trainer.resumable()
        folders = (
            [Path(one.run.run_dir) for one in configs] if config.run.overwrite else []
        )  # nothing old for a later --resume to find
        for folder in (parent, *folders):
            prepare_run_folder(folder, config.run.resume, config.run.overwrite)
        save_config(parent, config)
        results = []
        for one in configs:
            results.append(self.train_one(one))
            if results[-1] is None:
                return None
        rows = summarise(results)
        log = monitor.RunLog(parent / "log.txt")
        log(f"{title}, test split\n{monitor.format_table(rows)}\nresults {parent / 'results.json'}")
        tables = [one["test"] for one in results]
        monitor.write_json(
            parent / "results.json",
            {"test": rows, "test_of_run": tables, "config": saved_config(config)},
        )
        return rows

    def run(self, config: EasyDict, train: Callable[[EasyDict], object] | None = None):
        """Train as ``config`` says (``train``: by default one run, or all seeds) and say how to go
        on after an interruption.
        """
        again = f"python -m {self.module} --run-dir {shlex.quote(config.run.run_dir)} --resume"
        train = train or (self.train_seeds if config.run.seeds > 1 else self.train_one)
        try:
            results = train(config)
        except (Interrupted, KeyboardInterrupt) as stop:
            begun = (Path(config.run.run_dir) / "config.yaml").exists()
            raise Interrupted(
                (str(stop) or "interrupted") + (f"; go on with: {again}" if begun else "")
            ) from None
        if results is None and config.run.pause_after:
            monitor.RunLog()(f"paused after {config.run.pause_after} epochs; go on with: {again}")


def check_layers(model: EasyDict):
    """``ValueError`` for a number of layers that the schedule of a network does not read."""
    schedule = model.get("schedule")
    if schedule is None or model.layers == model_options(model.name)["layers"]:
        return
    if parse_schedule(schedule, 1) == parse_schedule(schedule, 2):
        mend = (
            "leave a part without a number, e.g. --schedule hybrid-first-order, or leave "
            "--layers out"
        )
        raise ValueError(
            f"--layers {model.layers} changes nothing: every part of --schedule {schedule} has "
            f"its number; {mend}"
        )


def variant(
    config: EasyDict, folder: str, run: dict | None = None, model: dict | None = None
) -> EasyDict:
    """``config`` in a sub folder of its run folder, with other settings."""
    one = EasyDict(plain(config))
    one.run.update(run_dir=str(Path(config.run.run_dir) / folder), **(run or {}))
    one.model.update(model or {})
    return one
