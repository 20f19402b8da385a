"""Reference energies: the ridge helps rare elements and leaves exact sums alone; energies that are
given, and those of isolated atoms.
"""

import dataclasses

import numpy as np
import pytest

from farfield.dataloader.reference_energies import (
    chosen_references,
    fit_references,
    isolated_atoms,
    isolated_references,
    parse_references,
    reference_energy,
)
from farfield.dataloader.structures import Structures
from tests.support.molecule_data import random_structures


def compounds(count: int, seed: int, noise: float) -> tuple[Structures, np.ndarray]:
    """Structures of two to four of forty elements, with an energy of each element (41,) and noise
    per atom, eV.
    """
    rng = np.random.default_rng(seed)
    energies = np.random.default_rng(0).normal(-6, 3, 41)
    counts = rng.integers(2, 5, count) * 4
    numbers = np.concatenate([np.repeat(rng.integers(1, 41, size // 4), 4) for size in counts])
    offsets = np.cumsum(counts) - counts
    energy = np.add.reduceat(energies[numbers], offsets) + counts * rng.normal(0, noise, count)
    return Structures(numbers, np.zeros((len(numbers), 3)), counts, energy), energies


def test_rare_elements_stay_near_the_mean():
    """On structures of other compositions the ridge beats plain least squares."""
    train, _ = compounds(60, 1, noise=1.0)
    test, _ = compounds(400, 2, noise=0.0)
    known = np.isin(test.atomic_numbers, train.elements)
    keep = np.bincount(test.structure_of_atom[~known], minlength=len(test)) == 0
    test = test[keep]

    shares = np.stack([np.bincount(one.atomic_numbers, minlength=41) for one in each(train)])
    plain = np.linalg.lstsq(shares, train.energy, rcond=1e-9)[0]
    error = (reference_energy(test, fit_references(train)) - test.energy) / test.counts
    plain_error = np.add.reduceat(plain[test.atomic_numbers], test.offsets[:-1]) - test.energy
    assert np.abs(error).mean() < 0.8 * np.abs(plain_error / test.counts).mean()


def each(structures: Structures) -> list[Structures]:
    return [structures[index] for index in range(len(structures))]


def test_sums_over_elements_are_found_exactly():
    train, energies = compounds(400, 1, noise=0.0)
    found = fit_references(train)
    assert max(abs(found[z] - energies[z]) for z in found) < 1e-8


def test_references_count_per_atom():
    """The same structures, each repeated: shares and energies per atom are equal, and so is all."""
    train, _ = compounds(60, 3, noise=0.5)
    doubled = Structures.concatenate([train])
    doubled = dataclasses.replace(
        doubled,
        atomic_numbers=np.concatenate([np.tile(one.atomic_numbers, 2) for one in each(train)]),
        positions=np.zeros((2 * train.num_atoms, 3)),
        counts=2 * train.counts,
        energy=2 * train.energy,
    )
    one, two = fit_references(train), fit_references(doubled)
    assert two == pytest.approx(one, abs=1e-9)


def test_given_references_are_read():
    assert parse_references("average") == "average"
    assert parse_references("H:-13.6, O:-2041.8") == {1: -13.6, 8: -2041.8}
    for text in ("H", "H:x", "H:1,H:2", "Xx:1", "X:1", "H:nan", ""):
        with pytest.raises(ValueError, match="--E0s must be average, isolated, or each element"):
            parse_references(text)

    structures = random_structures()
    assert chosen_references(structures, {1: -1.0, 6: 2.0, 7: 0.0, 8: 3.0}) == {1: -1, 6: 2, 8: 3}
    with pytest.raises(ValueError, match="--E0s has no reference energy for C, O of the training"):
        chosen_references(structures, {1: -1.0})


def test_isolated_atoms_are_single_ones_without_near_images():
    cells = np.stack([np.eye(3) * length for length in (0, 20, 3, 20)])
    periodic = np.array([[False] * 3, [True] * 3, [True] * 3, [True] * 3])
    structures = Structures(
        np.array([1, 8, 29, 8, 1]),
        np.array([[0.0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]),
        np.array([1, 1, 1, 2]),
        np.array([-13.0, -2040.0, -4.0, -2055.0]),
        cell=cells,
        periodic=periodic,
    )
    assert isolated_atoms(structures).tolist() == [True, True, False, False]
    assert isolated_references(structures) == {1: -13, 8: -2040}
    with pytest.raises(ValueError, match="--E0s isolated needs frames of single atoms"):
        isolated_references(structures[2:])
    twice = Structures.concatenate([structures, structures[:1]])
    twice.energy[-1] = -12
    with pytest.raises(ValueError, match="frames of a single H have the energies -13 and -12 eV"):
        isolated_references(twice)
