"""Labels that cannot be right are refused with their frames; correct ones raise no alarm."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from farfield.dataloader.label_checks import ALL, OFF, check_labels
from farfield.dataloader.near_frames import near_pairs
from farfield.dataloader.sources.md17 import MD17Sample
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import ENERGY_UNITS, LENGTH_UNITS
from farfield.preprocess import preprocess_md17
from tests.support.molecule_data import write_structures
from tests.support.turns import orthogonal

FRAME = 123
KCAL = 1 / ENERGY_UNITS["kcal/mol"]
BOHR = 1 / LENGTH_UNITS["bohr"]


@pytest.fixture(scope="module")
def ethanol() -> Structures:
    source = MD17Sample()
    return source.read(source.paths[0], lambda count: None)[:400]


def changed(structures: Structures, **arrays) -> Structures:
    return dataclasses.replace(structures, **arrays, check=False)


def shuffled(one):
    return changed(one, energy=np.random.default_rng(0).permutation(one.energy))


def one_energy(one):
    return changed(one, energy=one.energy + 100.0 * (np.arange(len(one)) == FRAME))


def one_frame_of_forces(one):
    factor = np.where(one.structure_of_atom == FRAME, 1e4, 1.0)
    return changed(one, forces=one.forces * factor[:, None])


def two_atoms_at_one_place(one):
    positions = one.positions.copy()
    first = one.offsets[FRAME]
    positions[first + 1] = positions[first] + [0.001, 0, 0]
    return changed(one, positions=positions)


def two_atoms_at_the_same_place(one):
    positions = one.positions.copy()
    first = one.offsets[FRAME]
    positions[first + 3] = positions[first]  # a hydrogen
    return changed(one, positions=positions)


PLANTED = {
    "sign": (lambda one: changed(one, forces=-one.forces), "forces have the wrong sign"),
    "kcal/mol energies": (lambda one: changed(one, energy=KCAL * one.energy), "in kcal/mol"),
    "kcal/mol forces": (
        lambda one: changed(one, forces=KCAL * one.forces),
        "forces are in kcal/mol per length and energies are not",
    ),
    "bohr": (
        lambda one: changed(one, positions=BOHR * one.positions),
        "positions are in bohr and forces per Angstrom",
    ),
    "per bohr": (
        lambda one: changed(one, forces=one.forces / BOHR),
        "forces are per bohr and positions in Angstrom",
    ),
    "nm": (lambda one: changed(one, positions=one.positions / 10), "--length-unit nm"),
    "shuffled": (shuffled, "energies do not follow the forces"),
    "one energy": (one_energy, f"more than the forces explain: frame {FRAME} \\((99.9|100)"),
    "one frame of forces": (one_frame_of_forces, f"larger than bare nuclei .* frame {FRAME} "),
    "one place": (two_atoms_at_one_place, f"frame {FRAME} \\(atoms [01] and [01]: 0.001\\)"),
    "same place": (two_atoms_at_the_same_place, f"frame {FRAME} \\(atoms [03] and [03]: 0"),
    "all kcal/mol": (
        lambda one: changed(one, energy=KCAL * one.energy, forces=KCAL * one.forces),
        "give --energy-unit kcal/mol",
    ),
    "per atom": (lambda one: changed(one, energy=one.energy / 9), "energies are per atom"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_refused(ethanol, name):
    plant, words = PLANTED[name]
    found = check_labels(plant(ethanol))
    assert found.wrong
    text = "; ".join(found.wrong)
    assert "\n" not in text
    with pytest.raises(ValueError, match=words):
        raise ValueError(text)
    assert not check_labels(plant(ethanol), OFF).wrong


def test_bohr_and_hartree_per_bohr_are_a_note(ethanol):
    # slope and stiffness are those of another set that might exist
    bohr = changed(ethanol, positions=BOHR * ethanol.positions, forces=ethanol.forces / BOHR)
    found = check_labels(bohr)
    assert not found.wrong
    assert any("bohr were read as Angstrom" in note for note in found.notes)


@pytest.mark.parametrize("mode", ["sample", ALL])
def test_correct_labels_raise_no_alarm(ethanol, mode):
    found = check_labels(ethanol, mode)
    assert not found.wrong
    assert not found.notes
    assert any("times the work of the forces" in fact for fact in found.facts)


def test_a_sign_is_seen_where_no_frame_is_near_another(ethanol):
    # every frame in an order of atoms of its own: no pairs, but bonds are stiff
    rng = np.random.default_rng(1)
    order = np.concatenate([start + rng.permutation(9) for start in ethanol.offsets[:-1]])
    mixed = changed(
        ethanol,
        atomic_numbers=ethanol.atomic_numbers[order],
        positions=ethanol.positions[order],
        forces=ethanol.forces[order],
    )
    assert not check_labels(mixed).wrong
    assert "stretch long bonds" in check_labels(changed(mixed, forces=-mixed.forces)).wrong[0]
    kcal = changed(mixed, forces=KCAL * mixed.forces)
    assert "in kcal/mol per Angstrom" in check_labels(kcal).wrong[0]


def springs(count: int, periodic: bool) -> Structures:
    """Atoms on springs around a lattice: energy and forces are exact."""
    rng = np.random.default_rng(2)
    rest = 3.0 * np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3)
    moved = 0.1 * rng.standard_normal((count, 8, 3))
    cell = np.tile(6.0 * np.eye(3), (count, 1, 1))
    images = rng.integers(-1, 2, (count, 8, 3)) * 6.0 * periodic
    return Structures(
        atomic_numbers=np.tile([11, 17], 4 * count),
        positions=(rest + moved + images).reshape(-1, 3),
        counts=np.full(count, 8),
        energy=5 * (moved**2).sum((1, 2)) - 100,
        forces=-10 * moved.reshape(-1, 3),
        cell=cell if periodic else None,
        periodic=np.ones((count, 3), bool) if periodic else None,
    )


def test_the_work_is_exact_for_springs_across_images():
    structures = springs(60, periodic=True)
    pairs = near_pairs(structures, np.arange(60))
    assert len(pairs) > 20
    assert np.abs(pairs.change - pairs.work).max() < 1e-10
    assert not check_labels(structures).wrong


def test_the_work_does_not_depend_on_how_open_frames_are_turned(ethanol):
    few = ethanol[:60]
    turns = np.stack([orthogonal(seed).numpy() for seed in range(60)])
    turns *= np.linalg.det(turns)[:, None, None]
    turns = turns[few.structure_of_atom]
    turned = changed(
        few,
        positions=np.einsum("aij,aj->ai", turns, few.positions) + few.structure_of_atom[:, None],
        forces=np.einsum("aij,aj->ai", turns, few.forces),
    )
    frames = np.arange(60)
    before, after = near_pairs(few, frames), near_pairs(turned, frames)
    np.testing.assert_array_equal(before.second, after.second)
    np.testing.assert_allclose(before.work, after.work, atol=1e-9)
    np.testing.assert_allclose(before.spread, after.spread, atol=1e-9)


def test_labels_that_are_missing_are_not_compared(ethanol):
    assert not check_labels(changed(ethanol, forces=None)).wrong
    nothing = check_labels(changed(ethanol, forces=None, energy=None))
    assert nothing.facts
    assert not nothing.wrong + nothing.notes


def test_preprocessing_refuses_and_names_the_file(tmp_path, ethanol, capsys):
    file = tmp_path / "up.npz"
    write_structures(file, changed(ethanol[:100], forces=-ethanol[:100].forces))
    arguments = ["--file", str(file), "--out", str(tmp_path / "data")]
    with pytest.raises(ValueError, match=r"wrong sign.* of up.npz .*--check-labels off"):
        preprocess_md17.main(arguments)
    assert not (tmp_path / "data" / "split.npz").exists()

    assert "labels: energies follow -0.8" in capsys.readouterr().out
    preprocess_md17.main([*arguments, "--check-labels", "off"])
    assert (tmp_path / "data" / "split.npz").exists()
    assert "labels: " not in capsys.readouterr().out
