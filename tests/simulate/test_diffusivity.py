"""Laws of diffusion coefficients: walkers with a known answer, and another program."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.md.analysis import DiffusionCoefficient

from farfield.simulate.diffusivity import (
    diffusion_coefficients,
    in_nano,
    squared_displacements,
    unwrapped,
)
from farfield.simulate.rollout_frames import Frames

LENGTH, STEP = 7.0, 2.0  # Angstrom, fs


def brownian(frames=400, atoms=200, seed=0):
    """Paths (frames, atoms, 3) whose steps have the variance 0.01 Angstrom^2 a component."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 0.1, (frames, atoms, 3))
    return rng.uniform(0, LENGTH, (1, atoms, 3)) + np.cumsum(steps, 0)


def in_cell(positions, cell=None):
    """Frames of the positions, moved into their cell."""
    cell = LENGTH * np.eye(3) if cell is None else cell
    wrapped = (positions @ np.linalg.inv(cell)) % 1.0 @ cell
    numbers = np.full(positions.shape[1], 3)
    cells = np.repeat(cell[None], len(positions), 0)
    return Frames("", numbers, np.ones(len(numbers)), wrapped, cells, np.ones(3, bool))


@pytest.mark.parametrize("skew", [0.0, 2.0])
def test_paths_are_unwrapped(skew):
    path = brownian(50, 20)
    cell = LENGTH * np.eye(3)
    cell[1, 0] = skew
    found = unwrapped(in_cell(path, cell))
    np.testing.assert_allclose(found - found[0], path - path[0], atol=1e-10)


def test_an_open_direction_is_not_wrapped():
    path = brownian(20, 5)
    cells = np.repeat(np.diag([LENGTH, LENGTH, 0.0])[None], 20, 0)
    numbers = np.full(5, 3)
    frames = Frames("", numbers, np.ones(5), path, cells, np.array([True, True, False]))
    found = unwrapped(frames)
    np.testing.assert_allclose(found, path, atol=1e-10)


def test_brownian_walkers_diffuse_as_fast_as_their_steps_say():
    """<x^2> = 2 D t: 0.01 Angstrom^2 in 2 fs is D = 0.0025 Angstrom^2/fs."""
    path = brownian()
    moved = squared_displacements(path, np.full(200, 3), origins=20)
    (found,) = diffusion_coefficients(moved, STEP, fit_from=0.1)
    assert found == pytest.approx(0.0025, rel=0.1)
    assert in_nano(found) == pytest.approx(1e4 * found)  # 1 Angstrom^2/fs = 1e-5 m^2/s


@pytest.mark.parametrize("origins", [1, 7])
def test_ballistic_walkers_have_the_square_of_the_time(origins):
    velocity = np.array([0.01, 0.02, 0.02])
    path = np.arange(40)[:, None, None] * STEP * velocity + np.zeros((40, 3, 3))
    moved = squared_displacements(path, np.array([1, 1, 8]), origins)
    time = STEP * np.arange(len(moved))
    assert moved.shape == (40 if origins == 1 else 20, 2)
    np.testing.assert_allclose(moved[:, 0], (0.03 * time) ** 2, atol=1e-13)
    np.testing.assert_allclose(moved[:, 1], moved[:, 0], atol=1e-13)


def test_it_agrees_with_ase():
    """From the first frame over all times, as ASE counts."""
    path = brownian(60, 30, seed=3)
    numbers = np.array([3] * 20 + [17] * 10)
    images = [Atoms(numbers, one) for one in path]
    theirs, _ = DiffusionCoefficient(images, STEP * units.fs).get_diffusion_coefficients()
    moved = squared_displacements(path, numbers, origins=1)
    ours = diffusion_coefficients(moved, STEP, fit_from=0.0)
    by_name = [ours[1], ours[0]]  # ASE sorts by name: Cl, Li
    assert by_name == pytest.approx([value * units.fs for value in theirs], rel=1e-9)


def test_too_few_times_give_no_coefficient():
    assert np.isnan(diffusion_coefficients(np.zeros((3, 1)), 1.0, 0.9)).all()
