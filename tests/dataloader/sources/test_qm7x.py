"""QM7-X: the files as they are published, selection, duplicates, and files that are not right."""

import lzma
import sys

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from farfield.dataloader.sources import qm7x
from farfield.dataloader.sources.qm7x import QM7X
from farfield.dataloader.structures import Structures
from tests.support.qm7x_data import labels_of, small_molecules, turned, write_qm7x, write_structure


def nothing(count):
    """Progress that nobody looks at."""


def taken(folder, **options) -> tuple[Structures, str]:
    """Structures that the source takes of the files 1000 and 2000, and its remarks."""
    sets = ",".join(sorted(path.stem for path in folder.glob("*.hdf5")))
    source = QM7X(data_path=str(folder), sets=sets, **options)
    everything = Structures.concatenate([source.read(path, nothing) for path in source.paths])
    kept, remarks = source.select(everything)
    return everything[kept], "\n".join(remarks)


def test_a_file_is_read_as_it_is(tmp_path):
    molecules = small_molecules(4)
    molecules["Geom-m2-i1-c10"], molecules["Geom-m2-i1-c9"] = molecule("H2O"), molecule("H2O")
    write_qm7x(tmp_path / "1000.hdf5", molecules, displaced=11)
    counted = []
    found = QM7X(data_path=str(tmp_path), kind="all").read(tmp_path / "1000.hdf5", counted.append)
    assert len(found) == sum(counted) == 6 * 12

    # in the order of numbers, not of letters
    assert found.names[:3].tolist() == [f"Geom-m1-i1-c1-{step}" for step in ("opt", "d1", "d2")]
    assert found.extra["displaced"][:12].tolist() == list(range(12))
    assert found.extra["conformer"][12:48:12].tolist() == [1, 9, 10]
    assert sorted(set(found.extra["molecule"].tolist())) == [1, 2, 3, 4]

    hydrogen_cyanide = found[list(found.names).index("Geom-m4-i1-c1-opt")]
    expected = labels_of(molecule("HCN"))
    pairs = {
        "atNUM": hydrogen_cyanide.atomic_numbers,
        "atXYZ": hydrogen_cyanide.positions,
        "ePBE0+MBD": hydrogen_cyanide.energy,
        "totFOR": hydrogen_cyanide.forces,
        "hCHG": hydrogen_cyanide.charges,
        "vDIP": hydrogen_cyanide.dipole[0],
    }
    for label, values in pairs.items():
        assert np.array_equal(values, expected[label]), label
    assert found.theory == "PBE0+MBD (QM7-X)"


def test_relaxed_and_displaced_structures_can_be_chosen(tmp_path):
    write_qm7x(tmp_path / "1000.hdf5", small_molecules(3), displaced=5)
    for options, steps in (
        ({}, {0}),
        ({"kind": "displaced"}, {1, 2, 3, 4, 5}),
        ({"kind": "displaced", "displaced": 2}, {1, 2}),
        ({"kind": "all", "displaced": 1}, {0, 1}),
    ):
        found, _ = taken(tmp_path, **options)
        assert set(found.extra["displaced"].tolist()) == steps
        assert len(found) == 3 * len(steps)


def test_labels_that_a_file_lacks_are_not_read(tmp_path):
    with h5py.File(tmp_path / "1000.hdf5", "w") as file:
        write_structure(file.create_group("1"), "Geom-m1-i1-c1-opt", molecule("CH4"), hCHG=None)
    found, _ = taken(tmp_path)
    assert found.charges is None and found.dipole is not None


