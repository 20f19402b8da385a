"""The N-body task: displacement x and velocity change v of charged bodies, h frames ahead.

Protocols (every one is reported beside the rows of its own windows, since their difficulty differs
by a factor of three):

| protocol | h (frames of 0.1) | windows for testing and selection | Linear x, v | constant x |
|---|---|---|---|---|
| p1000 | 10 | start frame 0 | 0.0711, 0.263 | 0.160 |
| p500 | 5 | start frame int((49 - h) / S * index), spread over S | 0.0256, 0.250 | 0.0675 |

Linear: the body flies on with its velocity (x = 0.1 h v_t, v = 0). Constant: nothing moves (x = 0,
v = 0). Error of a window: squared error averaged over its bodies and components; a split's error is
the mean over *all* its windows. A few close encounters dominate that mean, so the table adds its
standard error, the median over windows, and the mean without the 5 % largest window errors.
Selection: x / x_linear + v / v_linear on the validation split.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from farfield.common.command_line import plain
from farfield.dataloader.datasets.nbody_data import NBodyDataset, WindowBatchSampler
from farfield.dataloader.sources.nbody_simulation import FRAME_TIME
from farfield.models.factory import build_model
from farfield.train.data_order import EpochLoader
from farfield.train.losses import WeightedLoss
from farfield.train.trainer import Evaluation, Task

TRIMMED = (
    0.05  # share of the windows, those with the largest errors, that the trimmed mean leaves out
)
QUANTITIES = {"x": "displacement", "v": "velocity_change"}
EVALUATION_BATCH = 250


@dataclass(frozen=True)
class Protocol:
    """``horizon`` in frames; ``starts``: windows of the test and validation splits;
    ``train_starts``: default windows for training.
    """

    horizon: int
    starts: str
    train_starts: str


PROTOCOLS = {"p1000": Protocol(10, "first", "mixed"), "p500": Protocol(5, "spread", "all")}


def window_statistics(errors: np.ndarray) -> dict[str, float]:
    """Mean, standard error of the mean, median, and mean without the largest 5 % of the window
    errors (windows,).
    """
    kept = np.sort(errors)[: max(1, errors.size - int(TRIMMED * errors.size))]
    stderr = errors.std(ddof=1) / np.sqrt(errors.size) if errors.size > 1 else 0.0
    return {
        "": float(errors.mean()),
        "_stderr": float(stderr),
        "_median": float(np.median(errors)),
        "_trimmed": float(kept.mean()),
    }


def window_errors(residual: Tensor, graph_of_node: Tensor, num_graphs: int) -> np.ndarray:
    """Squared error (nodes, 3) averaged over the nodes and components of each graph -> (graphs,)
    float64.
    """
    graph_of_node = graph_of_node.to(residual.device)
    per_node = residual.double().square().mean(-1)
    total = per_node.new_zeros(num_graphs).index_add_(0, graph_of_node, per_node)
    return (total / torch.bincount(graph_of_node, minlength=num_graphs)).cpu().numpy()


class NBodyTask(Task):
    """Loss, metrics and table of the N-body experiment.

    Arguments
        horizon          frames ahead
        loss             `WeightedLoss` over displacement and velocity_change
        waypoint_weight  weight of the same loss, averaged over the waypoints on the way (0: targets
                         only)
    """

    curves = ("x", "v")
    units = {
        "displacement": "length of the simulation",
        "velocity_change": "length per time of the simulation",
    }

    def __init__(
        self, horizon: int, loss: WeightedLoss | None = None, waypoint_weight: float = 0.0
    ):
        self.time = FRAME_TIME * horizon
        self.objective = loss or WeightedLoss("mse", dict.fromkeys(QUANTITIES.values(), 1.0))
        self.waypoint_weight = waypoint_weight

    def loss(self, model: nn.Module, batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss at the end of the window, plus ``waypoint_weight`` times the mean loss at the
        waypoints.
        """
        prediction = model(batch)
        total, parts = self.objective(prediction, batch.labels)
        if self.waypoint_weight > 0:
            if "waypoints" not in prediction:
                raise ValueError(
                    f"{type(model).__name__} predicts no waypoints; give --waypoint-weight 0"
                )
            on_the_way, _ = self.objective(
                _split_waypoints(prediction["waypoints"]),
                _split_waypoints(batch.labels["waypoints"]),
            )
            total = total + self.waypoint_weight * on_the_way
            parts["waypoints"] = on_the_way.detach()
        return total, parts

    def evaluate(self, model: nn.Module, batches: Iterable) -> Evaluation:
        """Statistics over all windows, of the model and of the Linear and constant rows."""
        errors: dict[str, dict[str, list]] = {}
        pairs: dict[str, list] = {name: [] for name in QUANTITIES.values()}
        for batch in batches:
            prediction = model(batch)
            linear = {
                "displacement": self.time * batch.node_features["velocities"],
                "velocity_change": 0.0,
            }
            for short, name in QUANTITIES.items():
                target = batch.labels[name]
                for row, guess in (
                    ("model", prediction[name]),
                    ("Linear", linear[name]),
                    ("constant", 0.0),
                ):
                    error = window_errors(
                        guess - target, batch.graph.graph_of_node, batch.num_graphs
                    )
                    errors.setdefault(row, {}).setdefault(short, []).append(error)
                pairs[name].append(
                    (prediction[name].float().cpu().numpy(), target.float().cpu().numpy())
                )
        rows = {row: {} for row in errors}
        for row, quantities in errors.items():
            for name, chunks in quantities.items():
                rows[row] |= {
                    name + suffix: value
                    for suffix, value in window_statistics(np.concatenate(chunks)).items()
                }
        joined = {
            name: tuple(np.concatenate(side) for side in zip(*chunks, strict=True))
            for name, chunks in pairs.items()
        }
        return Evaluation(rows.pop("model"), rows, joined)

    def selection(self, evaluation: Evaluation) -> float:
        """x / x_linear + v / v_linear; ``ValueError`` for data in which nothing happens."""
        for name in QUANTITIES:
            if evaluation.baselines["Linear"][name] == 0:
                reason = (
                    f"the Linear row of the validation split has no error in {name}: "
                    "nothing happens in these data"
                )
                raise ValueError(f"{reason}; give others with --data-path")
        return sum(
            evaluation.metrics[name] / evaluation.baselines["Linear"][name] for name in QUANTITIES
        )

    def table(self, evaluation: Evaluation) -> list[dict]:
        """Rows model, Linear, constant: mean, standard error, median and trimmed mean of x and
        v.
        """
        rows = {"model": evaluation.metrics, **evaluation.baselines}
        return [
            {"row": label, **{_column(name): value for name, value in row.items()}}
            for label, row in rows.items()
        ]


