"""Results of runs, as the tests of the training scripts compare them."""

import json
from pathlib import Path

import torch

from farfield.common import checkpoint

CLOCKS = {"cpu_minutes", "minutes", "progress"}


def results_of(folder) -> dict | None:
    """What stands in ``results.json``; None if the run has not ended."""
    path = Path(folder) / "results.json"
    return json.loads(path.read_text()) if path.exists() else None


def without_clocks(history: list[dict]) -> list[dict]:
    """The rows of a history without what differs between equal runs."""
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in history]


def assert_equal_checkpoints(one, two):
    """The last checkpoints of two run folders hold the same weights, averages and moments, bit for
    bit.
    """
    one, two = (checkpoint.read_checkpoint(Path(folder) / checkpoint.LAST) for folder in (one, two))
    for part in ("weights", "averaged"):
        assert all(torch.equal(one[part][key], two[part][key]) for key in one[part])
    moments = one["optimizer"]["state"], two["optimizer"]["state"]
    assert all(
        torch.equal(moments[0][i][key], moments[1][i][key])
        for i in moments[0]
        for key in moments[0][i]
    )