@pytest.fixture
def doubled(tmp_path):
    """Two files: molecule 3 of the second is molecule 1 of the first, turned; 4 is mirrored."""
    rng = np.random.default_rng(0)
    chiral = Atoms(
        "CHClSN", [(0, 0, 0), (0.6, 0.6, 0.6), (-1, -1, 1), (-1.1, 1.1, -1.1), (0.9, -0.9, -0.9)]
    )
    mirrored = Atoms(chiral.numbers, chiral.positions * (1, 1, -1))
    first = {"Geom-m1-i1-c1": chiral, "Geom-m2-i1-c1": molecule("CH4")}
    second = {"Geom-m3-i1-c2": turned(chiral, rng), "Geom-m4-i1-c1": turned(mirrored, rng)}
    write_qm7x(tmp_path / "1000.hdf5", first)
    write_qm7x(tmp_path / "2000.hdf5", second)
    return tmp_path


def test_what_occurs_twice_is_left_out_with_what_is_displaced_from_it(doubled):
    for kind, each in (("equilibrium", 1), ("displaced", 2), ("all", 3)):
        found, remarks = taken(doubled, kind=kind)
        assert found.extra["molecule"].tolist() == np.repeat([1, 2, 4], each).tolist()
        assert "0 relaxed structures of DupMols.dat, 1 with the geometry of another" in remarks
        assert "DupMols.dat is not there; duplicates are known by geometry alone" in remarks
    assert len(taken(doubled, keep_duplicates=True)[0]) == 4


def test_the_published_list_is_followed(doubled):
    (doubled / "DupMols.dat").write_text("Geom-m2-i1-c1-opt\nGeom-m1-i1-c1-opt\n")
    found, remarks = taken(doubled, kind="all")
    assert set(found.extra["molecule"].tolist()) == {3, 4}  # the copy of 1 is not one any more
    assert "2 relaxed structures of DupMols.dat, 0 with" in remarks and "not there" not in remarks

    (doubled / "DupMols.dat").write_text("<html>moved</html>")
    with pytest.raises(ValueError, match=r"DupMols.dat must hold names like .* got '<html>moved"):
        taken(doubled)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sets": "1000,1000"}, "--sets must be different ones of 1000,2000,"),
        ({"sets": "9000"}, "--sets must be different ones .* got '9000'"),
        ({"displaced": 3}, "--displaced 3 is for displaced structures; give --kind all"),
        ({"displaced": 101, "kind": "all"}, r"--displaced must be in 1 \.\. 100, got 101"),
        ({"kind": "relaxed"}, "kind.*equilibrium"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ValueError, match=words):
        QM7X(**options)


def refused(folder, words: str, **changes):
    """A file whose only structure has other data sets is refused with ``words``, in one line."""
    path = folder / "1000.hdf5"
    with h5py.File(path, "w") as file:
        write_structure(file.create_group("1"), "Geom-m1-i1-c1-opt", molecule("CH4"), **changes)
    with pytest.raises(ValueError, match=words) as caught:
        taken(folder)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


CASES = {
    "missing": ({"totFOR": None}, "Geom-m1-i1-c1-opt has no data set totFOR"),
    "no numbers": ({"atNUM": None}, "has no data set atNUM"),
    "fluorine": ({"atNUM": [9, 1, 1, 1, 1]}, r"unknown element F \(Z = 9\), QM7-X has H, C, N, O"),
    "no element": ({"atNUM": [0, 1, 1, 1, 1]}, r"unknown element X \(Z = 0\)"),
    "beyond": ({"atNUM": [6, 1, 1, 1, 700]}, r"unknown element without a name \(Z = 700\)"),
    "negative": ({"atNUM": [6, 1, 1, 1, -1]}, r"unknown element .*\(Z = -1\)"),
    "half": ({"atNUM": [6, 1, 1, 1, 1.5]}, r"unknown element .*\(Z = 1.5\)"),
    "short": ({"totFOR": np.zeros((4, 3))}, r"totFOR has the shape \(4, 3\), it must be \(5, 3\)"),
    "energies": ({"ePBE0+MBD": 1.0}, r"ePBE0\+MBD has the shape \(\), it must be \(1,\)"),
    "words": ({"atXYZ": ["C", "H"]}, "atXYZ must be numbers"),
    "not finite": ({"atXYZ": np.full((5, 3), np.nan)}, "positions of structure 0 are not finite"),
    "large": ({"atNUM": np.ones(24, int)}, r"atNUM has the shape \(24,\), it must be \(atoms,\)"),
}


