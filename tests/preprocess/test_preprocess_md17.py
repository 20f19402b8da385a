"""preprocess_md17: what it writes, what it uses again, what it refuses, what an interruption
leaves.
"""

import json
import shutil
import tarfile
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from farfield.common.session import Interrupted
from farfield.dataloader.batch_plan import BatchPlan
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.graphs import NeighborStore
from farfield.dataloader.label_statistics import fit_references
from farfield.dataloader.prepared_folder import graphs_folder, load_statistics, structures_file
from farfield.dataloader.sources import md17
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.splits import Split
from farfield.preprocess import preprocess_md17
from farfield.preprocess import structure_folder as molecule_folder
from farfield.preprocess.preprocess_md17 import main
from tests.support.molecule_data import random_structures
from tests.support.processes import run_script

FEW = ["--split", "random", "--train", "30", "--val", "5", "--test", "10", "--cutoff", "2.5"]


def run(folder, *more: str):
    main(["--sample", *FEW, "--out", str(folder), *more])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small data folder, not to be changed."""
    folder = tmp_path_factory.mktemp("made") / "ethanol"
    run(folder)
    return folder


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_folder_holds_the_split_of_the_source(made):
    sample, split = md17.read_sample(), Split.load(made / "split.npz")
    assert split.data_hash == sample.data_hash
    for name, count in zip(SPLITS, (30, 5, 10), strict=True):
        dataset = MoleculeDataset.open(made, name, cutoff=2.5)
        wanted = sample[getattr(split, name)]
        assert (
            len(dataset) == count
            and dataset.structures.data_hash == wanted.data_hash
            and dataset.cutoff == 2.5
        )
        computed = NeighborStore.compute(wanted, 2.5)
        assert dataset.neighbors.edges_per_graph.tolist() == computed.edges_per_graph.tolist()
        assert 9 * 2 < computed.num_edges / count < 72
    statistics = load_statistics(made)
    train = MoleculeDataset.open(made, "train", references=statistics.references)
    assert statistics.references == fit_references(train.structures) and statistics.structures == 30
    assert statistics.average_neighbors == train.neighbors.num_edges / 270
    batch = train[next(iter(BatchPlan(train, batch_size=4)))]
    assert batch.num_graphs == 4 and float(batch.labels["residual_energy"].abs().max()) < 1.5


def test_whole_sample_is_the_default(tmp_path, capsys):
    main(["--sample", "--out", str(tmp_path)])
    shown = capsys.readouterr().out
    assert [len(MoleculeDataset.open(tmp_path, name)) for name in SPLITS] == [750, 50, 200]
    labels = ("energy (eV)", "forces (eV/Angstrom)", "std", "energy in eV")
    for words in ("750 structures of 9-9 atoms, H C O", *labels, "radius 2.41 Angstrom"):
        assert words in shown


def test_second_run_changes_nothing(made, monkeypatch, capsys):
    before, stamps = content(made), {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    monkeypatch.setattr(md17, "read_sample", None)
    monkeypatch.setattr(molecule_folder.NeighborStore, "build", None)
    run(made)
    assert content(made) == before and {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert "train: 30 structures" in capsys.readouterr().out


@pytest.mark.parametrize("lost", ["train.npz", "split.npz", "test_graphs", "statistics.json"])
def test_lost_pieces_are_made_again(made, tmp_path, lost):
    folder = copied(made, tmp_path)
    if (folder / lost).is_dir():
        shutil.rmtree(folder / lost)
    else:
        (folder / lost).unlink()
    run(folder)
    assert content(folder) == content(made)


@pytest.mark.parametrize("place", ["save", "build", "statistics"])
def test_interruption_leaves_what_is_finished_and_the_next_run_goes_on(
    made, tmp_path, monkeypatch, place
):
    def interrupted(*arguments, **more):
        raise KeyboardInterrupt

    target = {
        "save": (molecule_folder.Split, "save"),
        "build": (molecule_folder.NeighborStore, "build"),
        "statistics": (molecule_folder.Statistics, "of"),
    }[place]
    with (
        monkeypatch.context() as patched,
        pytest.raises(
            Interrupted, match="the same command, without --rebuild, makes what .* lacks"
        ),
    ):
        patched.setattr(*target, interrupted)
        run(tmp_path)
    assert len(content(tmp_path)) < len(content(made))
    run(tmp_path)
    assert content(tmp_path) == content(made)


def test_damage_and_other_settings_are_refused_and_rebuilt(made, tmp_path):
    folder = copied(made, tmp_path)
    for name in ("val.npz", "split.npz", "statistics.json", "train_graphs/src.npy"):
        whole = (folder / name).read_bytes()
        broken = bytearray(whole)
        broken[len(whole) // 2] ^= 8
        (folder / name).write_bytes(broken)
        with pytest.raises(ValueError, match=f"{Path(name).name} is damaged.*--rebuild"):
            run(folder)
        (folder / name).write_bytes(whole)
    with pytest.raises(
        ValueError,
        match="holds data with cutoff 2.5, wanted is 3.0; give --rebuild to replace them, or "
        "another --out",
    ):
        run(folder, "--cutoff", "3")
    with pytest.raises(
        ValueError, match="holds data with split_options .*'seed': 0.*, wanted is .*'seed': 1"
    ):
        run(folder, "--split-seed", "1")
    with pytest.raises(
        ValueError, match=r"holds the neighbours within 2\.5 Angstrom, wanted is 3\.0"
    ):
        MoleculeDataset.open(folder, "val", cutoff=3.0)
    assert content(folder) == content(made)
    run(folder, "--split-seed", "1", "--rebuild")
    assert Split.load(folder / "split.npz").settings["seed"] == 1
    assert len(MoleculeDataset.open(folder, "test")) == 10


def test_strangers_files_are_not_overwritten(tmp_path):
    (tmp_path / "train.npz").write_bytes(b"something of the user")
    with pytest.raises(
        ValueError, match=r"train\.npz stands there without manifest\.json; give --rebuild"
    ):
        run(tmp_path)
    assert (tmp_path / "train.npz").read_bytes() == b"something of the user"


def test_unfinished_and_foreign_folders_do_not_open(made, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.npz does not exist; make the folder with"):
        MoleculeDataset.open(tmp_path, "train")
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'dev'"):
        MoleculeDataset.open(made, "dev")
    folder = copied(made, tmp_path)
    shutil.copy(structures_file(made, "val"), structures_file(folder, "test"))
    with pytest.raises(ValueError, match="test_graphs belongs to another data set"):
        MoleculeDataset.open(folder, "test")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["train.npz"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"does not list train\.npz: the folder is not finished"):
        MoleculeDataset.open(folder, "train")
    assert graphs_folder(folder, "val").is_dir()


def write_own(path: Path, sizes, seed: int):
    structures = random_structures(sizes, seed)
    if path.suffix == ".npz":
        arrays = {
            "Z": structures.atomic_numbers,
            "R": structures.positions,
            "E": structures.energy,
            "F": structures.forces,
        }
        np.savez(path, **arrays, n_atoms=structures.counts)
    else:
        frames = []
        for index in range(len(structures)):
            one = structures[index]
            frames.append(Atoms(one.atomic_numbers, one.positions))
            frames[-1].calc = SinglePointCalculator(
                frames[-1], energy=one.energy[0], forces=one.forces
            )
        ase.io.write(path, frames, format="extxyz")
    return structures


@pytest.mark.parametrize("suffix", ["npz", "xyz"])
def test_own_files_with_test_files(tmp_path, suffix, capsys):
    first, second, test = (tmp_path / f"{name}.{suffix}" for name in "abt")
    write_own(first, (3, 4, 2, 5), 1)
    write_own(second, (6, 2), 2)
    wanted = write_own(test, (8, 9), 3)
    options = [
        "--file",
        f"{first},{second}",
        "--test-file",
        str(test),
        "--val",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    main(options)
    assert [len(MoleculeDataset.open(tmp_path / "out", name)) for name in SPLITS] == [4, 2, 2]
    found = MoleculeDataset.open(tmp_path / "out", "test").structures
    np.testing.assert_allclose(found.positions, wanted.positions, atol=1e-7)
    np.testing.assert_allclose(found.energy, wanted.energy, atol=1e-7)
    shown = capsys.readouterr().out
    assert f"{test}: 2 structures, energy in eV, length in Angstrom, forces in eV/Angstrom" in shown
    if suffix == "npz":
        names = np.concatenate(
            [MoleculeDataset.open(tmp_path / "out", name).structures.names for name in SPLITS]
        )
        assert sorted(names) == ["a"] * 4 + ["b"] * 2 + ["t"] * 2
    with pytest.raises(ValueError, match=r"was made from a\.\w+ \(.*, given is b\.\w+ \("):
        main([*options[:1], f"{second},{first}", *options[2:]])
    test.unlink()
    with pytest.raises(FileNotFoundError, match=rf"t\.{suffix} does not exist"):
        main(options)


def test_units_of_own_files_are_taken_out_and_shown(tmp_path, capsys):
    wanted = write_own(tmp_path / "a.npz", (3, 4, 2, 5), 1)
    options = ["--file", str(tmp_path / "a.npz"), "--train", "2", "--val", "1"]
    main(
        [
            *options,
            "--energy-unit",
            "hartree",
            "--length-unit",
            "bohr",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    split = Split.load(tmp_path / "out" / "split.npz")
    found = MoleculeDataset.open(tmp_path / "out", "train").structures
    np.testing.assert_allclose(found.energy, 27.211386 * wanted.energy[split.train], rtol=1e-7)
    assert "1 hartree = 27.21139 eV, 1 bohr = 0.5291772 Angstrom" in capsys.readouterr().out


def test_energies_without_forces(tmp_path):
    structures = random_structures((3, 4, 2, 5))
    arrays = {
        "Z": structures.atomic_numbers,
        "R": structures.positions,
        "E": structures.energy,
        "n_atoms": structures.counts,
    }
    np.savez(tmp_path / "a.npz", **arrays)
    options = [
        "--file",
        str(tmp_path / "a.npz"),
        "--train",
        "2",
        "--val",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    with pytest.raises(
        ValueError, match=r"has no forces .*; give --forces-key \(or --forces-key absent\)"
    ):
        main(options)
    main([*options, "--forces-key", "absent"])
    assert set(MoleculeDataset.open(tmp_path / "out", "train")[[0, 1]].labels) == {"energy"}
    assert load_statistics(tmp_path / "out").force_rms == 0.0


def official(folder: Path, revised=False):
    """Published files with invented content; rMD17 with its five splits."""
    rng = np.random.default_rng(0)
    positions, forces, energy = (
        2 * rng.standard_normal((60, 4, 3)),
        rng.standard_normal((60, 4, 3)),
        rng.standard_normal(60),
    )
    if not revised:
        np.savez(
            folder / "md17_ethanol.npz", z=[6, 1, 8, 1], R=positions, E=energy[:, None], F=forces
        )
        return
    np.savez(
        folder / "rmd17_ethanol.npz",
        nuclear_charges=[6, 1, 8, 1],
        coords=positions,
        energies=energy,
        forces=forces,
    )
    for number in range(1, 6):
        order = rng.permutation(60)
        for part, chosen in (("train", order[:30]), ("test", order[30:50])):
            (folder / f"index_{part}_0{number}.csv").write_text("\n".join(map(str, chosen)))


def test_published_files_in_the_data_path(tmp_path):
    official(tmp_path)
    main(
        [
            "--data-path",
            str(tmp_path),
            "--split",
            "random",
            "--train",
            "20",
            "--val",
            "10",
            "--out",
            str(tmp_path / "a"),
        ]
    )
    energy = np.concatenate(
        [MoleculeDataset.open(tmp_path / "a", name).structures.energy for name in SPLITS]
    )
    assert len(energy) == 60 and abs(energy.std() / 0.0433641 - 1) < 0.3
    with pytest.raises(ValueError, match=r"asks for 950 \+ 50 structures, the data have 60"):
        main(["--data-path", str(tmp_path), "--out", str(tmp_path / "b")])
    official(tmp_path, revised=True)
    options = [
        "--revised",
        "--data-path",
        str(tmp_path),
        "--split",
        "rmd17",
        "--split-number",
        "3",
        "--train",
        "25",
    ]
    main([*options, "--out", str(tmp_path / "c")])
    assert [len(MoleculeDataset.open(tmp_path / "c", name)) for name in SPLITS] == [25, 5, 20]
    wanted = sorted(int(line) for line in (tmp_path / "index_test_03.csv").read_text().split())
    assert Split.load(tmp_path / "c" / "split.npz").test.tolist() == wanted
    with tarfile.open(
        tmp_path / "rmd17.tar.bz2", "w:bz2"
    ) as archive:  # an unpacking that was cut off goes on
        for file in [tmp_path / "rmd17_ethanol.npz", *sorted(tmp_path.glob("index_*.csv"))]:
            archive.add(file, f"rmd17/any/{file.name}")
    for file in tmp_path.glob("index_*.csv"):
        file.unlink()
    main([*options, "--out", str(tmp_path / "d")])
    assert Split.load(tmp_path / "d" / "split.npz").test.tolist() == wanted
    (tmp_path / "md17_ethanol.npz").unlink()  # finished data need no source
    main(
        [
            "--data-path",
            str(tmp_path),
            "--split",
            "random",
            "--train",
            "20",
            "--val",
            "10",
            "--out",
            str(tmp_path / "a"),
        ]
    )


def test_without_a_network_the_message_says_where_to_put_the_file(tmp_path, monkeypatch):
    def offline(*arguments, **more):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    for options, name in (
        (["--molecule", "aspirin"], "md17_aspirin.npz"),
        (["--revised"], "rmd17.tar.bz2"),
    ):
        with pytest.raises(
            OSError, match=rf"put the file here: {tmp_path}/raw/{name} \(from https?://"
        ):
            main([*options, "--data-path", str(tmp_path / "raw"), "--out", str(tmp_path / "out")])


def test_options_that_exclude_each_other(tmp_path):
    out = ["--out", str(tmp_path)]
    cases = [
        (["--sample", "--revised"], "--sample and --revised exclude each other"),
        (["--file", "x.npz", "--sample"], "--sample and --file exclude each other"),
        (["--test-file", "x.npz"], "--test-file x.npz needs --file"),
        (["--split", "rmd17"], "--split rmd17 divides rMD17; give --revised"),
        (["--file", "x.txt"], r"x\.txt: a file of structures must end in \.npz, \.xyz, \.extxyz"),
        (
            ["--file", "x.xyz", "--numbers-key", "Z"],
            r"x\.xyz: --numbers-key is of no use in a \.xyz file",
        ),
        (["--sample", "--cutoff", "0"], "--cutoff"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            main([*options, *out])


def test_as_a_script_bad_input_is_one_line_and_exit_code_2(tmp_path):
    options = ("--sample", "--train", "2000", "--out", str(tmp_path / "out"))
    done = run_script(preprocess_md17.__file__, *options, folder=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "asks for 2000 + 50 + 200 structures, the data have 1000" in done.stderr


def test_a_refused_request_leaves_what_is_there(made, tmp_path):
    folder = copied(made, tmp_path / "data")
    with pytest.raises(ValueError, match="the split asks for 3000"):
        main(["--sample", "--out", str(folder), "--train", "3000", "--val", "2", "--rebuild"])
    assert content(folder) == content(made)
    with pytest.raises(ValueError, match="the split asks for 3000"):
        main(["--sample", "--out", str(tmp_path / "new"), "--train", "3000", "--val", "2"])
    assert not (tmp_path / "new").exists()


SILENT = [
    (["--sample", "--molecule", "aspirin"], "--sample is ethanol, --molecule asks for aspirin"),
    (
        ["--sample", "--energy-unit", "hartree"],
        "--energy-unit hartree describes a --file of your own, and there is none",
    ),
    (
        ["--sample", "--gap", "3"],
        "--gap changes nothing in --split random, which reads --train, --val, --test, --split-seed",
    ),
    (
        ["--sample", "--split", "lsr-mp", "--sample-size", "40", "--train", "3"],
        "--train changes nothing in --split lsr-mp",
    ),
]


@pytest.mark.parametrize(("options", "message"), SILENT)
def test_options_that_change_nothing_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        main([*options, "--out", str(tmp_path / "data")])
    assert not (tmp_path / "data").exists()


def test_files_named_twice_are_refused_and_copies_are_counted(tmp_path, capsys):
    for name in ("one", "two"):
        write_own(tmp_path / f"{name}.npz", (3, 4) * 6, seed=0)
    own = ["--file", str(tmp_path / "one.npz"), "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="name a file twice: its structures would train and test"):
        main([*own, "--test-file", str(tmp_path / "one.npz")])
    main([*own, "--test-file", str(tmp_path / "two.npz"), "--split", "time"])
    shown = capsys.readouterr().out
    assert (
        "structures of the test split have the very elements and positions of one that trains"
        in shown
    )


def test_a_changed_statistics_file_is_damaged(made, tmp_path):
    folder = copied(made, tmp_path)
    text = (folder / "statistics.json").read_text()
    (folder / "statistics.json").write_text(text.replace('"force_rms": ', '"force_rms": 1'))
    with pytest.raises(
        ValueError, match=r"statistics.json is damaged \(its checksum does not fit manifest.json\)"
    ):
        load_statistics(folder)
