"""preprocess_structures: files of the user, any source by its name, splits that suit any set."""

import dataclasses

import numpy as np
import pytest

from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.prepared_folder import load_statistics
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.splits import Split
from farfield.dataloader.structures import Structures
from farfield.preprocess import preprocess_structures
from farfield.preprocess.preprocess_structures import main
from tests.support.molecule_data import random_structures, write_structures
from tests.support.processes import run_script


def own(path, sizes, seed=0):
    """Write a file of the user; gives back its structures."""
    structures = random_structures(sizes, seed)
    write_structures(path, structures)
    return structures


def lengths(folder) -> list[int]:
    return [len(MoleculeDataset.open(folder, name)) for name in SPLITS]


@pytest.mark.parametrize(
    ("count", "given", "expected"),
    [
        (3, [], [1, 1, 1]),
        (50, [], [40, 5, 5]),
        (50, ["--train", "30", "--val", "4"], [30, 4, 16]),
        (50, ["--split", "time"], [40, 5, 5]),
    ],
)
def test_a_file_of_any_size_is_divided(tmp_path, count, given, expected):
    own(tmp_path / "mine.xyz", (2,) * count)
    main([str(tmp_path / "mine.xyz"), *given, "--out", str(tmp_path / "out")])
    assert lengths(tmp_path / "out") == expected


@pytest.mark.parametrize(("elements", "alone"), [((6,), True), ((1, 6, 8), False)])
def test_references_that_the_data_leave_open_are_named(tmp_path, capsys, elements, alone):
    write_structures(tmp_path / "mine.xyz", random_structures((3,) * 30, elements=elements))
    main([str(tmp_path / "mine.xyz"), "--out", str(tmp_path / "out")])
    assert ("note: one composition: only energy diff" in capsys.readouterr().out) == alone