@pytest.mark.parametrize("case", CASES)
def test_structures_that_cannot_be_of_qm7x(case, tmp_path):
    changes, words = CASES[case]
    refused(tmp_path, words, **changes)


def test_a_promise_of_a_huge_array_is_not_believed(tmp_path):
    with h5py.File(tmp_path / "1000.hdf5", "w") as file:
        group = file.create_group("1/Geom-m1-i1-c1-opt")
        group.create_dataset("atNUM", shape=(10**13,), dtype="i8", chunks=(1024,))
    with pytest.raises(ValueError, match=r"atNUM has the shape \(10000000000000,\), it must be"):
        taken(tmp_path)


def test_groups_and_names_that_are_wrong(tmp_path):
    path = tmp_path / "1000.hdf5"
    for make, words in (
        (lambda file: file.create_dataset("1", data=[1]), "/1 is not the group of a molecule"),
        (
            lambda file: file.create_group("1/Geom-m1-i1-c1-d0"),
            "/1/Geom-m1-i1-c1-d0 must be named like",
        ),
        (lambda file: file.create_group("1/Geom-x"), "/1/Geom-x must be named like Geom-m1-i1-c1"),
        (
            lambda file: file.create_dataset("1/Geom-m1-i1-c1-opt", data=[1]),
            "Geom-m1-i1-c1-opt has no data set atNUM",
        ),
        (lambda file: None, "it holds no structure that was asked for"),
    ):
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(ValueError, match=words):
            taken(tmp_path)


def test_damaged_files(tmp_path):
    path = write_qm7x(tmp_path / "1000.hdf5", small_molecules(3))
    whole = path.read_bytes()
    for content in (b"", b"<html>", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"1000.hdf5 is damaged or no HDF5 file .* remove it"):
            taken(tmp_path)

    # any bytes may be wrong: other numbers that could be right, or one line
    rng, errors = np.random.default_rng(0), 0
    for _ in range(60):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole), 8):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            taken(tmp_path)
        except ValueError as error:
            errors += 1
            assert "1000.hdf5" in str(error) and "\n" not in str(error)
    assert errors > 5


def test_without_h5py_the_message_says_what_to_type(tmp_path, monkeypatch):
    write_qm7x(tmp_path / "1000.hdf5", small_molecules(1))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match="need h5py, which is missing; type: pip install h5py"):
        taken(tmp_path)


def test_missing_files_are_downloaded_and_unpacked(tmp_path, monkeypatch):
    write_qm7x(tmp_path / "there.hdf5", small_molecules(2))
    asked = []

    def fetch(remote, folder, open_bar):
        asked.append(remote.urls[0])
        path = tmp_path / "raw" / remote.name
        packed = lzma.compress((tmp_path / "there.hdf5").read_bytes())
        path.write_bytes(packed if path.suffix == ".xz" else b"Geom-m1-i1-c1-opt\n")
        return path

    (tmp_path / "raw").mkdir()
    monkeypatch.setattr(qm7x, "fetch", fetch)
    source = QM7X(data_path=str(tmp_path / "raw"), sets="3000")
    source.obtain(None)
    record = "https://zenodo.org/records/4288677/files/"
    assert asked == [f"{record}DupMols.dat?download=1", f"{record}3000.xz?download=1"]
    assert taken(tmp_path / "raw")[0].extra["molecule"].tolist() == [2]
    source.obtain(None)
    assert len(asked) == 2

    # an archive that was cut off leaves nothing that looks like a file of QM7-X
    (tmp_path / "raw" / "3000.hdf5").unlink()
    packed = tmp_path / "raw" / "3000.xz"
    packed.write_bytes(packed.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"3000.xz is damaged .* remove it"):
        qm7x.unpack_xz(packed, tmp_path / "raw" / "3000.hdf5")
    assert not (tmp_path / "raw" / "3000.hdf5").exists()
