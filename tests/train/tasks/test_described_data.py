"""What the log says of the data of a run before it begins."""

from types import SimpleNamespace

import numpy as np
import pytest
from easydict import EasyDict

from farfield.train.tasks.diffusion import DiffusionTask
from farfield.train.tasks.energy_forces import EnergyForceTask


class Batches:
    """A loader of ``count`` batches of a data set."""

    def __init__(self, count: int, **dataset):
        self.count, self.dataset = count, SimpleNamespace(**dataset)

    def __len__(self) -> int:
        return self.count


def parts_of(**loaders):
    return SimpleNamespace(loaders=lambda: loaders, train=loaders["train"])


@pytest.mark.parametrize(
    "atoms, count, words",
    [
        ([9, 18, 12], 2, "train: 3 molecules of 9 to 18 atoms, 2 batches"),
        ([9, 9], 1, "train: 2 molecules of 9 atoms, 1 batch"),
        ([1], 1, "train: 1 molecule of 1 atom, 1 batch"),
    ],
)
@pytest.mark.parametrize("detach", [False, True])
def test_molecules_of_diffusion(atoms, count, words, detach):
    config = EasyDict(
        data={"noise_schedule": "cosine", "diffusion_steps": 50},
        loss={"objective": "joint", "detach_time": detach},
    )
    parts = parts_of(train=Batches(count, atoms_per_structure=np.array(atoms)))
    end = ", gradient of the noise kept from the time" if detach else ""
    lines = DiffusionTask.describe(None, config, parts)
    assert lines == [words, f"cosine noise in 50 steps, objective joint{end}"]


@pytest.mark.parametrize(
    "model, weight, has_forces, notes",
    [
        ({"forces": "conservative"}, 0.0, True, []),
        ({"forces": "none"}, 0.0, False, []),
        ({"forces": "none"}, 0.0, True, ["--forces none"]),
        ({"forces": "direct", "stress": True}, 0.0, True, ["--weight-stress 0"]),
        ({"forces": "direct", "stress": True}, 1.0, True, []),
        ({"forces": "direct", "stress": False}, 0.0, True, []),
    ],
)
def test_structures_and_labels_that_are_not_used(model, weight, has_forces, notes):
    loader = Batches(
        2,
        edges_per_structure=np.array([3, 4]),
        cutoff=5.0,
        summary=lambda: "2 structures",
        has=lambda label: has_forces and label == "forces",
    )
    config = EasyDict(model=model, loss={"weight_stress": weight})
    first, *rest = EnergyForceTask.describe(None, config, parts_of(train=loader))
    assert first == "train: 2 structures\n  7 edges within 5.0 Angstrom, 2 batches"
    assert len(rest) == len(notes)
    assert all(words in line for words, line in zip(notes, rest, strict=True))
