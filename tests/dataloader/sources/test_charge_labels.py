"""Charges, dipoles and total charges of files: found by their names in npz and extended xyz alike,
about the centroid wherever the file has its origin, and left out or refused where they cannot be
right.
"""

import ase.io
import numpy as np
import pytest
from ase import Atoms

from farfield.dataloader.sources.own_files import OwnFiles
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import LENGTH_UNITS
from tests.support.molecule_data import random_structures

SIZES = (3, 5, 1, 4)
TOTAL = np.array([1.0, -1.0, 0.0, 2.0])
RNG = np.random.default_rng(5)
ORIGIN = 10 * RNG.standard_normal((4, 3))  # of each structure


def charged() -> tuple[Structures, np.ndarray]:
    """Structures anywhere in space, and charges that sum up to the total charges."""
    structures = random_structures(SIZES)
    structures.positions += np.repeat(ORIGIN, SIZES, 0)
    charges = np.random.default_rng(1).standard_normal(sum(SIZES))
    sums = np.bincount(structures.structure_of_atom, charges)
    charges += ((TOTAL - sums) / structures.counts)[structures.structure_of_atom]
    return structures, charges


def dipoles(structures: Structures, charges: np.ndarray, centred: bool) -> np.ndarray:
    """sum q r, structure by structure (the reference)."""
    found = []
    for first, last in zip(structures.offsets[:-1], structures.offsets[1:], strict=True):
        places = structures.positions[first:last]
        arms = places - places.mean(0) if centred else places
        found.append(charges[first:last] @ arms)
    return np.array(found)


def npz_file(folder, length=1.0, **names):
    """A ragged file; names: other names of charges, dipole, total_charge."""
    structures, charges = charged()
    content = {
        "Z": structures.atomic_numbers,
        "R": structures.positions / length,
        "E": structures.energy,
        "F": structures.forces * length,
        "n_atoms": structures.counts,
        names.get("charges", "q"): charges,
        names.get("dipole", "dipole"): dipoles(structures, charges, centred=False) / length,
        names.get("total_charge", "charge"): TOTAL,
    }
    np.savez(folder / "set.npz", **content)
    return folder / "set.npz"


def xyz_file(folder, length=1.0, **names):
    """The same as extended xyz."""
    structures, charges = charged()
    moments = dipoles(structures, charges, centred=False) / length
    frames = []
    for index in range(len(structures)):
        one = structures[index]
        atoms = Atoms(one.atomic_numbers, one.positions / length)
        rows = slice(structures.offsets[index], structures.offsets[index + 1])
        atoms.info["REF_energy"] = one.energy[0]
        atoms.arrays["REF_forces"] = one.forces * length
        atoms.arrays[names.get("charges", "initial_charges")] = charges[rows]
        atoms.info[names.get("dipole", "REF_dipole")] = moments[index]
        atoms.info[names.get("total_charge", "charge")] = TOTAL[index]
        frames.append(atoms)
    ase.io.write(folder / "set.xyz", frames, format="extxyz")
    return folder / "set.xyz"


WRITERS = {"npz": npz_file, "xyz": xyz_file}
OWN = {"charges": "my_q", "dipole": "my_mu", "total_charge": "my_Q"}
KEYS = {f"{quantity}_key": name for quantity, name in OWN.items()}


def read(path, **options) -> Structures:
    source = OwnFiles(file=str(path), **options)
    source.check()
    return source.read(path, lambda count: None)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("names", [{}, OWN], ids=["usual names", "own names"])
@pytest.mark.parametrize("unit", ["Angstrom", "bohr"])
def test_labels_come_back_about_the_centroid(tmp_path, write, names, unit):
    path = write(tmp_path, LENGTH_UNITS[unit], **names)
    found = read(path, length_unit=unit, **(KEYS if names else {}))
    structures, charges = charged()
    np.testing.assert_allclose(found.charges, charges, atol=1e-7)
    expected = dipoles(structures, charges, centred=True)
    np.testing.assert_allclose(found.dipole, expected, atol=1e-5)
    total = found.extra["total_charge" if names else "charge"]
    assert total.tolist() == TOTAL.tolist()

    # one line says it, and a name that became an input is not there twice
    said = [line for line in found.remarks if line.startswith("read charges ")]
    assert "moved by the total charge" in said[0] and said[0].endswith("total charge (-1 to 2 e)")
    assert "my_Q" not in found.extra


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_without_a_total_charge_the_charges_say_it(tmp_path, write):
    found = read(write(tmp_path, total_charge="unread"))
    np.testing.assert_allclose(found.dipole, dipoles(*charged(), centred=True), atol=1e-5)
    alone = read(write(tmp_path, total_charge="unread"), charges_key="absent")
    np.testing.assert_allclose(alone.dipole, dipoles(*charged(), centred=False), atol=1e-5)
    assert alone.charges is None
    assert any("taken as neutral" in line for line in alone.remarks)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_other_names_are_left_alone(tmp_path, write):
    found = read(write(tmp_path, **OWN))
    assert found.charges is None and found.dipole is None
    assert (
        found.data_hash
        == read(write(tmp_path), charges_key="absent", dipole_key="absent").data_hash
    )


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("quantity", OWN)
def test_a_given_name_must_be_there(tmp_path, write, quantity):
    path = write(tmp_path)
    flag = f"--{quantity.replace('_', '-')}-key"
    with pytest.raises(ValueError, match=f"set.*'nothing'.*{flag}") as error:
        read(path, **{f"{quantity}_key": "nothing"})
    assert "\n" not in str(error.value)


