"""The N-body task: displacement x and velocity change v of charged bodies, h frames ahead.

Windows and baselines: ``nbody_windows.py``. Error of a window: squared error averaged over its
bodies and components; the error of a split is the mean over *all* its windows. A few close
encounters dominate that mean, so the table adds its standard error, the median over windows, and
the mean without the 5 % largest window errors. Selection: x / x_linear + v / v_linear on the
validation split.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from farfield.common.command_line import OptionParser, plain
from farfield.common.task_registry import TASKS
from farfield.dataloader.sources.nbody_simulation import FRAME_TIME
from farfield.dataloader.split_protocols import SPLITS
from farfield.models.factory import build_model
from farfield.train.data_order import EpochLoader
from farfield.train.losses import LOSSES, WeightedLoss
from farfield.train.tasks.nbody_windows import (
    PROTOCOLS,
    TRAIN_STARTS,
    protocol_of,
    split_loader,
)
from farfield.train.tasks.task import Evaluation, Parts, Task

TRIMMED_SHARE = 0.05  # of the windows, those with the largest errors
QUANTITIES = {"x": "displacement", "v": "velocity_change"}


@TASKS.register("nbody")
class NBodyTask(Task):
    """Loss, errors and table of the N-body experiment.

    Arguments
        horizon          frames ahead
        loss             `WeightedLoss` over displacement and velocity_change
        waypoint_weight  weight of the same loss, averaged over the waypoints on the way (0: targets
                         only)
    """

    predicts = "nbody"
    default_network = "se3_transformer_nbody"
    training_defaults = {"epochs": 60, "lr": 3e-3, "ema_decay": 0.995}
    fixed_options = frozenset({"horizon"})  # of the protocol

    curves = ("x", "v")
    # of the simulation, which has no unit of its own
    units = {
        "displacement": "length",
        "velocity_change": "length/time",
        "x": "length^2",
        "v": "(length/time)^2",
    }

    def __init__(
        self, horizon: int, loss: WeightedLoss | None = None, waypoint_weight: float = 0.0
    ):
        self.time = FRAME_TIME * horizon
        self.objective = loss or WeightedLoss("mse", dict.fromkeys(QUANTITIES.values(), 1.0))
        self.waypoint_weight = waypoint_weight
        if self.objective.name == "mse":
            self.training_curves = {short: (name, 1.0) for short, name in QUANTITIES.items()}

    # ---- before a run

    @classmethod
    def add_options(cls, parser: OptionParser) -> None:
        """Options of the windows and the loss."""
        add_data_options(parser)
        add_loss_options(parser)

    @classmethod
    def presets(cls, values: dict) -> dict:
        """Training windows of the protocol."""
        return {"train_starts": PROTOCOLS[values["protocol"]].train_starts}

    @classmethod
    def build(cls, config) -> Parts:
        """Network with the horizon of the protocol, task and data."""
        model, task = cls.restore(config), build_task(config)
        loaders = {
            split: split_loader(config, split, training=split == "train") for split in SPLITS
        }
        return Parts(model, task, **loaders)

    @classmethod
    def restore(cls, config) -> nn.Module:
        """The network of ``config.model`` with the horizon of the protocol."""
        horizon = FRAME_TIME * protocol_of(config).horizon
        return build_model({**plain(config.model), "horizon": horizon})

    @classmethod
    def evaluation(cls, config, split: str, model: nn.Module) -> tuple[Task, EpochLoader]:
        """The task, and all evaluation windows of a split; they do not depend on the model."""
        return build_task(config), split_loader(config, split)

    # ---- of a run

    def describe(self, config, parts: Parts) -> list[str]:
        """Protocol and number of windows."""
        sizes = {split: len(loader.dataset) for split, loader in parts.loaders().items()}
        return [
            f"{config.data.protocol}: {sizes['train']} training windows, {sizes['val']} "
            f"validation, {sizes['test']} test"
        ]

    def loss(self, model: nn.Module, batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss at the end of the window, plus ``waypoint_weight`` times the mean on the way."""
        prediction = model(batch)
        total, parts = self.objective(prediction, batch.labels)
        if self.waypoint_weight == 0:
            return total, parts

        if "waypoints" not in prediction:
            raise ValueError(
                f"{type(model).__name__} predicts no waypoints; give --waypoint-weight 0"
            )
        on_the_way, _ = self.objective(
            _split_waypoints(prediction["waypoints"]), _split_waypoints(batch.labels["waypoints"])
        )
        parts["waypoints"] = on_the_way.detach()
        return total + self.waypoint_weight * on_the_way, parts

    def evaluate(self, model: nn.Module, batches: Iterable) -> Evaluation:
        """Statistics over all windows, of the model and of the Linear and constant rows."""
        errors: dict[str, dict[str, list]] = {}
        pairs: dict[str, list] = {name: [] for name in QUANTITIES.values()}
        for batch in batches:
            rows = {"model": model(batch), **self.baselines(batch)}
            for short, name in QUANTITIES.items():
                target = batch.labels[name]
                for row, guess in rows.items():
                    error = window_errors(
                        guess[name] - target, batch.graph.graph_of_node, batch.num_graphs
                    )
                    errors.setdefault(row, {}).setdefault(short, []).append(error)
                pairs[name].append((_as_array(rows["model"][name]), _as_array(target)))

        metrics = {row: _all_statistics(columns) for row, columns in errors.items()}
        joined = {
            name: tuple(np.concatenate(side) for side in zip(*chunks, strict=True))
            for name, chunks in pairs.items()
        }
        return Evaluation(metrics.pop("model"), metrics, joined)

    def baselines(self, batch) -> dict[str, dict[str, Tensor | float]]:
        """Predictions of the rows Linear and constant."""
        flown = self.time * batch.node_features["velocities"]
        return {
            "Linear": {"displacement": flown, "velocity_change": 0.0},
            "constant": {"displacement": 0.0, "velocity_change": 0.0},
        }

    def selection(self, evaluation: Evaluation) -> float:
        """x / x_linear + v / v_linear; ``ValueError`` for data in which nothing happens."""
        linear = evaluation.baselines["Linear"]
        for name in QUANTITIES:
            if linear[name] == 0:
                raise ValueError(
                    f"the Linear row of the validation split has no error in {name}: nothing "
                    "happens in these data; give others with --data-path"
                )
        return sum(evaluation.metrics[name] / linear[name] for name in QUANTITIES)

    def table(self, evaluation: Evaluation) -> list[dict]:
        """Rows model, Linear, constant: mean, standard error, median, trimmed mean of x and v."""
        rows = {"model": evaluation.metrics, **evaluation.baselines}
        return [
            {"row": label, **{_column(name): value for name, value in row.items()}}
            for label, row in rows.items()
        ]


