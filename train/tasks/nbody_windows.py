"""Windows of the N-body experiment: which frames are start and target, in training and in tests.

| protocol | h (frames of 0.1) | windows for testing and selection | Linear x, v | constant x |
|---|---|---|---|---|
| p1000 | 10 | start frame 0 | 0.0711, 0.263 | 0.160 |
| p500 | 5 | start frame int((49 - h) / S * index), spread over S | 0.0256, 0.250 | 0.0675 |

Linear: the body flies on with its velocity (x = 0.1 h v_t, v = 0). Constant: nothing moves (x = 0,
v = 0). The difficulty of the protocols differs by a factor of three, so that the table of a run has
these rows for its own windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from farfield.dataloader.datasets.nbody_data import NBodyDataset, WindowBatchSampler
from farfield.models.choices import check_choice
from farfield.train.data_order import EpochLoader

WINDOWS_PER_EVALUATION_BATCH = 250


@dataclass(frozen=True)
class Protocol:
    """Length of a window, and which windows are used.

    horizon: frames from start to target. starts: windows of the test and validation splits.
    train_starts: default windows for training.
    """

    horizon: int
    starts: str
    train_starts: str


PROTOCOLS = {"p1000": Protocol(10, "first", "mixed"), "p500": Protocol(5, "spread", "all")}


class MixedSampler(WindowBatchSampler):
    """Half of the simulations of an epoch, drawn at random, start at their first window, the others
    at any window.
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


def protocol_of(config) -> Protocol:
    """The protocol of ``config.data``; ``ValueError`` for one that does not exist."""
    check_choice("protocol", config.data.protocol, PROTOCOLS)
    return PROTOCOLS[config.data.protocol]


def waypoints_of(config) -> int:
    """Number of labels on the way: one for every update of the model where these are supervised."""
    if config.loss.waypoint_weight == 0:
        return 0
    updates, horizon = config.model.updates, protocol_of(config).horizon
    if horizon % updates:
        raise ValueError(
            f"cannot supervise the states between {updates} updates: --updates must divide the "
            f"{horizon} frames of {config.data.protocol}, or give --waypoint-weight 0"
        )
    return updates


def split_loader(config, split: str, training: bool = False) -> EpochLoader:
    """Batches of a split: shuffled training windows, or all evaluation windows in order."""
    protocol = protocol_of(config)
    starts, sampler_class = protocol.starts, WindowBatchSampler
    if training:
        starts, sampler_class = TRAIN_STARTS[config.data.train_starts]

    waypoints = waypoints_of(config) if training else 0
    dataset = NBodyDataset(
        config.data.data_path, split, protocol.horizon, starts, waypoints=waypoints
    )
    if config.data.cache:
        dataset.open_cache(config.model.lmax)

    batch_size = config.training.batch_size if training else WINDOWS_PER_EVALUATION_BATCH
    sampler = sampler_class(dataset, batch_size, seed=config.run.seed, shuffle=training)
    workers = config.run.workers if training else 0
    return EpochLoader(dataset, sampler, workers, config.run.seed)
