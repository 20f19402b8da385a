"""What is asked of a network after training: tails against point charges, and correlations."""

import numpy as np
import pytest
import torch

from benchmarks.accuracy import far_sight_checks as checks
from benchmarks.accuracy import far_sight_sets as sets
from benchmarks.accuracy.far_sight_cases import CASES
from farfield.dataloader.structures import Structures


def pair(box=None):
    """Two H2 molecules, 12 Angstrom apart along an oblique axis."""
    molecule = np.array([[0, 0, 0.37], [0, 0, -0.37]])
    axis = np.array([2.0, 1.0, 2.0]) / 3
    open_pair = Structures(
        np.full(4, 1),
        np.concatenate([molecule, molecule + 12.0 * axis]),
        np.array([4]),
        energy=np.zeros(1),
        extra={"distance": np.array([12.0])},
    )
    return open_pair if box is None else sets.in_box(open_pair, box)


@pytest.mark.parametrize("box", [None, 30.0])
def test_fragments_move_apart_as_rigid_bodies(box):
    moved, centroids = checks.moved_apart(pair(box), np.array([0.0, 20.0]))
    positions = moved.positions.reshape(2, 4, 3)
    separation = np.linalg.norm(centroids[:, 1] - centroids[:, 0], axis=1)
    np.testing.assert_allclose(separation, [12, 32])
    np.testing.assert_allclose(positions[:, :2].mean(1), centroids[:, 0])
    np.testing.assert_allclose(positions[:, 2:].mean(1), centroids[:, 1])
    np.testing.assert_allclose(positions[1, 2] - positions[1, 3], positions[0, 2] - positions[0, 3])
    if box is not None:
        edges = checks.BOX_OVER_SEPARATION * separation
        np.testing.assert_allclose(moved.cell, edges[:, None, None] * np.eye(3))


def test_structures_that_are_not_two_fragments_are_refused():
    one = pair()
    one.positions[2:] = one.positions[:2] + [0.8, 0, 0]
    with pytest.raises(ValueError, match="must be two fragments for the tail, got 1"):
        checks.fragments(one)


def test_two_point_charges_in_a_cube_have_the_constant_of_madelung():
    edge = 7.0
    places = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]) + [[0.0], [edge / 2]]
    constant = 1.762674773  # of caesium chloride, for the distance of neighbours
    expected = -constant * checks.COULOMB / (np.sqrt(3) / 2 * edge)
    assert checks.pair_energy(places, (1.0, -1.0), edge) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("box", [None, 30.0])
def test_point_charges_have_the_slope_of_point_charges(monkeypatch, tmp_path, box):
    """Energies of point charges and a constant stand in for a network."""
    case = CASES["dimers"]
    problem = sets.Problem(case, {"test": pair(box)}, {}, None, 6.0, tmp_path)

    def energies(folder, problem, structures):
        positions = structures.positions.reshape(len(structures), 4, 3)
        boxes = [None] * len(structures) if box is None else structures.cell[:, 0, 0]
        places = np.stack([positions[:, :2].mean(1), positions[:, 2:].mean(1)], 1)
        return np.array(
            [
                3 + checks.pair_energy(one, (1.0, -1.0), edge)
                for one, edge in zip(places, boxes, strict=True)
            ]
        )

    monkeypatch.setattr(checks, "energies", energies)
    found = checks.tail(tmp_path, problem)
    assert found["slope"] == pytest.approx(found["expected"])
    if box is None:
        assert found["expected"] == pytest.approx(-checks.COULOMB)

    # a network without a tail
    monkeypatch.setattr(checks, "energies", lambda *_: np.full(6, 3.0))
    assert checks.tail(tmp_path, problem)["slope"] == pytest.approx(0, abs=1e-9)


def test_correlation_ignores_scale_and_refuses_other_shapes():
    values = np.arange(12.0).reshape(4, 3) ** 2
    assert checks.squared_correlation(-3 * values + 1, values) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="shape"):
        checks.squared_correlation(values.reshape(3, 4), values)


class Positions:
    """A network whose dipole is the position of the first atom of every structure."""

    def __init__(self, *outputs):
        self.names = outputs

    def outputs(self):
        return dict.fromkeys(self.names)

    def __call__(self, batch):
        return {"dipole": batch.positions[batch.graph.node_offsets[:-1]]}


def test_multipoles_are_compared_in_the_order_of_the_file(monkeypatch, tmp_path):
    generator = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        positions = generator.normal(size=(12, 3))
        np.savez(
            tmp_path / f"dipeptides_{part}.npz",
            n_atoms=np.full(4, 3),
            Z=np.full(12, 6),
            R=positions,
            E=np.zeros(4),
            F=np.zeros((12, 3)),
        )
    problem = sets.Problem.read(CASES["dipeptides"], tmp_path, 0)
    test = problem.parts["test"].positions.numpy()

    # labels of the test file, known to the network up to a factor
    path = tmp_path / "dipeptides_test.npz"
    born = test[:, :, None] * np.array([1.0, 2.0, 3.0])
    labels = {"dipole": -2 * test[::3], "born_charges": born}
    np.savez(path, **dict(np.load(path)), **labels)
    monkeypatch.setattr(
        checks,
        "born_charges",
        lambda _, batch: batch.positions[:, :, None] * torch.tensor([1.0, 2.0, 3.0]),
    )
    monkeypatch.setattr(checks, "best_network", lambda folder: Positions("dipole"))
    found = checks.multipoles(tmp_path, problem)
    assert found == {"dipole_r2": pytest.approx(1), "born_r2": pytest.approx(1)}

    # transposed Born charges are other ones, and no dipole is no answer
    np.savez(path, **dict(np.load(path)) | {"born_charges": born.transpose(0, 2, 1)})
    assert checks.multipoles(tmp_path, problem)["born_r2"] < 0.9
    monkeypatch.setattr(checks, "best_network", lambda folder: Positions("energy"))
    assert checks.multipoles(tmp_path, problem) == {}
