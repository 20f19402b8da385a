"""Runs of train_diffusion that last a moment, and a sampler with a network that knows all."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import torch
import yaml
from torch import Tensor

from farfield.common import checkpoint
from farfield.common.trained import TrainedRun
from farfield.dataloader.structures import Structures
from farfield.models.batch import AtomBatch
from farfield.models.diffusion.molecules import blank_molecules
from farfield.models.diffusion.process import DiffusionProcess, ProcessOptions, centred
from farfield.models.diffusion.samplers import SAMPLERS
from farfield.simulate.trained_sampler import TrainedSampler
from farfield.train import train_diffusion
from tests.support.md_data import flags
from tests.support.small_diffusion import E2FORMER, JointOracle

TRAINING = [
    *flags(lr=0.01, warmup_steps=2, ema_decay=0.9, batch_size=4, epochs=1, diffusion_steps=30),
    "--no-progress",
]


def train_briefly(folder, data, *options: str, model: dict = E2FORMER):
    """Best checkpoint of a small network after an epoch on the folder ``data``."""
    folder.mkdir()
    network = folder / "network.yaml"
    network.write_text(yaml.safe_dump({"model": model}))
    paths = ["--run-dir", str(folder / "run"), "--data-path", str(data), "--config", str(network)]
    train_diffusion.main([*paths, *TRAINING, *options])
    return folder / "run" / checkpoint.BEST


class KnowingNetwork(JointOracle):
    """Says the noise between positions and the molecules that it knows; its time counts down.

    A molecule says which it is by the input ``number``.
    """

    def __init__(self, known: Structures, max_atoms: int | None = None):
        process = DiffusionProcess(ProcessOptions(time_steps=30))
        batch = blank_molecules([one.atomic_numbers.tolist() for one in each(known)], torch.float64)
        positions = centred(batch.graph, torch.from_numpy(known.positions))
        batch = dataclasses.replace(batch, positions=positions)
        super().__init__(process, batch, start=torch.full((len(known),), 12))
        self.inputs, self.config = ["number"], {"name": "oracle"}
        self.options = types.SimpleNamespace(max_atoms=max_atoms)

    def __call__(self, batch: AtomBatch) -> dict[str, Tensor]:
        number = batch.graph_features["number"].long()
        return super().__call__(dataclasses.replace(batch, graph_features={"number": number}))


def each(structures: Structures) -> list[Structures]:
    """The structures one by one."""
    return [structures[[place]] for place in range(len(structures))]


def numbered(structures: Structures) -> Structures:
    """The geometry, and the number of each structure as an input."""
    number = {"number": np.arange(len(structures), dtype=float)}
    return Structures(
        structures.atomic_numbers, structures.positions, structures.counts, extra=number
    )


def knowing_sampler(checkpoint_path, known: Structures, **options) -> TrainedSampler:
    """The sampler ``jt`` with a :class:`KnowingNetwork`, in float64, beside the run of a
    checkpoint.
    """
    network = KnowingNetwork(known, **options)
    sampler = SAMPLERS["jt"](network.process, network)
    run = TrainedRun.read(checkpoint_path)
    found = TrainedSampler(run, sampler, torch.device("cpu"), torch.float64)
    found.training = known
    return found
