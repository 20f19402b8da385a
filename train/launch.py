"""A training script: options -> one run, one run for each seed, or several variants of it, each in
a run folder, then one table.

    SCRIPT = Script("train.train_md17", "energy_forces", __doc__, {"run_dir": "runs/md17"})
    SCRIPT.main(["--epochs", "4"])

Everything that is particular to what is learned is in the `Task` of that name. Started by torchrun,
several processes train one run: all do the same, and the first rank alone writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from easydict import EasyDict

from farfield.common import background, checkpoint, ranks
from farfield.common.command_line import OptionParser, plain, saved_config
from farfield.common.configuration import IMPORTED_FILES, NOTES
from farfield.common.folder_lock import only_process
from farfield.common.log import RunLog, format_table, write_json
from farfield.common.plugins import FLAG, import_named_files, imported_files
from farfield.common.precision import TRAINING_PRECISIONS
from farfield.common.script import resume_command
from farfield.common.session import Interrupted
from farfield.common.task_registry import FORMER_NAMES, find_task
from farfield.models.factory import DEFAULT_PRESET, preset_values
from farfield.train.checkpointing import trained_elements
from farfield.train.data_order import augmented_batches, defaults_with_augmentation
from farfield.train.initial_weights import (
    InitialRun,
    begin_with,
    check_same_network,
    initial_path,
    initial_values,
    network_values,
)
from farfield.train.monitor import Unheard
from farfield.train.network_options import add_network_options, chosen_network, chosen_preset
from farfield.train.optimizers import OPTIMIZERS, SCHEDULES
from farfield.train.results import (
    RESULTS,
    finish_run,
    mean_table,
    prepare_run_folder,
    save_config,
)
from farfield.train.run_options import add_run_options, add_training_options, prepare_process
from farfield.train.tasks.task import Parts, Plan
from farfield.train.trainer import Trainer
from farfield.train.variants import variant


@dataclass(frozen=True)
class Script:
    """One of the training scripts.

    Arguments
        module       its name on the command line, "train.train_md17"
        task         name of the task in `TASKS`
        description  text of ``--help``
        defaults     option -> default of this script, where it differs from the default of the task
        arguments    arguments that every call of the script needs, ("--task", "my_task")
    """

    module: str
    task: str
    description: str
    defaults: Mapping[str, object] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()

    def main(self, argv: list[str] | None = None) -> None:
        """Entry point of the command line."""
        config = self.read_options(argv)
        if config.run.detach:
            self._start_in_background(config, import_named_files(argv))
        else:
            self.run(config)

    def parser(self, network: str | None = None, preset: str = DEFAULT_PRESET) -> OptionParser:
        """All options of the script for one network (default: the usual one of the task).

        preset: the one whose values the help shows as defaults.
        """
        task = find_task(self.task)
        defaults = {**task.training_defaults, **self.defaults}
        parser = OptionParser(self.task, self.description, defaults, FORMER_NAMES)

        add_run_options(parser, self.run_dir)
        parser.section("data", "what is learned from")
        add_network_options(parser, task, network or task.default_network, preset)
        parser.section("loss", "what is minimised")
        task.add_options(parser)
        add_training_options(
            parser, OPTIMIZERS, SCHEDULES, TRAINING_PRECISIONS, task.batch_size_help
        )
        return parser

    @property
    def run_dir(self) -> str:
        """Run folder unless ``--run-dir`` names another."""
        return str(self.defaults.get("run_dir", f"runs/{self.task}"))

    def read_options(self, argv: list[str] | None = None) -> EasyDict:
        """The configuration of a command line; ``FileNotFoundError`` without a data folder."""
        argv = import_named_files(argv)
        task = find_task(self.task)

        # the run whose weights are continued decides the network
        path = initial_path(argv, self.run_dir)
        initial = InitialRun.if_there(path)
        if initial is not None:
            initial.run.check_predicts(task.predicts)

        def presets(values: dict) -> dict:
            """Defaults that follow from other options, ``--preset`` first of all."""
            of_network = preset_values(values["name"], values["preset"])
            return task.presets(values) | of_network | defaults_with_augmentation(values)

        def measured(values: dict) -> dict:
            """What the data say, and before them the run whose weights are continued."""
            if path is None:
                return task.measured(values)
            if initial is None:
                InitialRun.read(path)  # says that it is not there, once the options are read
            network = network_values(initial, values)
            found = task.measured(values | network)
            return found | initial_values(initial, found, values, network)

        usual = None if initial is None else initial.options["name"]
        parser = self.parser(chosen_network(task, argv, self.run_dir, usual), chosen_preset(argv))
        config = parser.parse_config(argv, presets, measured)
        if initial is not None:
            check_same_network(config, initial)
        if config.run.timestamp_id:
            config.run.run_dir = self._stamped_folder(config)
        return config

    def _stamped_folder(self, config: EasyDict) -> str:
        if config.run.resume:
            raise ValueError(
                "--timestamp-id makes another run folder, --resume continues one; leave one out"
            )
        return background.stamped(config.run.run_dir)

    def _start_in_background(self, config: EasyDict, words: list[str]) -> None:
        """The same command again in a process of its own.

        words: arguments of the command line without files that were imported.
        """
        folder = Path(config.run.run_dir)
        settled = ["--run-dir", str(folder), "--no-timestamp-id", "--no-detach", "--no-progress"]
        files = [word for file in imported_files() for word in (FLAG, file)]
        arguments = [*self.arguments, *words, *settled, *files]
        pid = background.start(self.module, arguments, folder)
        print(background.words(pid, folder, self.call_again(config)))

    def call_again(self, config: EasyDict) -> str:
        """The command that continues a run."""
        if ranks.count() > 1:
            return "the same command of torchrun, and --resume"
        imports = config.get(IMPORTED_FILES, ())
        return resume_command(self.module, config.run.run_dir, imports, self.arguments)

    def run(self, config: EasyDict) -> None:
        """Train as ``config`` says, and say how to continue after an interruption."""
        with ranks.together(config.run.device):
            self._run(config)

    def _run(self, config: EasyDict) -> None:
        again = self.call_again(config)
        try:
            results = train(config)
        except (Interrupted, KeyboardInterrupt) as stop:
            begun = (Path(config.run.run_dir) / "config.yaml").exists()
            reason = str(stop) or "interrupted"
            raise Interrupted(f"{reason}; continue with: {again}" if begun else reason) from None
        finally:
            background.retire(Path(config.run.run_dir))

        if results is None and config.run.pause_after and ranks.is_first():
            RunLog()(f"paused after {config.run.pause_after} epochs; continue with: {again}")


def train(config: EasyDict) -> dict | list[dict] | None:
    """One run, or all runs that the task or ``--seeds`` ask for; None if ``--pause-after`` ended
    the session.
    """
    with ranks.together(config.run.device):
        ranks.check_same("options", plain(config))
        # torchrun starts all ranks again where one was lost
        if ranks.has_begun():
            config.run.resume, config.run.overwrite = True, False

        plan = find_task(config.task).plan(config)
        if plan is None and config.run.seeds > 1:
            plan = seeds_plan(config)
        return train_one(config) if plan is None else train_all(config, plan)


def build_trainer(config: EasyDict) -> tuple[Trainer, Parts]:
    """The trainer of one run and its parts; writes nothing.

    Raises ``ValueError`` or ``OSError`` for whatever cannot be trained.
    """
    device = prepare_process(config)
    parts = find_task(config.task).build(config)
    remarks = begin_with(config, parts.model, trained_elements(parts.train))
    parts = dataclasses.replace(parts, remarks=tuple(remarks))
    folder = Path(config.run.run_dir)
    log = _log_of(folder)
    learned = augmented_batches(parts.train, config)
    trainer = Trainer(parts.model, parts.task, learned, parts.val, config, folder, device, log)
    return trainer, parts


def train_one(config: EasyDict) -> dict | None:
    """One run from start to results; None if ``--pause-after`` ended the session."""
    with _only_run(config.run.run_dir):
        return _train_alone(config)


def _only_run(folder: str) -> contextlib.AbstractContextManager:
    """Context in which no other run enters ``folder``; its first rank sees to that."""
    return only_process(folder) if ranks.is_first() else contextlib.nullcontext()


def _log_of(folder: Path) -> RunLog | Unheard:
    return RunLog(folder / "log.txt") if ranks.is_first() else Unheard()


def _begin_folder(folder: Path, config: EasyDict) -> None:
    """Make or refuse the run folder; the first rank does."""
    if ranks.is_first():
        prepare_run_folder(folder, config.run.resume, config.run.overwrite)
        save_config(folder, config)
        background.announce(folder)
        ranks.begin()


def _train_alone(config: EasyDict) -> dict | None:
    """The same, where no other process is in the folder of the run."""
    trainer, parts = build_trainer(config)
    folder, log = trainer.folder, trainer.log
    ranks.check_same("data", trainer.data_hash)
    found = trainer.resumable() if config.run.resume else None  # a refusal changes nothing

    _begin_folder(folder, config)
    remarks = [f"note: {text}" for text in [*config.get(NOTES, ()), *parts.model.remarks]]
    network = network_line(config, parts)
    for line in [*parts.task.describe(config, parts), network, *parts.remarks, *remarks]:
        log(line)

    if found is not None:
        trainer.restore(found)
        _remove_old_results(trainer)
    elif config.run.resume:
        log(f"there is no {checkpoint.LAST} in {folder}: starts at the beginning")
    return finish_run(trainer, parts.test) if trainer.fit() else None


def _remove_old_results(trainer: Trainer) -> None:
    """Results of a run that goes on are those of weights that it leaves behind."""
    path = trainer.folder / RESULTS
    if ranks.is_first() and trainer.ended_by() is None and path.exists():
        path.unlink()
        trainer.log(f"note: {path} was of a shorter run and is removed; a new one follows")


def network_line(config: EasyDict, parts: Parts) -> str:
    """What learns, and where the run lives."""
    weights = sum(weight.numel() for weight in parts.model.parameters())
    shape = ", ".join(
        f"{name} {config.model[name]}" for name in ("schedule", "irreps") if name in config.model
    )
    network = f"{config.model.name} ({shape})" if shape else config.model.name
    return f"{network}, {weights} weights, seed {config.run.seed}; run folder {config.run.run_dir}"


def seeds_plan(config: EasyDict) -> Plan:
    """``--seeds n``: one run a seed, and the table of the means."""
    seeds = range(config.run.seed, config.run.seed + config.run.seeds)
    return Plan(
        title=f"mean +- standard deviation over {config.run.seeds} seeds",
        configs=[variant(config, f"seed_{seed}", {"seed": seed, "seeds": 1}) for seed in seeds],
        summarise=lambda results: mean_table([one["test"] for one in results]),
    )


def train_all(config: EasyDict, plan: Plan) -> list[dict] | None:
    """All runs of a plan, one after the other, and their table; None if ``--pause-after`` ended
    the session.
    """
    with _only_run(config.run.run_dir):
        return _train_all_alone(config, plan)


def _train_all_alone(config: EasyDict, plan: Plan) -> list[dict] | None:
    """The same, where no other process is in the folder of the runs."""
    # bad input is refused before anything is written
    for one in plan.configs:
        trainer, _ = build_trainer(one)
        if config.run.resume:
            trainer.resumable()

    # nothing old may stay in a folder where a later --resume would find it
    parent = Path(config.run.run_dir)
    folders = [Path(one.run.run_dir) for one in plan.configs] if config.run.overwrite else []
    for folder in folders if ranks.is_first() else ():
        prepare_run_folder(folder, config.run.resume, config.run.overwrite)
    _begin_folder(parent, config)

    results = []
    for one in plan.configs:
        results.append(train_one(one))
        if results[-1] is None:
            return None

    rows = plan.summarise(results)
    path = parent / "results.json"
    log = _log_of(parent)
    log(f"{plan.title}, test split\n{format_table(rows)}\nresults {path}")
    tables = [one["test"] for one in results]
    if ranks.is_first():
        made = {"seeds": [one.run.seed for one in plan.configs]}
        made["versions"] = checkpoint.recorded_versions()
        content = {"test": rows, "test_of_run": tables, **made, "config": saved_config(config)}
        write_json(path, content)
    return rows
