"""Sets of structures with charges and dipoles: saved, cut and joined; without them, sets keep the
hash that they always had.
"""

import dataclasses

import numpy as np
import pytest
import torch

from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.reference_energies import charge_offsets, fit_references
from farfield.dataloader.storage import files
from farfield.dataloader.structures import ATOM_ARRAYS, STRUCTURE_ARRAYS, Structures
from tests.support.molecule_data import random_crystals, random_structures

SIZES = (3, 5, 1, 4)
ATOMS = sum(SIZES)
UNCHARGED = ("atomic_numbers", "positions", "forces", "counts", "energy", "cell", "periodic")


def charged(**more) -> Structures:
    rng = np.random.default_rng(0)
    labels = {"charges": rng.standard_normal(ATOMS), "dipole": rng.standard_normal((4, 3))}
    labels["extra"] = {"charge": np.array([0.0, 1, -1, 0])}
    return dataclasses.replace(random_structures(SIZES), **labels | more)


def test_sets_without_charges_keep_their_hash():
    """The hash of the arrays that there were before, so that folders made then stay readable."""
    for whole in (random_structures(SIZES), random_crystals()):
        arrays = [getattr(whole, name) for name in (*UNCHARGED, "stress")]
        known = [np.zeros(0) if array is None else array for array in arrays]
        assert whole.data_hash == files.array_checksum(*known)
    assert set(ATOM_ARRAYS + STRUCTURE_ARRAYS) - {*UNCHARGED, "stress", "names"} == {
        "charges",
        "dipole",
    }


def test_hash_sees_charges_and_dipoles():
    whole = charged()
    hashes = {whole.data_hash, charged(charges=None).data_hash, charged(dipole=None).data_hash}
    hashes |= {charged(charges=2 * whole.charges).data_hash, random_structures(SIZES).data_hash}
    hashes |= {charged(dipole=2 * whole.dipole).data_hash}
    assert len(hashes) == 6


def test_charges_follow_their_structures(tmp_path):
    whole = charged()
    part = whole[[3, 0]]
    assert part.charges.tolist() == [*whole.charges[9:].tolist(), *whole.charges[:3].tolist()]
    assert part.dipole.tolist() == whole.dipole[[3, 0]].tolist()

    whole.save(tmp_path / "set.npz")
    again = Structures.load(tmp_path / "set.npz")
    assert again.data_hash == whole.data_hash
    assert again.charges.tolist() == whole.charges.tolist()
    both = Structures.concatenate([whole[:2], whole[2:]])
    assert both.data_hash == whole.data_hash
    assert "charges (e)" in whole.summary() and "dipole (e Angstrom)" in whole.summary()


def test_charges_that_some_sets_lack_are_left_out():
    joined = Structures.concatenate([charged(), charged(charges=None)])
    assert joined.charges is None and len(joined.dipole) == 8
    assert Structures.concatenate([charged(), random_structures(SIZES)]).dipole is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"charges": np.zeros(4)}, r"charges must have the shape \(13,\) .*, got \(4,\)"),
        ({"charges": np.array([*[0.0] * 5, np.inf, *[0.0] * 7])}, "charges of structure 1 are not"),
        ({"dipole": np.zeros(4)}, r"dipole must have the shape \(4, 3\)"),
        (
            {"cell": np.tile(9 * np.eye(3), (4, 1, 1)), "periodic": np.ones((4, 3), bool)},
            "the dipole of a periodic structure depends on the choice of its cell",
        ),
    ],
)
def test_charges_that_cannot_be_right_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        charged(**change)


def test_batches_hold_charges_dipoles_and_optional_inputs():
    whole = charged()
    dataset = MoleculeDataset(whole, 4.0, optional_inputs=["total_charge", "spin"])
    batch = dataset[[3, 1]]
    expected = np.concatenate([whole.charges[9:], whole.charges[3:8]]).astype(np.float32)
    assert batch.labels["charges"].tolist() == expected.tolist()
    assert batch.labels["dipole"].tolist() == whole.dipole[[3, 1]].astype(np.float32).tolist()
    assert set(batch.graph_features) == {"total_charge"}
    assert batch.graph_features["total_charge"].tolist() == [0, 1]

    # what is asked for anyway is there once, and nothing where the data have nothing
    both = MoleculeDataset(whole, 4.0, inputs=["total_charge"], optional_inputs=["total_charge"])
    assert torch.equal(both[[1]].graph_features["total_charge"], torch.tensor([1.0]))
    none = MoleculeDataset(random_structures(SIZES), 4.0, optional_inputs=["total_charge"])
    assert not none[[0]].graph_features and "charges" not in none[[0]].labels


def test_a_total_charge_that_only_some_have_is_refused():
    wrong = charged(extra={"total_charge": np.array([0.0, 1, np.nan, 0])})
    with pytest.raises(ValueError, match="'total_charge' must be one finite number for each"):
        MoleculeDataset(wrong, 4.0, optional_inputs=["total_charge"])


def test_unpaired_electrons_are_a_spin_and_not_the_other_way_round():
    """spin may be a multiplicity, uhf is not."""
    dataset = MoleculeDataset(charged(extra={"uhf": np.arange(4)}), 4.0, inputs=["spin"])
    assert dataset[[2]].graph_features["spin"].tolist() == [2]
    with pytest.raises(ValueError, match="the structures have no 'uhf'"):
        MoleculeDataset(charged(extra={"spin": np.arange(4)}), 4.0, inputs=["uhf"])


def test_what_a_charge_costs_beyond_the_references():
    """One composition in two charges: the elements share the mean, the rest is the charge's."""
    numbers, count = [8, 1, 1], 6
    charges = np.array([1.0, -1, 1, -1, 1, -1])
    structures = Structures(
        np.tile(numbers, count),
        np.zeros((18, 3)),
        np.full(count, 3),
        energy=-100 + 4 * charges,
        extra={"charge": charges},
    )
    references = fit_references(structures)
    assert sum(references[number] for number in numbers) == pytest.approx(-100)
    assert charge_offsets(structures, references) == pytest.approx({-1.0: -4.0, 1.0: 4.0})
    assert charge_offsets(structures[::2], references) == {}
    assert charge_offsets(dataclasses.replace(structures, extra={}), references) == {}
