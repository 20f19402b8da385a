"""The sets of the far-sight benchmark: how they are split, and what their energies are."""

import numpy as np
import pytest

from benchmarks.accuracy import far_sight_sets as sets
from benchmarks.accuracy.far_sight_cases import CASES


def read(name, folder):
    """The parts of a set."""
    return CASES[name].read(CASES[name], folder, 0)


def dimers(count=2):
    """A ragged file of dimers of two atoms at 13 rising separations."""
    distance = np.tile(np.linspace(3, 9, sets.SEPARATIONS), count)
    positions = np.zeros((2 * len(distance), 3))
    positions[1::2, 0] = distance
    sizes = {
        "n_atoms": np.full(len(distance), 2),
        "Z": np.tile([1, 8], len(distance)),
        "R": positions,
    }
    return sizes | {
        "E": 5 - 1 / distance,
        "E_A": np.full(len(distance), 2.0),
        "E_B": np.full(len(distance), 3.0),
        "distance": distance,
    }


def save_lode(folder, name="CP", charge=-1.0):
    """The two files of a class of LODE: ten near separations in no order, three far ones."""
    distance = np.linspace(4.0, 15.0, 13)
    order = np.r_[3, 0, 9, 8, 1, 2, 4, 5, 6, 7]
    for part, chosen in {"train": distance[order], "test": distance[10:]}.items():
        positions = np.zeros((2 * len(chosen), 3))
        positions[1::2, 0] = chosen
        np.savez(
            folder / f"{name}_{part}.npz",
            n_atoms=np.full(len(chosen), 2),
            Z=np.tile([1, 8], len(chosen)),
            R=positions,
            F=np.zeros_like(positions),
            E=5 - 1 / chosen,
            E_A=np.full(len(chosen), 2.0),
            E_B=np.full(len(chosen), 3.0),
            charge=np.full(len(chosen), charge),
            distance=chosen,
        )


def save_charged(folder, name, offsets, seed=0):
    """A set whose energies are 2 eV an atom and an offset for each charge."""
    generator = np.random.default_rng(seed)
    for part in ("train", "val", "test"):
        charge = np.resize(list(offsets), 12)
        positions = generator.normal(size=(24, 3))
        np.savez(
            folder / f"{name}_{part}.npz",
            n_atoms=np.full(12, 2),
            Z=np.full(24, 47),
            R=positions,
            F=np.zeros_like(positions),
            E=4.0 + np.array([offsets[value] for value in charge]),
            charge=charge,
        )


def test_dimers_learn_from_short_separations_and_are_tested_at_long_ones(tmp_path):
    content = dimers()
    np.savez(tmp_path / "charge_charge.npz", **content)
    parts = read("dimers", tmp_path)
    assert {part: len(found) for part, found in parts.items()} == {
        "train": 14,
        "val": 2,
        "test": 10,
    }
    assert (
        parts["train"].extra["distance"].max()
        < parts["val"].extra["distance"].min()
        < parts["test"].extra["distance"].min()
    )
    np.testing.assert_allclose(parts["test"].energy, -1 / parts["test"].extra["distance"])
    content["distance"] = content["distance"][::-1]
    np.savez(tmp_path / "charge_charge.npz", **content)
    with pytest.raises(ValueError, match="must rise"):
        read("dimers", tmp_path)


def test_binding_energies_have_no_reference(tmp_path):
    np.savez(tmp_path / "charge_charge.npz", **dimers())
    problem = sets.Problem.read(CASES["dimers"], tmp_path, 0)
    assert set(problem.statistics.references.values()) == {0.0}
    assert sets.binding_energy(problem) == pytest.approx(
        1e3 * float(problem.parts["test"].energy.abs().mean())
    )


def test_the_second_farthest_frame_of_a_box_validates_and_no_test_frame_does(tmp_path):
    save_lode(tmp_path)
    parts = read("lode_CP", tmp_path)
    distance = {part: found.extra["distance"] for part, found in parts.items()}
    known = np.sort(np.concatenate([distance["train"], distance["val"]]))
    assert (len(distance["train"]), len(distance["val"]), len(distance["test"])) == (9, 1, 3)
    assert distance["val"][0] == known[-2] and distance["train"].max() == known[-1]
    assert known[-1] < distance["test"].min()

    # binding energies, in a box, with the charge as an input
    np.testing.assert_allclose(parts["test"].energy, -1 / distance["test"])
    np.testing.assert_array_equal(parts["train"].cell[0], 30.0 * np.eye(3))
    batch = sets.Problem.read(CASES["lode_CP"], tmp_path, 0).parts["train"][[0, 1]]
    assert batch.graph_features["total_charge"].tolist() == [-1.0, -1.0]
    assert batch.periodic.all()


def test_charges_have_zeros_of_their_own_that_come_from_training_alone(tmp_path):
    save_charged(tmp_path, "ag3", {-1.0: 3.0, 1.0: -5.0})
    parts = read("ag3", tmp_path)
    for part in parts.values():
        np.testing.assert_allclose(part.energy, part.energy[0], atol=1e-9)

    # what a test structure adds to its zero is kept
    path = tmp_path / "ag3_test.npz"
    content = dict(np.load(path))
    np.savez(path, **content | {"E": content["E"] + 1.5})
    shifted = read("ag3", tmp_path)
    np.testing.assert_allclose(shifted["test"].energy, parts["test"].energy + 1.5)
    np.testing.assert_allclose(shifted["train"].energy, parts["train"].energy)

    np.savez(path, **content | {"charge": np.full(12, 2.0)})
    with pytest.raises(ValueError, match="no structure with the charge 2 of test trains"):
        read("ag3", tmp_path)
    del content["charge"]
    np.savez(path, **content)
    with pytest.raises(ValueError, match="has no array 'charge'"):
        read("ag3", tmp_path)