def test_a_fixed_file_has_charges_for_each_frame(tmp_path):
    frames = random_structures((4, 4, 4))
    charges = np.arange(12.0) / 10
    content = {
        "z": [6, 1, 8, 1],
        "R": frames.positions.reshape(3, 4, 3),
        "E": frames.energy,
        "F": frames.forces.reshape(3, 4, 3),
    }
    np.savez(
        tmp_path / "set.npz", **content, charges=charges.reshape(3, 4), total_charge=np.array(1)
    )
    found = read(tmp_path / "set.npz")
    assert found.charges.tolist() == charges.tolist()
    assert found.extra["total_charge"].tolist() == [1, 1, 1]


def content_with(**more) -> dict:
    structures, _ = charged()
    content = {"Z": structures.atomic_numbers, "R": structures.positions, "E": structures.energy}
    return content | {"F": structures.forces, "n_atoms": structures.counts} | more


CANNOT_BE = [
    ("charges", np.arange(4.0), "shape .4,., .13,. is a charge for each atom"),
    ("charges", np.array([np.nan] * 13), "must be finite numbers"),
    ("charges", np.array(["a"] * 13), "must be finite numbers"),
    ("charges", charged()[0].atomic_numbers, "it holds the atomic numbers"),
    ("dipole", np.arange(4.0), r"shape \(4,\), \(4, 3\) is a dipole for each structure"),
]


@pytest.mark.parametrize(("quantity", "values", "reason"), CANNOT_BE)
def test_what_cannot_be_a_label_is_left_out_or_refused(tmp_path, quantity, values, reason):
    """A usual name may mean something else; a name that the user gives does not."""
    np.savez(tmp_path / "set.npz", **content_with(**{quantity: values}))
    found = read(tmp_path / "set.npz")
    assert getattr(found, quantity) is None
    (remark,) = found.remarks
    assert remark.startswith(f"note: '{quantity}' is not read as {quantity}: ")
    with pytest.raises(ValueError, match=f"'{quantity}' cannot be read as {quantity}: .*{reason}"):
        read(tmp_path / "set.npz", **{f"{quantity}_key": quantity})


def test_frames_without_a_label_leave_it_out(tmp_path):
    frames = ase.io.read(xyz_file(tmp_path), ":")
    del frames[2].info["REF_dipole"]
    ase.io.write(tmp_path / "set.xyz", frames, format="extxyz")
    found = read(tmp_path / "set.xyz")
    assert found.dipole is None and found.charges is not None
    assert any("'REF_dipole' is not read as dipole" in line for line in found.remarks)


def test_charges_of_another_total_charge_are_named(tmp_path):
    _, charges = charged()
    charges[-1] += 0.2
    np.savez(tmp_path / "set.npz", **content_with(q=charges, charge=TOTAL))
    remarks = read(tmp_path / "set.npz").remarks
    assert "note: the charges of structure 3 sum up to 2.2 e, its total charge is 2 e" in remarks


def test_a_cell_of_all_structures(tmp_path):
    """Lengths of the file; a dipole loses its meaning."""
    path = npz_file(tmp_path, LENGTH_UNITS["bohr"])
    found = read(path, length_unit="bohr", cell="60,70,80")
    expected = np.diag([60, 70, 80]) * LENGTH_UNITS["bohr"]
    assert found.periodic.all() and np.allclose(found.cell, expected)
    assert found.dipole is None and found.charges is not None
    assert np.allclose(
        read(path, length_unit="bohr", cell="60").cell[3], np.diag(expected)[0] * np.eye(3)
    )

    np.savez(tmp_path / "boxed.npz", **content_with(cell=np.tile(20 * np.eye(3), (4, 1, 1))))
    with pytest.raises(ValueError, match="boxed.npz has cells of its own; leave --cell out"):
        read(tmp_path / "boxed.npz", periodic=True, cell="30")
    assert np.allclose(read(tmp_path / "boxed.npz", periodic=False, cell="30").cell, 30 * np.eye(3))


@pytest.mark.parametrize("text", ["", "0", "30,30", "a", "inf", "30,30,-1"])
def test_a_cell_that_is_none_is_one_line(tmp_path, text):
    with pytest.raises(ValueError, match="--cell must be one or three lengths > 0"):
        read(npz_file(tmp_path), cell=text)


def test_a_dipole_of_a_periodic_structure_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--dipole-key dipole: the dipole of a periodic structure"):
        read(npz_file(tmp_path), cell="30", dipole_key="dipole")


def test_folders_that_were_made_before_stay_good():
    """What a folder was made with has no new words unless a new option is given."""
    assert set(OwnFiles(file="a.npz").words) == {"units", "keys", "stress_key", "periodic"}
    assert OwnFiles(file="a.npz").words["keys"] == {}
    assert OwnFiles(file="a.npz", cell="30").words["cell"] == "30"
    assert OwnFiles(file="a.npz", charges_key="q").words["keys"] == {"charges": "q"}
