"""The slope of energies over work: what it is, what it tells, and what stands out."""

import dataclasses

import numpy as np
import pytest

from farfield.dataloader.label_checks import Slope, sampled, wild_energies
from farfield.dataloader.near_frames import FramePairs
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import ENERGY_UNITS


def pairs_of(slope: float, count: int = 40, noise: float = 0.0, seed: int = 0) -> FramePairs:
    rng = np.random.default_rng(seed)
    work = rng.standard_normal(count)
    return FramePairs(
        first=np.arange(count),
        second=np.arange(count) + 1,
        change=slope * work + noise * rng.standard_normal(count),
        work=work,
        spread=np.full(count, 0.2),
        farthest=np.full(count, 0.1),
    )


def test_an_exact_slope_explains_all():
    found = Slope.of(pairs_of(2.5))
    assert found.value == pytest.approx(2.5) and found.explained == pytest.approx(1.0)
    assert found.error < 1e-9 and len(found.pairs) == 40


def test_the_error_of_a_slope_is_that_of_many_draws():
    found = [Slope.of(pairs_of(1.0, 100, 0.3, seed)) for seed in range(60)]
    values = np.array([one.value for one in found])
    assert values.mean() == pytest.approx(1.0, abs=0.02)
    assert np.mean([one.error for one in found]) == pytest.approx(values.std(), rel=0.25)
    # a median of |noise| over one of |change|
    assert np.mean([one.explained for one in found]) == pytest.approx(1 - 0.3 / 1.044, abs=0.03)


def test_a_few_wild_pairs_do_not_decide():
    pairs = pairs_of(1.0, noise=0.05)
    pairs.change[:3] += 50
    assert Slope.of(pairs).value == pytest.approx(1.0, abs=0.1)


def test_too_few_pairs_and_too_far_ones_have_no_slope():
    assert Slope.of(pairs_of(1.0, 16)) is not None
    assert Slope.of(pairs_of(1.0, 15)) is None
    for farthest, count in ((0.6, 30), (0.0, 30)):
        pairs = pairs_of(1.0)
        pairs.farthest[:10] = farthest
        assert len(Slope.of(pairs).pairs) == count
    for change in ({"spread": np.zeros(40)}, {"work": np.zeros(40)}):
        assert Slope.of(dataclasses.replace(pairs_of(1.0), **change)) is None


def structures(atoms: int = 3, count: int = 41, energy: float = -50.0) -> Structures:
    positions = np.random.default_rng(0).uniform(0, 3, (atoms * count, 3))
    numbers = np.ones(atoms * count, int)
    return Structures(numbers, positions, np.full(count, atoms), energy=np.full(count, energy))


KCAL = 1 / ENERGY_UNITS["kcal/mol"]
# slope, noise -> words, certain
TOLD = [
    (0.66, 0.0, None, None),
    (1.49, 0.0, None, None),
    (-1.0, 0.0, "the forces have the wrong sign", True),
    (-1.35, 0.0, "the forces have the wrong sign", True),
    (-1.45, 0.0, "energies change -1.45 times as much", True),
    (1 / 3, 0.0, "energies are per atom, not of whole structures", True),
    (KCAL, 0.0, "energies are in kcal/mol and forces are not", True),
    (0.64, 0.0, "positions are in bohr and forces per Angstrom", True),
    (0.648, 0.0, "energies change 0.648 times as much", False),
    (3.4, 0.0, "energies change 3.4 times as much", True),
    (0.0, 1.0, "energies do not follow the forces", True),
]


@pytest.mark.parametrize("slope, noise, words, certain", TOLD)
def test_a_slope_tells_what_is_wrong(slope, noise, words, certain):
    found = Slope.of(pairs_of(slope, noise=noise)).told("frame {}".format, structures())
    if words is None:
        assert found is None
    else:
        assert words in found.text and found.certain is certain
        assert "40 pairs of near frames, e.g. from frame" in found.text


@pytest.mark.parametrize("atoms", [2, 4])
def test_energies_per_atom_are_known_by_the_number_of_atoms(atoms):
    found = Slope.of(pairs_of(1.15 / atoms)).told(str, structures(atoms))
    assert "energies are per atom" in found.text and found.certain
    for slope in (1.3 / atoms, 0.75 / atoms):
        found = Slope.of(pairs_of(slope)).told(str, structures(atoms))
        assert found is None or "energies are per atom" not in found.text

    # structures of several sizes have no common factor
    mixed = structures(atoms)
    mixed.counts[:2] = [atoms - 1, atoms + 1]
    assert "per atom" not in Slope.of(pairs_of(0.25)).told(str, mixed).text


def test_few_frames_and_few_digits_leave_doubt():
    def told(count, energy):
        return Slope.of(pairs_of(0.0, count, 1.0)).told(
            str, structures(count=count + 1, energy=energy)
        )

    assert told(30, -50.0).certain and not told(29, -50.0).certain
    assert not told(30, -5e6).certain  # a part in a million of the energy is an eV
    # a slope whose error is large
    unsure = Slope(3.0, 0.3, 0.5, pairs_of(3.0))
    sure = Slope(3.0, 0.2, 0.5, pairs_of(3.0))
    assert not unsure.told(str, structures()).certain and sure.told(str, structures()).certain


def test_samples_are_runs_of_frames():
    assert sampled(1000, "sample").tolist() == list(range(1000))
    assert sampled(5000, "all").tolist() == list(range(5000))
    frames = sampled(5000, "sample")
    assert len(frames) == 1000 and frames[0] == 0 and frames[-1] == 4999
    assert (np.diff(frames) == 1).sum() == 990


def test_wild_energies_are_far_from_others_of_their_composition():
    one = structures(count=20)
    one.energy[:] = np.linspace(-50.5, -49.5, 20)
    one.energy[[4, 7]] += [500.0, -900.0]
    assert wild_energies(one).tolist() == [7, 4]
    one.energy[[4, 7]] = -50 + np.array([19.0, -21.0])
    assert wild_energies(one).tolist() == [7]
    assert wild_energies(dataclasses.replace(one, energy=None)).tolist() == []