def add_data_options(parser: OptionParser) -> None:
    """Where the simulations lie, and which windows of them are learned."""
    data = parser.section("data", "what is learned from")
    protocol = "p1000: 10 frames ahead from frame 0; p500: 5 frames, spread starts"
    choices = list(PROTOCOLS)
    data.add("--protocol", str, "p1000", choices=choices, main=True, help=protocol)
    folder = "folder made by preprocess_nbody"
    data.add("--data-path", str, "data/nbody", main=True, help=folder)

    # what is learned from a simulation in one epoch, and how its edges are described
    starts = (
        "window drawn from a training simulation in an epoch: at frame 0, anywhere, or half and "
        "half (default of p1000; all for p500)"
    )
    data.add("--train-starts", str, None, choices=list(TRAIN_STARTS), help=starts)
    cache = "read the edge bases that the cache next to the data holds, compute the others"
    data.add("--cache", bool, False, help=cache)


def add_loss_options(parser: OptionParser) -> None:
    """Cost and weights."""
    loss = parser.section("loss", "what is minimised")
    loss.add("--loss", str, "mse", choices=list(LOSSES), help="cost of a residual")
    scale = "residual at which a robust loss turns linear"
    loss.add("--loss-scale", float, 1.0, above=0, help=scale)

    # weights of the quantities, and of the states on the way
    loss.add("--weight-displacement", float, 1.0, low=0, help="weight of x")
    loss.add("--weight-velocity", float, 1.0, low=0, help="weight of v")
    way = "weight of the same loss at the states between the updates of the model"
    loss.add("--waypoint-weight", float, 0.5, low=0, help=way)


def build_task(config) -> NBodyTask:
    """The task of ``config.data`` and ``config.loss``."""
    weights = {
        "displacement": config.loss.weight_displacement,
        "velocity_change": config.loss.weight_velocity,
    }
    objective = WeightedLoss(config.loss.loss, weights, config.loss.loss_scale)
    return NBodyTask(protocol_of(config).horizon, objective, config.loss.waypoint_weight)


def window_errors(residual: Tensor, graph_of_node: Tensor, num_graphs: int) -> np.ndarray:
    """Mean squared error of each graph (graphs,) float64, from residuals (nodes, 3)."""
    graph_of_node = graph_of_node.to(residual.device)
    per_node = residual.double().square().mean(-1)
    total = per_node.new_zeros(num_graphs).index_add_(0, graph_of_node, per_node)
    return (total / torch.bincount(graph_of_node, minlength=num_graphs)).cpu().numpy()


def window_statistics(errors: np.ndarray) -> dict[str, float]:
    """Mean, standard error, median and trimmed mean of window errors (windows,), by suffix."""
    kept = np.sort(errors)[: max(1, errors.size - int(TRIMMED_SHARE * errors.size))]
    stderr = errors.std(ddof=1) / np.sqrt(errors.size) if errors.size > 1 else 0.0
    return {
        "": float(errors.mean()),
        "_stderr": float(stderr),
        "_median": float(np.median(errors)),
        "_trimmed": float(kept.mean()),
    }


def _all_statistics(columns: dict[str, list[np.ndarray]]) -> dict[str, float]:
    found = {}
    for name, chunks in columns.items():
        statistics = window_statistics(np.concatenate(chunks))
        found |= {name + suffix: value for suffix, value in statistics.items()}
    return found


def _as_array(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


def _column(metric: str) -> str:
    return f"{metric}_mean" if metric in QUANTITIES else metric


def _split_waypoints(waypoints: Tensor) -> dict[str, Tensor]:
    return {"displacement": waypoints[..., :3], "velocity_change": waypoints[..., 3:]}
