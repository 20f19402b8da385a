"""Pairs of near frames and the work between them, against the formulas of the module."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from farfield.dataloader.near_frames import FramePairs, near_pairs, same_atoms
from farfield.dataloader.structures import Structures

FRAMES, ATOMS = 12, 5


def frames(periodic: tuple[bool, ...] | None = None) -> Structures:
    """Frames in six groups of two that are near each other; energies and forces are random."""
    rng = np.random.default_rng(3)
    base = np.repeat(rng.uniform(0, 4, (FRAMES // 2, ATOMS, 3)), 2, axis=0)
    positions = base + 0.05 * rng.standard_normal(base.shape)
    cell = np.array([[5.0, 0, 0], [1, 5.5, 0], [0, 1, 6]])
    repeats = None if periodic is None else np.tile(periodic, (FRAMES, 1))
    if periodic is not None:
        images = rng.integers(-2, 3, base.shape) * np.array(periodic)
        positions = positions + images @ cell
    return Structures(
        atomic_numbers=np.tile([1, 6, 8, 1, 1], FRAMES),
        positions=positions.reshape(-1, 3),
        counts=np.full(FRAMES, ATOMS),
        energy=rng.standard_normal(FRAMES),
        forces=rng.standard_normal((FRAMES * ATOMS, 3)),
        cell=None if periodic is None else np.tile(cell, (FRAMES, 1, 1)),
        periodic=repeats,
    )


def rows_of(structures: Structures, frame: int) -> slice:
    return slice(structures.offsets[frame], structures.offsets[frame + 1])


def check_pairs(structures: Structures, pairs: FramePairs, moved_and_turned):
    """Every row of ``pairs`` against its definition."""
    for index, (first, second) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        one, other = rows_of(structures, first), rows_of(structures, second)
        moved, turned = moved_and_turned(first, one, other)
        at_first, at_second = -(structures.forces[one] * moved).sum(), -(turned * moved).sum()
        change = structures.energy[second] - structures.energy[first]
        expected = {
            "change": change,
            "work": (at_first + at_second) / 2,
            "spread": abs(at_second - at_first) / 2,
            "farthest": np.linalg.norm(moved, axis=1).max(),
        }
        for name, value in expected.items():
            assert getattr(pairs, name)[index] == pytest.approx(value, abs=1e-9)


def couples(pairs: FramePairs) -> list[tuple[int, int]]:
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def test_work_of_open_frames_after_the_best_turn():
    structures = frames()
    pairs = near_pairs(structures, np.arange(FRAMES))
    assert couples(pairs) == [(frame, frame + 1) for frame in range(0, FRAMES, 2)]

    def best_turn(first, one, other):
        target = structures.positions[one] - structures.positions[one].mean(0)
        source = structures.positions[other] - structures.positions[other].mean(0)
        turn, _ = Rotation.align_vectors(target, source)
        return turn.apply(source) - target, turn.apply(structures.forces[other])

    check_pairs(structures, pairs, best_turn)


@pytest.mark.parametrize("periodic", [(True, True, True), (True, False, True)])
def test_work_of_periodic_frames_between_nearest_images(periodic):
    structures = frames(periodic)
    pairs = near_pairs(structures, np.arange(FRAMES))
    assert couples(pairs) == [(frame, frame + 1) for frame in range(0, FRAMES, 2)]

    def nearest_image(first, one, other):
        moved = structures.positions[other] - structures.positions[one]
        cell = structures.cell[first]
        # frames of a pair are much nearer than half a cell
        shift = np.round(moved @ np.linalg.inv(cell)) * np.array(periodic)
        return moved - shift @ cell, structures.forces[other]

    check_pairs(structures, pairs, nearest_image)


def test_frames_in_other_cells_have_no_work():
    structures = frames((True, True, True))
    cell = structures.cell * np.where(np.arange(FRAMES) == 3, 1 + 1e-5, 1.0)[:, None, None]
    stretched = dataclasses.replace(structures, cell=cell)
    pairs = near_pairs(stretched, np.arange(FRAMES))
    assert couples(pairs) == [(frame, frame + 1) for frame in (0, 4, 6, 8, 10)]


def test_other_elements_charges_spins_and_cells_are_other_atoms():
    structures = frames()
    numbers = structures.atomic_numbers.copy()
    numbers[rows_of(structures, 1)] = [6, 1, 8, 1, 1]
    charge, spin = np.zeros(FRAMES), np.ones(FRAMES)
    charge[2], spin[3] = 1, 2
    other = dataclasses.replace(
        structures, atomic_numbers=numbers, extra={"total_charge": charge, "spin": spin}
    )
    groups = [group.tolist() for group in same_atoms(other, np.arange(5))]
    assert groups == [[0, 4], [1], [2], [3]]

    # a frame that is alone has no pair
    pairs = near_pairs(other, np.arange(4))
    assert len(pairs) == 0 and pairs.first.dtype.kind == "i"
    assert (4, 5) in couples(near_pairs(other, np.array([0, 4, 5, 1])))


def test_a_mask_keeps_pairs():
    pairs = near_pairs(frames(), np.arange(FRAMES))
    kept = pairs.where(pairs.change > 0)
    assert 0 < len(kept) < len(pairs) and (kept.change > 0).all()
    assert len(FramePairs.joined([pairs, kept])) == len(pairs) + len(kept)
