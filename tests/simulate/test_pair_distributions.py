"""Laws of h(r) and g(r): known answers, and another program."""

import numpy as np
import pytest
from ase import Atoms
from ase.geometry.rdf import get_rdf

from farfield.simulate.pair_distributions import (
    density_error,
    distance_density,
    middles,
    radial_distributions,
)
from farfield.simulate.rollout_frames import Frames


def periodic(symbols, length, frames, seed=0):
    """Independent atoms at random places in a cube."""
    rng = np.random.default_rng(seed)
    numbers = Atoms(symbols).numbers
    positions = rng.uniform(0, length, (frames, len(numbers), 3))
    cells = np.repeat(length * np.eye(3)[None], frames, 0)
    return Frames("", numbers, np.ones(len(numbers)), positions, cells, np.ones(3, bool))


def test_independent_atoms_have_a_radial_distribution_of_one():
    """Within four standard deviations of the number of pairs in a bin."""
    frames = periodic("O100H60", 8.0, 20)
    found = radial_distributions(frames, 6.0, 12)
    assert list(found) == ["H-H", "H-O", "O-O"]
    edges = np.linspace(0, 6, 13)
    shell = 4 / 3 * np.pi * np.diff(edges**3) / 8.0**3
    pairs = {"H-H": 60 * 59 / 2, "H-O": 60 * 100, "O-O": 100 * 99 / 2}
    for name, values in found.items():
        spread = 1 / np.sqrt(20 * pairs[name] * shell)
        assert (np.abs(values - 1) < 4 * spread + 1e-12).all()
        assert np.abs(values[4:] - 1).max() < 0.06


@pytest.mark.parametrize("pair", [("O", "O"), ("O", "H")])
def test_radial_distributions_agree_with_ase(pair):
    """ASE counts an atom as its own neighbour where both elements are one: N for N - 1."""
    frames = periodic("O60H60", 9.0, 3, seed=1)
    images = [
        Atoms(frames.numbers, one, cell=9.0 * np.eye(3), pbc=True) for one in frames.positions
    ]
    theirs = np.mean([get_rdf(one, 4.0, 40, elements=pair)[0] for one in images], 0)
    ours = radial_distributions(frames, 4.0, 40)["-".join(sorted(pair))]
    factor = 59 / 60 if pair[0] == pair[1] else 1.0

    # their shells are 4 pi r^2 dr
    far = middles(4.0, 40) > 1.0
    assert (theirs[far] > 0).all()
    assert ours[far] * factor == pytest.approx(theirs[far], rel=0.01)


def test_a_crystal_has_its_neighbours_at_their_distances():
    """Simple cubic: 6 at a, 12 at sqrt 2 a; the cell is shorter than the largest distance."""
    frames = Frames(
        "",
        np.array([84]),
        np.ones(1),
        np.zeros((1, 1, 3)),
        3.0 * np.eye(3)[None],
        np.ones(3, bool),
    )
    two = Frames(
        "",
        np.array([84] * 2),
        np.ones(2),
        np.array([[[0.0, 0, 0], [3.0, 0, 0]]]),
        np.diag([6.0, 3.0, 3.0])[None],
        np.ones(3, bool),
    )
    assert distance_density(frames, 4.0, 4).nonzero()[0].tolist() == [3]
    found = radial_distributions(two, 4.5, 45)["Po-Po"]
    edges = np.linspace(0, 4.5, 46)
    shell = 4 / 3 * np.pi * np.diff(edges**3)
    numbers = found * shell / 54.0 * 1  # neighbours of one atom: g n dV, n = (N - 1) / V
    assert numbers[30] == pytest.approx(6) and numbers[42] == pytest.approx(12)


def test_densities_integrate_to_one_and_count_every_pair():
    rng = np.random.default_rng(2)
    positions = rng.normal(size=(30, 5, 3))
    frames = Frames("", np.ones(5, int), np.ones(5), positions)
    density = distance_density(frames, 12.0, 100)
    assert density.sum() * 0.12 == pytest.approx(1.0, abs=1e-12)
    distances = [np.linalg.norm(p[i] - p[j]) for p in positions for i in range(5) for j in range(i)]
    direct, _ = np.histogram(distances, 100, (0, 12), density=True)
    np.testing.assert_allclose(density, direct, atol=1e-12)


def test_the_error_of_densities_that_never_meet_is_two():
    one, other = np.zeros(10), np.zeros(10)
    one[2] = other[7] = 10 / 5.0
    assert density_error(one, other, 5.0) == pytest.approx(2.0)
    assert density_error(one, one, 5.0) == 0.0
