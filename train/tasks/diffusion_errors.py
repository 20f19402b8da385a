"""Errors of guessed noise and times over many molecules.

    noise_mse     mean over atoms and coordinates of (eps^ - eps)^2
    noise_mse_early, _middle, _late    the same of molecules in the first, second, last third of the
                  process; left out where there is no such molecule
    time_mse      mean over atoms of (t^_i - t)^2
    time_mae      mean over molecules of |t^ - t|, t^ the mean over its atoms held in [0, 1], as
                  samplers take it

Sums over molecules are kept until the end, so that batches of any sizes give the same errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import broadcast_nodes, mean_nodes, sum_nodes

THIRDS = ("early", "middle", "late")


def noise_squares(found: Tensor, batch: AtomBatch) -> Tensor:
    """Mean over coordinates of the squared error of the noise of every atom (nodes,)."""
    return (found - batch.labels["noise"]).square().mean(-1)


def time_squares(found: Tensor, batch: AtomBatch) -> Tensor:
    """Squared error of the time of every atom (nodes,)."""
    return (found - broadcast_nodes(batch.graph, batch.labels["time"])).square()


def times_of_molecules(found: Tensor, batch: AtomBatch) -> Tensor:
    """One time for each molecule (graphs,) from those of its atoms (nodes,)."""
    return mean_nodes(batch.graph, found.clamp(0, 1))


class ErrorSums:
    """Collects errors of guesses, batch by batch: ``add(batch, guess)``, then ``errors()``."""

    def __init__(self):
        self._chunks: list[dict[str, np.ndarray]] = []

    def add(self, batch: AtomBatch, guess: Mapping[str, Tensor]) -> None:
        """Take in the molecules of a batch.

        guess: ``noise`` (nodes, 3), ``time`` (nodes,), or one of them.
        """
        found = {"atoms": batch.graph.nodes_per_graph, "time": batch.labels["time"]}
        if "noise" in guess:
            found["noise_squares"] = sum_nodes(batch.graph, noise_squares(guess["noise"], batch))
        if "time" in guess:
            found["time_squares"] = sum_nodes(batch.graph, time_squares(guess["time"], batch))
            error = times_of_molecules(guess["time"], batch) - batch.labels["time"]
            found["time_error"] = error.abs()
        self._chunks.append(
            {name: values.detach().double().cpu().numpy() for name, values in found.items()}
        )

    def errors(self) -> dict[str, float]:
        """Name -> error over all molecules so far."""
        sums = {
            name: np.concatenate([chunk[name] for chunk in self._chunks])
            for name in self._chunks[0]
        }

        # a mean over atoms, of all molecules and of the molecules in each third of the times
        atoms, errors = sums["atoms"], {}
        if "noise_squares" in sums:
            errors["noise_mse"] = float(sums["noise_squares"].sum() / atoms.sum())
            third = np.minimum(sums["time"] * len(THIRDS), len(THIRDS) - 1).astype(int)
            for place, name in enumerate(THIRDS):
                here = third == place
                if here.any():
                    mean = sums["noise_squares"][here].sum() / atoms[here].sum()
                    errors[f"noise_mse_{name}"] = float(mean)

        if "time_squares" in sums:
            errors["time_mse"] = float(sums["time_squares"].sum() / atoms.sum())
            errors["time_mae"] = float(sums["time_error"].mean())
        return errors


def constant_guess(batch: AtomBatch, names: Iterable[str]) -> dict[str, Tensor]:
    """What can be said without looking: no noise, and the time that is the mean of all times."""
    known = {
        "noise": torch.zeros_like(batch.labels["noise"]),
        "time": torch.full_like(batch.positions[:, 0], 0.5),
    }
    return {name: known[name] for name in names}