def _column(metric: str) -> str:
    return f"{metric}_mean" if metric in QUANTITIES else metric


class MixedSampler(WindowBatchSampler):
    """Half of the simulations of an epoch, drawn at random, at their first window, the others at
    any window.
    """

    def _order(self) -> np.ndarray:
        order = super()._order()
        first = np.random.default_rng((self.seed, self.epoch, 1)).random(len(order)) < 0.5
        return np.where(first, order - order % self.windows, order)


# windows of the training simulations: name -> (windows the data set offers, sampler that draws one
# per simulation and epoch)
TRAIN_STARTS = {
    "first": ("first", WindowBatchSampler),
    "all": ("all", WindowBatchSampler),
    "mixed": ("all", MixedSampler),
}


def _split_waypoints(waypoints: Tensor) -> dict[str, Tensor]:
    return {"displacement": waypoints[..., :3], "velocity_change": waypoints[..., 3:]}


def protocol_of(config) -> Protocol:
    """The protocol of ``config.data``; ``ValueError`` for one there is not (in the checkpoint of
    another version).
    """
    if config.data.protocol not in PROTOCOLS:
        raise ValueError(
            f"protocol must be one of {', '.join(PROTOCOLS)}, got {config.data.protocol!r}"
        )
    return PROTOCOLS[config.data.protocol]


def build_task(config) -> NBodyTask:
    """The task of ``config.data`` and ``config.loss``."""
    weights = {
        "displacement": config.loss.weight_displacement,
        "velocity_change": config.loss.weight_velocity,
    }
    objective = WeightedLoss(config.loss.loss, weights, config.loss.loss_scale)
    return NBodyTask(protocol_of(config).horizon, objective, config.loss.waypoint_weight)


def build_model_for(config) -> nn.Module:
    """The model of ``config.model`` with the horizon of the protocol."""
    return build_model({**plain(config.model), "horizon": FRAME_TIME * protocol_of(config).horizon})


def split_loader(config, split: str, training: bool = False) -> EpochLoader:
    """Batches of a split: shuffled training windows, or all evaluation windows of the protocol in
    order.
    """
    protocol = protocol_of(config)
    starts, sampler_class = (
        TRAIN_STARTS[config.data.train_starts]
        if training
        else (protocol.starts, WindowBatchSampler)
    )
    dataset = NBodyDataset(
        config.data.data_path,
        split,
        protocol.horizon,
        starts,
        waypoints=waypoints_of(config) if training else 0,
    )
    if config.data.cache:
        dataset.open_cache(config.model.lmax)
    batch_size = config.training.batch_size if training else EVALUATION_BATCH
    sampler = sampler_class(dataset, batch_size, seed=config.run.seed, shuffle=training)
    return EpochLoader(dataset, sampler, config.run.workers if training else 0, config.run.seed)


def evaluation(config, split: str, model: nn.Module) -> tuple[NBodyTask, EpochLoader]:
    """The task, and all evaluation windows of a split; they do not depend on the model."""
    return build_task(config), split_loader(config, split)


def waypoints_of(config) -> int:
    """Labels on the way: one for every update of the model when they are supervised, else none."""
    if config.loss.waypoint_weight == 0:
        return 0
    updates, horizon = config.model.updates, protocol_of(config).horizon
    if horizon % updates:
        mend = (
            f"--updates must divide the {horizon} frames of {config.data.protocol}, or give "
            "--waypoint-weight 0"
        )
        raise ValueError(f"cannot supervise the states between {updates} updates: {mend}")
    return updates
