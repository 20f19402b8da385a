"""The sets of the far-sight benchmark: how dimers are split, and what their energies are."""

import numpy as np
import pytest

from benchmarks.accuracy import far_sight_sets as sets


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


def test_dimers_learn_from_short_separations_and_are_tested_at_long_ones(tmp_path):
    content = dimers()
    np.savez(tmp_path / "charge_charge.npz", **content)
    parts = sets.read_case(sets.CASES["dimers"], tmp_path, 0)
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
        sets.read_case(sets.CASES["dimers"], tmp_path, 0)


def test_binding_energies_have_no_reference(tmp_path):
    np.savez(tmp_path / "charge_charge.npz", **dimers())
    problem = sets.Problem.read(sets.CASES["dimers"], tmp_path, 0)
    assert set(problem.statistics.references.values()) == {0.0}
    assert sets.binding_energy(problem) == pytest.approx(
        1e3 * float(problem.parts["test"].energy.abs().mean())
    )
