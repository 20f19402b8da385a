"""The contract of a task: what is learned, from which data, and how the result is judged.

One class is one task. It is added by one file and one line, wherever the file lies:

    @TASKS.register("my_task")
    class MyTask(Task):
        predicts = "potential"          # networks that say this word can be trained on it
        ...

    python -m train.train_task --task my_task ...

Class methods serve a script before anything is trained: options, defaults, data and network of a
run. An instance belongs to one run: its loss, its errors and its tables. The trainer knows nothing
but this base class.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from farfield.common import memory_errors, ranks
from farfield.common.command_line import OptionParser
from farfield.common.precision import TRAINING_PRECISIONS
from farfield.common.trained import restore_network
from farfield.dataloader.split_protocols import SPLITS
from farfield.models.compiled.training_program import Objective
from farfield.train.data_order import EpochLoader
from farfield.train.sharded_evaluation import FORWARD, evaluate_together

NO_BETTER = 0.98  # of the error of a baseline


@dataclass
class Evaluation:
    """Result of one pass over a split.

    Arguments
        metrics    name -> error of the model
        baselines  row name -> the same errors of a baseline on the same samples
        pairs      quantity -> (predictions, targets), for the pictures
        loss       training loss over the split, for tasks that select by it
        of_sets    row name -> errors on the structures of one of several sets, for the table
    """

    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    loss: float = math.nan
    of_sets: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """All that a run trains and is judged by: the network, the task and the batches of each split.

    The data set of every loader has a ``data_hash``. remarks: lines for the log, on how the network
    begins.
    """

    model: nn.Module
    task: Task
    train: EpochLoader
    val: EpochLoader
    test: EpochLoader
    remarks: tuple[str, ...] = ()

    def loaders(self) -> dict[str, EpochLoader]:
        """Loader of each split, by its name."""
        return dict(zip(SPLITS, (self.train, self.val, self.test), strict=True))


class Task(ABC):
    """What is learned: options, data, loss, errors and tables of one kind of training.

    Attributes of the class
        predicts              word of the networks that can be trained (``Network.predicts``)
        default_network       network that a script trains unless ``--model`` names another
        training_defaults     option of the section ``training`` -> default
        batch_size_help       help text of ``--batch-size``
        measured_options      options of the network that the data decide
        fixed_options         options of the network that the task decides and no user
        evaluation_options    option of :meth:`evaluation` -> its choices
        max_evaluation_atoms  largest number of atoms in a batch of an evaluation or a prediction
        asks                  method of the network that :meth:`evaluate` calls for each batch;
                              several ranks share these calls

    Attributes of an instance
        curves              errors that the log and the learning curve show
        training_curves     error -> (part of the loss that is the same quantity on the training
                            split, factor to the unit of the error); "selection": of the score
        units               unit of each error and each predicted quantity
        progress            fraction of the run that is done when a step begins, for losses that
                            change on the way; the trainer sets it
    """

    predicts: ClassVar[str]
    default_network: ClassVar[str]
    training_defaults: ClassVar[Mapping[str, object]] = {}
    batch_size_help: ClassVar[str] = "structures per batch"
    measured_options: ClassVar[frozenset[str]] = frozenset()
    fixed_options: ClassVar[frozenset[str]] = frozenset()
    evaluation_options: ClassVar[Mapping[str, Sequence[str]]] = {}
    max_evaluation_atoms: ClassVar[int] = 450
    asks: ClassVar[str] = FORWARD

    curves: Sequence[str] = ()
    training_curves: Mapping[str, tuple[str, float]] = {}
    units: Mapping[str, str] = {}
    progress = 0.0

    # ---- before a run: options, defaults, data and network

    @classmethod
    @abstractmethod
    def add_options(cls, parser: OptionParser) -> None:
        """Add the options of the task to the sections ``data`` and ``loss`` (or others)."""

    @classmethod
    def presets(cls, values: dict) -> dict:
        """Defaults that follow from other options; ``values``: all options, flat."""
        return {}

    @classmethod
    def measured(cls, values: dict) -> dict:
        """Options that the data decide where the user names none; they win over presets.

        Raises ``FileNotFoundError`` or ``ValueError`` for data that are missing or damaged.
        """
        return {}

    @classmethod
    @abstractmethod
    def build(cls, config) -> Parts:
        """Network, task and data of a run; writes nothing.

        Raises ``ValueError`` or ``OSError`` in one line for whatever cannot be trained.
        """

    @classmethod
    def plan(cls, config) -> Plan | None:
        """Several runs with one table, where an option of the task asks for them."""
        return None

    @classmethod
    def restore(cls, config) -> nn.Module:
        """The network that ``config`` (of a checkpoint) describes, without its weights."""
        return restore_network(config)

    @classmethod
    @abstractmethod
    def evaluation(
        cls, config, split: str, model: nn.Module, **options: str
    ) -> tuple[Task, EpochLoader]:
        """The task, and the batches of a split for the trained ``model``.

        options: see ``evaluation_options``.
        """

    # ---- of a run

    def describe(self, config, parts: Parts) -> list[str]:
        """Lines for the log: what is learned, from how much, in which units."""
        sizes = {split: len(loader.dataset) for split, loader in parts.loaders().items()}
        return [", ".join(f"{split}: {size} samples" for split, size in sizes.items())]

    def samples(self, batch) -> int:
        """Number of samples in a batch: its weight among the batches of a step."""
        return batch.num_graphs

    @abstractmethod
    def loss(self, model: nn.Module, batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (scalar, mean over the samples of the batch) and further scalars for the log."""

    def compiled_objective(self) -> Objective | None:
        """The loss in the form that a compiled step takes, or None: steps are never compiled."""
        return None

    def loss_factors(self) -> Mapping[str, float]:
        """Factors of the weights of this objective in the next step, by part."""
        return {}

    @abstractmethod
    def evaluate(self, model: nn.Module, batches: Iterable) -> Evaluation:
        """Errors over all batches of a split, the last incomplete one included."""

    @abstractmethod
    def selection(self, evaluation: Evaluation) -> float:
        """The score that chooses the best checkpoint on the validation split; lower is better."""

    def pictures(self, model: nn.Module, dataset, device: torch.device) -> Mapping[str, object]:
        """Figures of matplotlib by name, for tensorboard: what the model makes of a few samples.

        model: in evaluation mode. dataset: of the validation split. Must draw no random numbers.
        """
        return {}

    def table(self, evaluation: Evaluation) -> list[dict]:
        """Rows of the results table: the model, each baseline; a column for each error and unit."""
        rows = {"model": evaluation.metrics, **evaluation.baselines}
        return [
            {"row": label, **{self._column(name): value for name, value in metrics.items()}}
            for label, metrics in rows.items()
        ]

    def remarks_on(self, evaluation: Evaluation) -> list[str]:
        """Lines about errors of the curves that are no smaller than those of a baseline."""
        lines = []
        for row, baseline in evaluation.baselines.items():
            # errors that both have
            weak = [
                f"{name} {evaluation.metrics[name]:.4g}, {row} {baseline[name]:.4g}"
                for name in self.curves
                if evaluation.metrics.get(name, 0.0) > NO_BETTER * baseline.get(name, math.inf)
            ]
            if weak:
                lines.append(
                    f"no better than the baseline {row!r}, so nothing was learned of it: "
                    f"{'; '.join(weak)}; train longer, or with another --lr"
                )
        return lines

    def _column(self, name: str) -> str:
        """Head of the column of an error: its name and, where it has one, its unit."""
        unit = self.units.get(name)
        return f"{name} ({unit})" if unit else name


@dataclass(frozen=True)
class Plan:
    """Several runs, one after the other, and one table.

    Arguments
        title      words above the table
        configs    configuration of every run, each with a run folder of its own
        summarise  results of all runs -> rows of the table
    """

    title: str
    configs: list
    summarise: Callable[[list[dict]], list[dict]]


def evaluate_model(
    model: nn.Module, task: Task, loader, device: torch.device, precision: str = "float32"
) -> Evaluation:
    """``task.evaluate`` in evaluation mode on ``device``, in the arithmetic ``precision``.

    With several ranks all call it, and share the work.
    """
    settings = {"device": device, "dtype": TRAINING_PRECISIONS[precision]}
    with evaluation_mode(model):
        if ranks.count() > 1:
            return evaluate_together(model, task, loader, settings)
        held: list = []  # the batch that is looked at

        def moved():
            for batch in loader:
                held[:] = [batch]
                yield batch.to(**settings)

        with memory_errors.naming(lambda: memory_errors.words_of(held)):
            return task.evaluate(model, moved())


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, without gradients, until the end of the block."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