def test_the_script_reads_extended_xyz_in_a_process_of_its_own(tmp_path):
    own(tmp_path / "mine.xyz", (2,) * 10)
    done = run_script(preprocess_structures.__file__, "mine.xyz", "--out", "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mine.xyz: 10 structures, energy in eV" in done.stdout
    assert "  labels energy 'energy', forces 'forces'" in done.stdout
    assert "frames" not in done.stderr, "a file that is read in no time shows no bar"
    assert lengths(tmp_path / "out") == [8, 1, 1]


def test_files_with_and_without_the_option_are_the_same(tmp_path):
    own(tmp_path / "a.npz", (3, 4, 2, 5), seed=1)
    own(tmp_path / "b.npz", (6, 2), seed=2)
    names = [str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]
    main([*names, "--out", str(tmp_path / "out")])
    main(["--file", ",".join(names), "--out", str(tmp_path / "out")])  # used again
    for twice in ([names[0], "--file", names[1]], ["--file", names[1], names[0]]):
        with pytest.raises(ValueError, match="files are given twice, with --file and without"):
            main([*twice, "--out", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="no file of structures was given; name extended xyz"):
        main(["--out", str(tmp_path / "new")])


@pytest.mark.parametrize("suffix", ["npz", "xyz"])
def test_test_files_are_the_test_split(tmp_path, suffix, capsys):
    first, second, test = (tmp_path / f"{name}.{suffix}" for name in "abt")
    own(first, (3, 4, 2, 5), seed=1)
    own(second, (6, 2), seed=2)
    expected = own(test, (8, 9), seed=3)
    options = ["--test-file", str(test), "--val", "2", "--out", str(tmp_path / "out")]
    main([str(first), str(second), *options])

    assert lengths(tmp_path / "out") == [4, 2, 2]
    found = MoleculeDataset.open(tmp_path / "out", "test").structures
    np.testing.assert_allclose(found.positions, expected.positions, atol=1e-7)
    np.testing.assert_allclose(found.energy, expected.energy, atol=1e-7)
    shown = capsys.readouterr().out
    assert f"{test}: 2 structures, energy in eV, length in Angstrom, forces in eV/Angstrom" in shown
    if suffix == "npz":  # structures without names have those of their files
        parts = [MoleculeDataset.open(tmp_path / "out", name).structures.names for name in SPLITS]
        assert sorted(np.concatenate(parts)) == ["a"] * 4 + ["b"] * 2 + ["t"] * 2

    with pytest.raises(ValueError, match=r"was made from a\.\w+ \(.*, given is b\.\w+ \("):
        main([str(second), str(first), *options])
    test.unlink()
    with pytest.raises(FileNotFoundError, match=rf"t\.{suffix} does not exist"):
        main([str(first), str(second), *options])


def test_a_file_for_each_split(tmp_path):
    made = {
        name: own(tmp_path / f"{name}.xyz", sizes, seed)
        for seed, (name, sizes) in enumerate(
            {"train": (3, 4, 2), "val": (5, 6), "test": (2,)}.items()
        )
    }
    files = [str(tmp_path / "train.xyz"), "--val-file", str(tmp_path / "val.xyz")]
    with pytest.raises(ValueError, match="--val-file .*val.xyz needs --test-file as well"):
        main([*files, "--out", str(tmp_path / "out")])
    files += ["--test-file", str(tmp_path / "test.xyz")]
    with pytest.raises(ValueError, match="are the splits already; leave out --split and its"):
        main([*files, "--train", "2", "--out", str(tmp_path / "out")])

    main([*files, "--out", str(tmp_path / "out")])
    for name, structures in made.items():
        found = MoleculeDataset.open(tmp_path / "out", name).structures
        np.testing.assert_allclose(found.energy, structures.energy, atol=1e-7)
    own(tmp_path / "val.xyz", (5, 6), seed=9)
    with pytest.raises(ValueError, match="was made from .*val.xyz .* given is .*val.xyz"):
        main([*files, "--out", str(tmp_path / "out")])


def test_units_are_converted_and_shown(tmp_path, capsys):
    expected = own(tmp_path / "a.npz", (3, 4, 2, 5), seed=1)
    units = ["--energy-unit", "hartree", "--length-unit", "bohr"]
    main([str(tmp_path / "a.npz"), *units, "--out", str(tmp_path / "out")])
    split = Split.load(tmp_path / "out" / "split.npz")
    found = MoleculeDataset.open(tmp_path / "out", "train").structures
    np.testing.assert_allclose(found.energy, 27.211386 * expected.energy[split.train], rtol=1e-7)
    assert "1 hartree = 27.21139 eV, 1 bohr = 0.5291772 Angstrom" in capsys.readouterr().out


def test_energies_without_forces(tmp_path):
    structures = dataclasses.replace(random_structures((3, 4, 2, 5)), forces=None)
    write_structures(tmp_path / "a.npz", structures)
    options = [str(tmp_path / "a.npz"), "--out", str(tmp_path / "out")]
    with pytest.raises(
        ValueError, match=r"has no forces .*; give --forces-key \(or --forces-key absent\)"
    ):
        main(options)
    main([*options, "--forces-key", "absent"])
    assert set(MoleculeDataset.open(tmp_path / "out", "train")[[0, 1]].labels) == {"energy"}
    assert load_statistics(tmp_path / "out").force_rms == 0.0


def test_files_named_twice_are_refused_and_copies_are_counted(tmp_path, capsys):
    for name in ("one", "two"):
        own(tmp_path / f"{name}.npz", (3, 4) * 6)
    files = [str(tmp_path / "one.npz"), "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="name a file twice: its structures would train and test"):
        main([*files, "--test-file", str(tmp_path / "one.npz")])
    main([*files, "--test-file", str(tmp_path / "two.npz"), "--split", "time"])
    shown = capsys.readouterr().out
    assert "structures of the test split have exactly the elements and positions of a tr" in shown


def test_what_cannot_be_read_is_refused(tmp_path):
    cases = [
        (["x.txt"], r"x\.txt: a file of structures must end in .*\.xyz.*, got '\.txt'"),
        (["x.xyz", "--numbers-key", "Z"], r"x\.xyz: --numbers-key is of no use in a \.xyz file"),
        (["x.npz", "--energy-unit", "ev"], "--energy-unit: must be one of eV, meV, .*got 'ev'"),
        (["--source", "MD22"], "source must be one of .*, got 'MD22'; did you mean 'md22'"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            main([*options, "--out", str(tmp_path)])


TOY = """
import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np

from farfield.dataloader.sources.source_registry import SOURCES, Source
from farfield.dataloader.structures import Structures


@SOURCES.register("toy")
@dataclasses.dataclass(frozen=True)
class Toy(Source):
    \"\"\"Dimers that repel each other.\"\"\"

    folder: Annotated[str, "folder with distances.txt"] = "."
    stiffness: Annotated[float, "of the spring, eV/Angstrom^2"] = 1.0

    @property
    def paths(self):
        return (Path(self.folder) / "distances.txt",)

    def read(self, path, progress):
        distance = np.loadtxt(path)
        positions = np.zeros((len(distance), 2, 3))
        positions[:, 1, 0] = distance
        forces = np.zeros_like(positions)
        forces[:, 0, 0] = self.stiffness * distance
        forces[:, 1, 0] = -forces[:, 0, 0]
        return Structures(
            atomic_numbers=np.full(2 * len(distance), 18),
            positions=positions.reshape(-1, 3),
            counts=np.full(len(distance), 2),
            energy=0.5 * self.stiffness * distance**2,
            forces=forces.reshape(-1, 3),
        )
"""


def test_a_source_is_added_by_one_file(tmp_path):
    (tmp_path / "toy.py").write_text(TOY)
    np.savetxt(tmp_path / "distances.txt", np.linspace(1, 3, 20))
    options = ["--import", str(tmp_path / "toy.py"), "--source", "toy", "--folder", str(tmp_path)]
    main([*options, "--stiffness", "2", "--out", str(tmp_path / "out")])
    assert lengths(tmp_path / "out") == [16, 2, 2]

    train = MoleculeDataset.open(tmp_path / "out", "train").structures
    distance = np.linalg.norm(train.positions[1::2] - train.positions[::2], axis=1)
    np.testing.assert_allclose(train.energy, distance**2)

    # options of a source belong to the data
    with pytest.raises(ValueError, match="holds data with reading .*'stiffness': 2.0"):
        main([*options, "--stiffness", "3", "--out", str(tmp_path / "out")])
    (tmp_path / "distances.txt").unlink()
    with pytest.raises(FileNotFoundError, match="distances.txt does not exist; put the file there"):
        main([*options, "--out", str(tmp_path / "new")])


def test_published_sources_are_found_by_name_with_their_splits(tmp_path):
    main(["--source", "md17_sample", "--out", str(tmp_path)])
    assert lengths(tmp_path) == [750, 50, 200]


def test_a_configuration_file_has_options_of_the_source(tmp_path):
    config = tmp_path / "options.yaml"
    config.write_text(
        f"data: {{source: md17_sample, out: {tmp_path / 'out'}}}\nsplit: {{train: 9}}"
    )
    with pytest.raises(ValueError, match="names the source md17_sample; give --source md17_sample"):
        main(["--config", str(config)])
    main(["--config", str(config), "--source", "md17_sample", "--cutoff", "2"])
    assert lengths(tmp_path / "out") == [9, 50, 200]


def test_the_help_of_a_source_shows_its_options(capsys):
    with pytest.raises(SystemExit):
        main(["--source", "md22", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--molecule" in shown
    assert "stachyose" in shown
    assert "--positions-key" not in shown


def test_an_element_that_only_the_test_split_has_is_named(tmp_path, capsys):
    frames = own(tmp_path / "mine.npz", (2,) * 10)
    frames.atomic_numbers[:] = 6
    frames.atomic_numbers[18:] = [53, 1]
    write_structures(tmp_path / "mine.npz", frames)
    options = [str(tmp_path / "mine.npz"), "--split", "time"]
    main([*options, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "note: H, I in structure 9 of the test split is in no training structure" in said
    assert "of the val split is in no" not in said


def test_new_elements_are_left_out_where_that_is_asked_for(tmp_path, capsys):
    structures = random_structures((3,) * 10, elements=(6, 8))
    structures.atomic_numbers[-3:] = [1, 53, 6]
    write_structures(tmp_path / "mine.xyz", structures)
    named = ["--split", "time", "--train", "6", "--val", "2", "--test", "2"]
    out = ["--out", str(tmp_path / "out")]
    main([str(tmp_path / "mine.xyz"), *named, *out, "--leave-out-new-elements"])
    said = capsys.readouterr().out
    assert "test: 1 structures with H, I left out, which no training structure has" in said
    assert lengths(tmp_path / "out") == [6, 2, 1]
    with pytest.raises(ValueError, match="without_new_elements"):
        main([str(tmp_path / "mine.xyz"), *named, *out])


def test_isolated_atoms_are_references(tmp_path, capsys):
    """They belong to no split; without the option they are structures like others."""
    sizes = (3, 4, 5) * 4
    structures = Structures.concatenate(
        [random_structures(sizes, elements=(1, 8)), random_structures((1, 1))]
    )
    structures.atomic_numbers[-2:] = [1, 8]
    structures.energy[-2:] = [-13.6, -2041.8]
    write_structures(tmp_path / "mine.xyz", structures)
    main([str(tmp_path / "mine.xyz"), "--out", str(tmp_path / "all")])
    assert "note: 2 frames are isolated atoms" in capsys.readouterr().out
    assert sum(lengths(tmp_path / "all")) == 14

    folder = tmp_path / "isolated"
    main([str(tmp_path / "mine.xyz"), "--E0s", "isolated", "--out", str(folder)])
    assert "reference energies of 2 isolated atoms (eV): H -13.600000" in capsys.readouterr().out
    assert sum(lengths(folder)) == 12
    assert load_statistics(folder).references == pytest.approx({1: -13.6, 8: -2041.8})

    # given numbers; a folder made with others is not taken for it
    given = ["--E0s", "H:-1,O:-2"]
    with pytest.raises(ValueError, match="references"):
        main([str(tmp_path / "mine.xyz"), *given, "--out", str(folder)])
    main([str(tmp_path / "mine.xyz"), *given, "--out", str(folder), "--rebuild"])
    assert load_statistics(folder).references == {1: -1, 8: -2}


def test_labels_of_charge_follow_their_files(tmp_path, capsys):
    """Three files are three splits; a label that one of them lacks is in none, and that is said."""
    for index, name in enumerate("abc"):
        structures = random_structures((3, 4), seed=index)
        content = {
            "Z": structures.atomic_numbers,
            "R": structures.positions,
            "E": structures.energy,
            "F": structures.forces,
            "n_atoms": structures.counts,
            "q": np.full(7, 0.1 * index),
            "charge": np.array([0.0, 1.0]),
        }
        more = {} if name == "c" else {"dipole": np.ones((2, 3))}
        np.savez(tmp_path / f"{name}.npz", **content, **more)

    files = ["--val-file", str(tmp_path / "b.npz"), "--test-file", str(tmp_path / "c.npz")]
    options = [str(tmp_path / "a.npz"), *files, "--out", str(tmp_path / "out")]
    main(options)
    printed = capsys.readouterr().out
    assert "read charges 'q', dipole 'dipole' (e Angstrom, about the centroid" in printed
    assert "note: not in every file, so not kept: dipole" in printed
    assert "train: mean energy less references (eV) by total charge: +0 e" in printed
    for index, split in enumerate(SPLITS):
        structures = MoleculeDataset.open(tmp_path / "out", split).structures
        assert structures.charges.tolist() == pytest.approx([0.1 * index] * 7)
        assert structures.dipole is None and structures.extra["charge"].tolist() == [0, 1]

    # other names are another folder
    with pytest.raises(ValueError, match="holds data with reading .*; give --rebuild"):
        main([*options, "--charges-key", "absent"])
