"""Reference energies reproduce what is made of them, and are the mean per atom where nothing tells
the elements apart.
"""

import dataclasses

import numpy as np
import pytest

from farfield.dataloader.label_statistics import Statistics, centroids
from farfield.dataloader.reference_energies import (
    fit_references,
    reference_energy,
    reference_limits,
)
from farfield.dataloader.structures import Structures
from tests.support.molecule_data import random_structures

TRUE = {1: -13.6, 6: -1029.2, 8: -2041.9}


def with_energies(structures: Structures) -> Structures:
    energy = np.bincount(
        structures.structure_of_atom,
        [TRUE[number] for number in structures.atomic_numbers.tolist()],
    )
    return dataclasses.replace(structures, energy=energy)


def test_references_are_found_again():
    structures = with_energies(random_structures(range(1, 30)))
    found = fit_references(structures)
    assert found.keys() == TRUE.keys()
    assert all(abs(found[number] - TRUE[number]) < 1e-9 for number in TRUE)
    assert np.abs(reference_energy(structures, found) - structures.energy).max() < 1e-9


def test_one_molecule_gives_the_mean_per_atom():
    numbers = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
    energy = -4215 + 0.2 * np.random.default_rng(0).standard_normal(40)
    structures = Structures(np.tile(numbers, 40), np.zeros((360, 3)), np.full(40, 9), energy)
    assert fit_references(structures) == pytest.approx(
        dict.fromkeys((1, 6, 8), energy.mean() / 9), rel=1e-12
    )
    assert (
        abs((structures.energy - reference_energy(structures, fit_references(structures))).mean())
        < 1e-9
    )


def test_one_ratio_of_elements_leaves_only_what_the_atoms_cannot_tell():
    """CnH2n+2: two numbers per structure tell both elements; CnH2n: they do not, and the energy per
    atom is shared.
    """
    counts = np.arange(2, 8)
    for hydrogens, known in ((2 * counts + 2, True), (2 * counts, False)):
        numbers = np.concatenate(
            [[6] * c + [1] * h for c, h in zip(counts, hydrogens, strict=True)]
        )
        size = counts + hydrogens
        structures = Structures(
            numbers, np.zeros((len(numbers), 3)), size, TRUE[6] * counts + TRUE[1] * hydrogens
        )
        found = fit_references(structures)
        assert np.abs(reference_energy(structures, found) - structures.energy).max() < 1e-8
        assert (abs(found[6] - TRUE[6]) < 1e-6) == known
        assert (abs(found[6] - found[1]) < 1e-6) != known
        assert ("do not tell 2 elements apart" in reference_limits(structures)) != known
        assert reference_limits(structures[[0, 0]]).startswith("one composition: only energy diff")


def test_unknown_elements_are_refused():
    structures = random_structures()
    with pytest.raises(
        ValueError, match=r"unknown element H \(Z = 1\); this model was trained on C, O"
    ):
        reference_energy(structures, {6: 0.0, 8: 0.0})
    with pytest.raises(ValueError, match="at least one structure"):
        fit_references(structures[:0])


def test_statistics_are_what_they_say(tmp_path):
    structures = random_structures((4, 2, 9))
    statistics = Statistics.of(structures, num_edges=30)
    far = [
        np.linalg.norm(one.positions - one.positions.mean(0), axis=1).max()
        for one in (structures[0], structures[1], structures[2])
    ]
    assert statistics.design_radius == pytest.approx(max(far), rel=1e-12)
    assert statistics.force_rms == pytest.approx(np.sqrt((structures.forces**2).mean()), rel=1e-12)
    assert (
        statistics.average_neighbors,
        statistics.average_atoms,
        statistics.typical_atoms,
        statistics.largest_atoms,
    ) == (2, 5, 4, 9)
    assert np.abs(centroids(structures)[1] - structures[1].positions.mean(0)).max() < 1e-14
    statistics.save(tmp_path / "statistics.json")
    assert Statistics.load(tmp_path / "statistics.json") == statistics
    (tmp_path / "statistics.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"statistics\.json must hold .*design_radius.*; preprocess"
    ):
        Statistics.load(tmp_path / "statistics.json")
