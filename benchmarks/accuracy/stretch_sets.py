"""Molecules whose forces are judged on random frames, on stretches of a trajectory, and hotter.

Neighbouring frames of a trajectory are nearly equal, so a random frame of a trajectory that trains
is close to a training frame, and a stretch that is held back is not. Where a file is a trajectory
in the order of time, the first part trains (with random frames of it held back), a stretch behind
it decides between settings, and the last stretch tests; gaps lie between. Files of frames drawn at
random from a long trajectory have no stretch to hold back: their stretch is in a file of its own,
and tests alone.

    ethanol, aspirin            MD17: random frames of 500 K; a stretch of 500 successive frames
    acac, 3bpa                  spaced frames of 300 K; another trajectory, and hotter frames
    at_at, ac_ala3, dha, stachyose
                                molecules of MD22 at GFN2-xTB, one trajectory each, in order

Cost: reading, and one search of neighbours.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.accuracy.far_sight_sets import CHARGE, EVALUATION_STRUCTURES, file_below
from farfield.dataloader.batch_plan import BatchPlan
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.label_statistics import Statistics
from farfield.dataloader.sources.npz import read_npz
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import Units
from farfield.train.data_order import EpochLoader

TRAIN, VAL, CHOICE = "train", "val", "choice"

# Of a trajectory in order: ends of the training window, the choice and the test as fractions of
# all frames, frames between them, and the share of the window that is held back twice.
WINDOW_END, CHOICE_END, GAP, HELD_BACK = 0.7, 0.85, 5, 0.1


@dataclasses.dataclass(frozen=True)
class Frames:
    """Frames of a file: its place below the data folder, and the rule that picks them.

    pick: number of frames of the file -> indices.
    """

    file: str
    pick: Callable[[int], np.ndarray] = np.arange


def between(first: int, last: int, count: int) -> np.ndarray:
    """Frames first .. last - 1 of a file that has ``count``."""
    return np.arange(first, min(last, count))


def in_time(part: str, count: int) -> np.ndarray:
    """Frames of a part of a trajectory in order.

    part: train, val and random lie in the first ``WINDOW_END`` of it, at random; choice and stretch
    are the stretches behind.
    """
    window, middle = int(WINDOW_END * count), int(CHOICE_END * count)
    order = np.random.default_rng(0).permutation(window)
    held = int(HELD_BACK * window)
    return {
        VAL: np.sort(order[:held]),
        "random": np.sort(order[held : 2 * held]),
        TRAIN: np.sort(order[2 * held :]),
        CHOICE: np.arange(window + GAP, middle),
        "stretch": np.arange(middle + GAP, count),
    }[part]


@dataclasses.dataclass(frozen=True)
class StretchSet:
    """A molecule.

    train, val: frames that train, and that say which weights are best. choice: a stretch that
    decides between settings, None where the training frames are not in order. tests: by name.
    energy: unit of energy of the files.
    """

    train: Frames
    val: Frames
    choice: Frames | None
    tests: dict[str, Frames]
    energy: str = "eV"


def trajectory(file: str) -> StretchSet:
    """A set of one trajectory in order, kcal/mol."""
    frames = {
        part: Frames(file, functools.partial(in_time, part))
        for part in (TRAIN, VAL, CHOICE, "random", "stretch")
    }
    tests = {name: frames[name] for name in ("random", "stretch")}
    return StretchSet(frames[TRAIN], frames[VAL], frames[CHOICE], tests, "kcal/mol")


def spaced(folder: str, tests: dict[str, str]) -> StretchSet:
    """A set of 500 spaced frames of 300 K, 450 train and 50 validate, as published."""
    known = f"{folder}/train_300K.npz"
    return StretchSet(
        Frames(known, functools.partial(between, 0, 450)),
        Frames(known, functools.partial(between, 450, 500)),
        None,
        {name: Frames(f"{folder}/{file}") for name, file in tests.items()},
    )


SETS = {
    "ethanol": StretchSet(
        Frames("ethanol_train.npz"),
        Frames("ethanol_val.npz"),
        None,
        {"random": Frames("ethanol_test_random.npz"), "stretch": Frames("ethanol_traj500.npz")},
    ),
    # there is no file of random test frames
    "aspirin": StretchSet(
        Frames("md17/aspirin_train.npz", functools.partial(between, 0, 850)),
        Frames("md17/aspirin_val.npz"),
        None,
        {
            "random": Frames("md17/aspirin_train.npz", functools.partial(between, 850, 950)),
            "stretch": Frames("aspirin_traj500.npz"),
        },
    ),
    "acac": spaced("acac", {"300K_md": "test_MD_300K.npz", "600K": "train_600K.npz"}),
    "3bpa": spaced("3bpa", {"300K_md": "test_300K.npz", "mixedT": "train_mixedT.npz"}),
    "at_at": trajectory("md22_at-at.npz"),
    "ac_ala3": trajectory("md22_ac-ala3-nhme.npz"),
    "dha": trajectory("md22_dha.npz"),
    "stachyose": trajectory("md22_stachyose.npz"),
}


def read_frames(frames: Frames, folder: str | Path, energy: str) -> Structures:
    """The picked frames, neutral molecules; ValueError where the file has none of them."""
    path = file_below(folder, frames.file)
    structures = read_npz(path, Units(energy, "Angstrom"), periodic=False)
    chosen = frames.pick(len(structures))
    if not len(chosen):
        raise ValueError(f"{path} has {len(structures)} frames, too few for its parts")

    extra = {**structures.extra, CHARGE: np.zeros(len(structures))}
    return dataclasses.replace(structures, extra=extra)[chosen]


@dataclasses.dataclass
class StretchData:
    """The parts of a set that are asked for, as batches need them.

    parts: train, val, choice and the tests by name. statistics: of the training part.
    """

    parts: dict[str, MoleculeDataset]
    statistics: Statistics

    @classmethod
    def read(
        cls, chosen: StretchSet, folder: str | Path, cutoff: float, with_tests: bool
    ) -> StretchData:
        """Read the files of a set, those of its tests only where they are asked for."""
        frames = {TRAIN: chosen.train, VAL: chosen.val}
        if chosen.choice is not None:
            frames[CHOICE] = chosen.choice
        frames |= chosen.tests if with_tests else {}

        structures = {part: read_frames(one, folder, chosen.energy) for part, one in frames.items()}
        edges = MoleculeDataset(structures[TRAIN], cutoff).edges_per_structure
        statistics = Statistics.of(structures[TRAIN], int(edges.sum()))
        parts = {
            part: MoleculeDataset(found, cutoff, statistics.references, inputs=(CHARGE,))
            for part, found in structures.items()
        }
        return cls(parts, statistics)

    def loader(self, part: str) -> EpochLoader:
        """Batches of a part in order."""
        plan = BatchPlan(self.parts[part], EVALUATION_STRUCTURES, shuffle=False)
        return EpochLoader(self.parts[part], plan)

    def training_loader(self, batch_size: int, seed: int) -> EpochLoader:
        """Shuffled batches that train."""
        plan = BatchPlan(self.parts[TRAIN], batch_size, seed=seed)
        return EpochLoader(self.parts[TRAIN], plan, 0, seed)
