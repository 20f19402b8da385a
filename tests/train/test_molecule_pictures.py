"""Pictures of molecules: what is drawn, and that networks are asked for what is shown."""

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PatchCollection

from farfield.dataloader.datasets.diffusion_data import DiffusionDataset
from farfield.models.diffusion.process import DiffusionProcess, ProcessOptions
from farfield.models.graph_ops import broadcast_nodes
from farfield.train.molecule_pictures import Picture, draw_molecules
from farfield.train.tasks.diffusion_pictures import TIMES, molecule_pictures
from tests.support.qm9_data import molecules

PROCESS = DiffusionProcess(ProcessOptions(time_steps=101))


def distance_of(picture: Picture) -> float:
    """The number in a title, Angstrom."""
    return float(picture.title.split(", ")[1].removesuffix(" A"))


def balls_and_sticks(axis) -> list[tuple[np.ndarray, int]]:
    """Centres of the balls (atoms, 2) and number of sticks of each picture, in their order."""
    sticks = [part for part in axis.collections if isinstance(part, LineCollection)]
    balls = [part for part in axis.collections if isinstance(part, PatchCollection)]
    extents = [[path.get_extents() for path in one.get_paths()] for one in balls]
    centres = [np.array([(box.min + box.max) / 2 for box in boxes]) for boxes in extents]
    return [(place, len(lines.get_paths())) for place, lines in zip(centres, sticks, strict=True)]


def test_every_atom_is_a_ball_and_every_bond_a_stick():
    methane, water, benzene = (molecules((name,)) for name in ("CH4", "H2O", "C6H6"))
    rows = [[Picture("a", methane), Picture("b", water)], [Picture("c", benzene)]]
    (axis,) = draw_molecules(rows).axes
    assert [text.get_text() for text in axis.texts] == ["a", "b", "c"]
    drawn = balls_and_sticks(axis)
    assert [(len(balls), sticks) for balls, sticks in drawn] == [(5, 4), (3, 2), (12, 12)]

    # each in its square
    for (balls, _), centre in zip(drawn, [(0, 0), (1, 0), (0, -1)], strict=True):
        assert np.abs(balls - centre).max() < 0.5


def test_flat_molecules_are_seen_from_above_wherever_they_lie():
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turned = molecules(("C6H6",))
    turned.positions = turned.positions @ rotation.T + 3.0
    (axis,) = draw_molecules([[Picture("c", turned)]]).axes
    ((balls, _),) = balls_and_sticks(axis)
    true = np.linalg.norm(turned.positions - turned.positions.mean(0), axis=1)
    seen = np.linalg.norm(balls, axis=1)
    assert np.allclose(np.sort(seen / seen.max()), np.sort(true / true.max()), atol=1e-3)


@pytest.mark.parametrize("told", [True, False])
def test_a_network_that_knows_the_noise_finds_the_molecules(told):
    known = molecules(("CH4", "H2O", "CH3OH", "C2H6", "C6H6"))
    dataset = DiffusionDataset(known, "val", PROCESS, told=told, dtype=torch.float64)
    asked = []

    def oracle(batch):
        asked.append(batch)
        time = broadcast_nodes(batch.graph, batch.labels["time"])
        return {"noise": batch.labels["noise"], "time": time}

    rows = molecule_pictures(oracle, dataset, "cpu")
    assert [len(row) for row in rows] == [1 + 2 * len(TIMES)] * 3
    assert [len(row[0].molecule.positions) for row in rows] == [5, 6, 12]  # evenly over the set
    for row in rows:
        clean, *others = row
        assert clean.title == "clean" and [one.title.split(",")[0] for one in others] == [
            *("t = 10", "found"),
            *("t = 40", "found"),
        ]
        noised, found = others[::2], others[1::2]
        for one in found:
            assert distance_of(one) == 0.0
            assert np.allclose(one.molecule.positions, clean.molecule.positions, atol=1e-9)
        assert 0 < distance_of(noised[0]) < distance_of(noised[1])

    # the noise is that of the evaluation, and no random number is drawn
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    again = molecule_pictures(oracle, dataset, "cpu")
    assert again[2][1].title == rows[2][1].title
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert all(("time" in batch.graph_features) == told for batch in asked)


def test_a_network_that_has_diverged_is_no_reason_to_stop():
    known = molecules(("CH4", "H2O"))
    dataset = DiffusionDataset(known, "val", PROCESS, told=False, dtype=torch.float64)

    def diverged(batch):
        noise = torch.full_like(batch.positions, np.nan)
        return {"noise": noise, "time": noise[:, 0]}

    rows = molecule_pictures(diverged, dataset, "cpu")
    assert [one.title.split(", ")[1] for one in rows[0][2::2]] == ["not finite"] * len(TIMES)
    (axis,) = draw_molecules(rows).axes
    assert len(balls_and_sticks(axis)) == 2 * (1 + len(TIMES)), "the others are drawn"


def test_one_molecule_is_enough():
    dataset = DiffusionDataset(molecules(("H2O",)), "val", PROCESS, dtype=torch.float64)
    rows = molecule_pictures(lambda batch: {"noise": batch.labels["noise"]}, dataset, "cpu")
    assert len(rows) == 1
    (axis,) = draw_molecules(rows).axes
    assert len(balls_and_sticks(axis)) == 1 + 2 * len(TIMES)
