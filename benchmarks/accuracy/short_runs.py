"""One training of a potential inside a benchmark: configuration, run folder, best weights, errors.

A finished run is read back from its folder, an unfinished one goes on. Cost: that of the training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from easydict import EasyDict
from torch import nn

from farfield.common import checkpoint
from farfield.common.log import RunLog
from farfield.common.trained import TrainedRun, restore_network
from farfield.dataloader.label_statistics import Statistics
from farfield.train.data_order import EpochLoader
from farfield.train.launch import Script
from farfield.train.results import finish_run, prepare_run_folder, save_config
from farfield.train.run_options import prepare_process
from farfield.train.tasks.energy_force_data import set_references
from farfield.train.tasks.energy_forces import build_task
from farfield.train.tasks.task import evaluate_model
from farfield.train.trainer import Trainer

# What all short runs share; epochs: the CPU minutes end a run.
TRAINING = {
    "optimizer": "adam",
    "lr": 5e-3,
    "min_lr": 0.0,
    "warmup_steps": 100,
    "clip_norm": 10.0,
    "ema_decay": 0.99,
    "epochs": 100_000,
}


def run_config(
    script: str, folder: Path, seed: int, minutes: float, chosen: Mapping[str, object]
) -> EasyDict:
    """Configuration of one run: the defaults of the training script, and what is chosen.

    script: module that trains. minutes: CPU minutes. chosen: options of the network, the training,
    the loss and the data, by name.
    """
    of_run = {
        "run_dir": str(folder),
        "seed": seed,
        "resume": True,
        "progress": False,
        "max_cpu_minutes": minutes,
    }
    values = of_run | {key: value for key, value in chosen.items() if key != "name"}
    return Script(script, "energy_forces", "").parser().parse_config([], lambda _: values)


def train_once(
    config: EasyDict, statistics: Statistics, loaders: Mapping[str, EpochLoader]
) -> dict:
    """Results of one run, read from its folder if it is finished.

    loaders: batches of train, val and test. The test table is that of the weights that were best on
    the validation split.
    """
    folder = Path(config.run.run_dir)
    done = folder / "results.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))

    device = prepare_process(config)
    model = restore_network(config)
    set_references(model, statistics)

    log = RunLog(folder / "log.txt")
    prepare_run_folder(folder, resume=True, overwrite=False)
    save_config(folder, config)
    trainer = Trainer(
        model, build_task(config), loaders["train"], loaders["val"], config, folder, device, log
    )

    if (found := trainer.resumable()) is not None:
        trainer.restore(found)
    trainer.fit()
    return finish_run(trainer, loaders["test"])


def best_network(folder: Path, dtype: str = "float32") -> nn.Module:
    """The network of a finished run with its best weights, in evaluation mode."""
    run = TrainedRun.read(folder / checkpoint.BEST)
    return run.network(dtype=dtype).requires_grad_(False)


def errors_on(folder: Path, loader: EpochLoader) -> dict[str, float]:
    """Errors of a finished run on further structures, meV and Angstrom.

    See ``train/tasks/energy_force_errors.py`` for the names.
    """
    run = TrainedRun.read(folder / checkpoint.BEST)
    model = run.network().requires_grad_(False)
    device = next(model.parameters()).device
    return evaluate_model(model, build_task(run.config), loader, device).metrics
