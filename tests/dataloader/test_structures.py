"""Sets of structures: subsets are the structures that were asked for, impossible data are refused
in one line.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.label_statistics import Statistics
from farfield.dataloader.reference_energies import fit_references
from farfield.dataloader.structures import Structures, rows_of
from tests.support.molecule_data import random_crystals, random_structures

SIZES = (3, 5, 1, 4, 2)


def pieces(structures: Structures) -> list[tuple]:
    """Each structure by itself, cut out the slow way."""
    ends = np.cumsum(structures.counts)
    return [
        (
            structures.atomic_numbers[end - count : end].tolist(),
            structures.positions[end - count : end].tolist(),
            structures.forces[end - count : end].tolist(),
            structures.energy[index],
            structures.extra["number"][index],
        )
        for index, (end, count) in enumerate(zip(ends, structures.counts, strict=True))
    ]


@settings(max_examples=40, deadline=None)
@given(ids=st.lists(st.integers(-len(SIZES), len(SIZES) - 1), max_size=8))
def test_any_subset_in_any_order(ids):
    whole = random_structures(SIZES)
    alone = pieces(whole)
    assert pieces(whole[ids]) == [alone[index] for index in ids]


def test_slices_are_views_and_masks_select():
    whole = random_structures(SIZES)
    alone = pieces(whole)
    part = whole[1:4]
    assert pieces(part) == alone[1:4]
    assert np.shares_memory(part.positions, whole.positions)
    assert pieces(whole[::-2]) == alone[::-2]
    assert pieces(whole[2]) == [alone[2]]
    assert pieces(whole[5:]) == []
    assert pieces(whole[np.array([True, False, False, True, True])]) == [
        alone[0],
        alone[3],
        alone[4],
    ]
    with pytest.raises(IndexError):
        whole[len(SIZES)]


def test_parts_laid_end_to_end_are_the_whole():
    whole = random_structures(SIZES)
    joined = Structures.concatenate([whole[:2], whole[2:3], whole[3:]])
    assert pieces(joined) == pieces(whole)
    assert joined.data_hash == whole.data_hash


def test_open_and_periodic_together():
    open_ones, crystals = random_structures(), random_crystals()
    with pytest.raises(ValueError, match="set 0 of 2 has no stress, others have; leave it out"):
        Structures.concatenate([open_ones, crystals])
    crystals.stress = None
    joined = Structures.concatenate([open_ones, crystals])
    assert joined.periodic.any(1).tolist() == [False] * 4 + [True] * 3
    assert (joined.cell[:4] == 0).all()
    assert not joined.extra
    dataclasses.replace(joined)  # passes its own check
    with pytest.raises(ValueError, match="no sets of structures"):
        Structures.concatenate([])


def test_hash_sees_every_number_but_no_words():
    whole = random_structures(SIZES)
    for name in ("atomic_numbers", "positions", "forces", "energy"):
        changed = getattr(whole, name).copy()
        changed[-1] += 1
        assert dataclasses.replace(whole, **{name: changed}).data_hash != whole.data_hash
    assert dataclasses.replace(whole, forces=None).data_hash != whole.data_hash
    assert (
        dataclasses.replace(whole, names=np.array(list("abcde")), theory="guess").data_hash
        == whole.data_hash
    )


@pytest.mark.parametrize("make", [random_structures, random_crystals])
def test_file_holds_what_was_saved(tmp_path, make):
    whole = dataclasses.replace(make(), theory="a pair potential")
    whole.save(tmp_path / "set.npz")
    again = Structures.load(tmp_path / "set.npz")
    assert again.data_hash == whole.data_hash
    assert again.theory == whole.theory
    assert set(again.extra) == set(whole.extra)
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"set\.npz is damaged .*; preprocess the data again"):
        Structures.load(tmp_path / "set.npz")


def test_summary_shows_every_label_with_its_unit():
    text = dataclasses.replace(random_structures(), theory="pairs").summary()
    whole = random_structures()
    assert "4 structures of 1 to 5 atoms, H C O, open, labels: pairs" in text
    assert f"mean {whole.energy.mean():14.6f}  std {whole.energy.std():12.6f}" in text
    assert "energy (eV)                      4 values" in text
    assert "forces (eV/Angstrom)            39 values" in text
    assert "3 periodic" in random_crystals().summary()
    assert "stress (eV/Angstrom^3)" in random_crystals().summary()
    assert random_structures()[:0].summary() == "0 structures"


def without_energy(sizes=SIZES) -> Structures:
    """Two labels by name, one of them a vector, one value missing."""
    size = np.linspace(0, 1, len(sizes))
    size[2] = np.nan
    extra = {"dipole": np.arange(3.0 * len(sizes)).reshape(-1, 3), "size": size}
    return dataclasses.replace(random_structures(sizes), energy=None, forces=None, extra=extra)


def test_labels_by_name_follow_their_structures(tmp_path):
    whole = without_energy()
    part = whole[[3, 0, 3]]
    assert part.energy is None
    assert part.extra["dipole"].tolist() == [[9, 10, 11], [0, 1, 2], [9, 10, 11]]
    joined = Structures.concatenate([whole[:2], whole[2:]])
    assert joined.energy is None
    assert joined.data_hash == whole.data_hash
    assert joined.extra["dipole"].shape == (5, 3)
    whole.save(tmp_path / "set.npz")
    again = Structures.load(tmp_path / "set.npz")
    assert again.energy is None
    assert again.data_hash == whole.data_hash
    assert "further labels: dipole (3), size" in whole.summary()
    assert "energy" not in whole.summary()


def test_hash_of_labels_by_name():
    whole = without_energy()
    vectors, size = whole.extra["dipole"], whole.extra["size"]
    assert (
        dataclasses.replace(whole, extra={"size": size, "dipole": vectors}).data_hash
        == whole.data_hash
    )
    for other in (
        {"dipole": vectors + 1, "size": size},
        {"dipole": vectors},
        {"dipole": vectors, "length": size},
    ):
        assert dataclasses.replace(whole, extra=other).data_hash != whole.data_hash
    labelled = random_structures()
    assert (
        dataclasses.replace(labelled, extra={}).data_hash == labelled.data_hash
    )  # beside energies they are no labels


def test_what_needs_energies_says_so():
    labelled, unlabelled = random_structures(SIZES), without_energy()
    message = (
        r"need energies, the 5 structures have none \(only dipole, size\); give data with energies"
    )
    for purpose, call in (
        ("reference energies", fit_references),
        ("batches of energies and forces", lambda s: MoleculeDataset(s, 3.0)),
    ):
        with pytest.raises(ValueError, match=f"{purpose} {message}"):
            call(unlabelled)
    with pytest.raises(ValueError, match=r"have none \(no labels\)"):
        Statistics.of(dataclasses.replace(unlabelled, extra={}), 0)
    with pytest.raises(ValueError, match="set 1 of 2 has no energy, others have"):
        Structures.concatenate([dataclasses.replace(labelled, forces=None), unlabelled])
    flat = dataclasses.replace(unlabelled, extra={"dipole": np.zeros(5)})
    with pytest.raises(
        ValueError, match=r"extra\['dipole'\] has the shapes \(\) and \(3,\) per structure"
    ):
        Structures.concatenate([unlabelled, flat])


NAN = np.full((13, 3), np.nan)
WRONG = [
    ({"forces": NAN}, r"forces of structure 0 are not finite \(\[nan, nan, nan\]\)"),
    ({"energy": np.array([0, 1, np.inf, 0])}, r"energy of structure 2 are not finite \(\[inf\]\)"),
    ({"energy": np.array([0, 1, 0, -1e39])}, r"energy of structure 3 are above 1e\+15 in size"),
    (
        {"energy": np.zeros(3)},
        r"energy must have the shape \(4,\) for 4 structures of 13 atoms, got \(3,\)",
    ),
    (
        {"positions": np.zeros((12, 3))},
        r"positions must have the shape \(13, 3\) .*, got \(12, 3\)",
    ),
    (
        {"atomic_numbers": np.array([1] * 12 + [119])},
        r"atomic numbers must lie in 1 \.\. 118, got 119 in structure 3",
    ),
    (
        {"atomic_numbers": np.array([0] * 13)},
        r"atomic numbers must lie in 1 \.\. 118, got 0 in structure 0",
    ),
    ({"atomic_numbers": np.ones(13)}, "atomic_numbers must be whole numbers, got float64"),
    ({"counts": np.array([3, 5, 0, 5])}, "counts must be a list of numbers >= 1, .* smallest 0"),
    ({"cell": np.ones((4, 3, 3))}, "cell was given without periodic: give both"),
    (
        {"cell": np.zeros((4, 3, 3)), "periodic": np.ones((4, 3), bool)},
        r"structure 0 is periodic along \[True.* do not span these directions",
    ),
    (
        {
            "cell": np.ones((4, 3, 3)),
            "periodic": np.array([[0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 0, 0]]),
        },
        "structure 1 is periodic along",
    ),
    ({"extra": {"charge": np.zeros(5)}}, r"extra\['charge'\] must have the shape \(4,\)"),
    (
        {"extra": {"dipole": np.zeros((3, 4))}},
        r"extra\['dipole'\] must have the shape \(4, 4\) .*, got \(3, 4\)",
    ),
    (
        {"extra": {"charge": np.float64(1)}},
        r"extra\['charge'\] must have the shape \(4,\) .*, got \(\)",
    ),
    ({"extra": {"smiles": np.array(list("CNOF"))}}, r"extra\['smiles'\] must be numbers, got <U1"),
]


@pytest.mark.parametrize(
    "change, message",
    WRONG,
    ids=[next(iter(change)) + str(i) for i, (change, _) in enumerate(WRONG)],
)
def test_what_cannot_be_right_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(random_structures(), **change)


def test_rows_of_ranges():
    assert rows_of(np.array([7, 0, 3]), np.array([2, 0, 3])).tolist() == [7, 8, 3, 4, 5]
    assert rows_of(np.zeros(0, int), np.zeros(0, int)).tolist() == []


@pytest.mark.parametrize("periodic", [(True, True, True), (True, False, True)])
def test_wrapped_atoms_are_in_their_cells_and_see_the_same(periodic):
    crystals = random_crystals(periodic=periodic)
    crystals.positions += 300 * np.repeat(crystals.cell[:, 0], crystals.counts, axis=0)
    wrapped = crystals.wrapped()
    for index in range(len(crystals)):
        rows = slice(crystals.offsets[index], crystals.offsets[index + 1])
        moved = (wrapped.positions[rows] - crystals.positions[rows]) @ np.linalg.inv(
            crystals.cell[index]
        )
        np.testing.assert_allclose(moved, moved.round(), atol=1e-9)
        inside = wrapped.positions[rows] @ np.linalg.inv(crystals.cell[index])
        assert ((inside > -1e-6) & (inside < 1 + 1e-6))[:, np.array(periodic)].all()
    assert random_structures().wrapped().data_hash == random_structures().data_hash
