"""A small regression task with dropout (so that random states matter), and a script around it that
a test can kill.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from farfield.common.command_line import OptionParser, run_script
from farfield.common.log import RunLog
from farfield.common.precision import PRECISIONS
from farfield.dataloader.storage.files import array_checksum
from farfield.train.data_order import EpochLoader
from farfield.train.optimizers import OPTIMIZERS, SCHEDULES
from farfield.train.results import finish_run, prepare_run_folder, save_config
from farfield.train.run_options import add_run_options, add_training_options, prepare_process
from farfield.train.tasks.task import Evaluation, Parts, Task
from farfield.train.trainer import Trainer
from tests.support.run_results import without_clocks


@dataclass
class ToyBatch:
    x: torch.Tensor
    y: torch.Tensor

    @property
    def num_graphs(self):
        return len(self.x)

    def to(self, device=None, dtype=None):
        return ToyBatch(self.x.to(device, dtype), self.y.to(device, dtype))


class ToyData:
    def __init__(self, size=40, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(size, 3, generator=generator)
        self.y = self.x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.01 * torch.randn(
            size, 1, generator=generator
        )

    @property
    def data_hash(self):
        return array_checksum(self.x.numpy(), self.y.numpy())

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        return ToyBatch(self.x[rows], self.y[rows])


class ToySampler:
    def __init__(self, size, batch_size, seed, shuffle=True):
        self.size, self.batch_size, self.seed, self.shuffle, self.epoch = (
            size,
            batch_size,
            seed,
            shuffle,
            0,
        )

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return -(-self.size // self.batch_size)

    def __iter__(self):
        order = (
            np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
            if self.shuffle
            else np.arange(self.size)
        )
        return iter([order[i : i + self.batch_size] for i in range(0, self.size, self.batch_size)])


class ToyTask(Task):
    curves = ("error",)
    units = {"y": "none"}
    poison: frozenset[int] = frozenset()  # calls of the loss that return nan
    calls = 0

    @classmethod
    def add_options(cls, parser):
        parser.section("model", "net").add("--width", int, 8, low=1, help="width")

    @classmethod
    def build(cls, config, dropout=0.2, size=40):
        train, val = (toy_loader(config, split, size) for split in (0, 1))
        return Parts(toy_model(config.model.width, dropout), cls(), train, val, val)

    @classmethod
    def evaluation(cls, config, split, model):
        return cls(), toy_loader(config, int(split != "train"))

    def loss(self, model, batch):
        self.calls += 1
        value = (model(batch.x) - batch.y).square().mean()
        return (value * float("nan") if self.calls in self.poison else value), {
            "twice": 2 * value.detach()
        }

    def evaluate(self, model, batches):
        sides = [(model(batch.x).numpy(), batch.y.numpy()) for batch in batches]
        prediction, target = (np.concatenate(side) for side in zip(*sides, strict=True))
        return Evaluation(
            {"error": float(np.square(prediction - target).mean())},
            pairs={"y": (prediction, target)},
        )

    def selection(self, evaluation):
        return evaluation.metrics["error"]

    def table(self, evaluation):
        return [{"row": "model", "error": evaluation.metrics["error"]}]


def toy_model(width=8, dropout=0.2):
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 1))


def toy_loader(config, split, size=40):
    sampler = ToySampler(size, config.training.batch_size, config.run.seed, split == 0)
    return EpochLoader(ToyData(size, split), sampler)


def toy_parser(run_dir="run"):
    parser = OptionParser("toy", "toy")
    add_run_options(parser, str(run_dir))
    ToyTask.add_options(parser)
    add_training_options(parser, OPTIMIZERS, SCHEDULES, PRECISIONS)
    return parser


def toy_trainer(folder, *arguments, task=None, dropout=0.2, size=40):
    """Trainer in ``folder`` as a script would make it."""
    standard = [
        "--no-progress",
        "--epochs",
        "4",
        "--batch-size",
        "8",
        "--warmup-steps",
        "5",
        "--lr",
        "0.01",
    ]
    config = toy_parser().parse_config(["--run-dir", str(folder), *standard, *arguments])
    device = prepare_process(config)
    folder = Path(config.run.run_dir)
    parts = ToyTask.build(config, dropout, size)
    prepare_run_folder(folder, config.run.resume, config.run.overwrite)
    save_config(folder, config)
    trainer = Trainer(
        parts.model,
        task or parts.task,
        parts.train,
        parts.val,
        config,
        folder,
        device,
        RunLog(folder / "log.txt"),
    )
    if config.run.resume and (found := trainer.resumable()) is not None:
        trainer.restore(found)
    return trainer


def results_without_clocks(trainer):
    """All that must not depend on interruptions: weights, moments, history."""
    weights, moments = trainer.model.state_dict(), trainer.optimizer.state_dict()["state"]
    return weights, moments, without_clocks(trainer.history)


def assert_same_training(one, two):
    """Two trainers have the same weights, moments and history, bit for bit."""
    one, two = results_without_clocks(one), results_without_clocks(two)
    (weights, moments, history), (other_weights, other_moments, other_history) = one, two
    assert all(torch.equal(weights[key], other_weights[key]) for key in weights)
    for i, entries in moments.items():
        assert all(torch.equal(value, other_moments[i][key]) for key, value in entries.items())
    assert history == other_history


def main():
    trainer = toy_trainer(*sys.argv[1:])
    if trainer.fit():
        finish_run(trainer, trainer.val_loader)


if __name__ == "__main__":
    run_script(main)
