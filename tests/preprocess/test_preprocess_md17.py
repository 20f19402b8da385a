"""preprocess_md17: published files and splits, the bundled sample, options that exclude each
other.
"""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.splits import Split
from farfield.preprocess import preprocess_md17
from farfield.preprocess.preprocess_md17 import main
from tests.support.molecule_data import random_structures, write_structures
from tests.support.processes import run_script


def sizes(folder) -> list[int]:
    return [len(MoleculeDataset.open(folder, name)) for name in SPLITS]


def test_whole_sample_is_the_default(tmp_path, capsys):
    main(["--sample", "--out", str(tmp_path)])
    shown = capsys.readouterr().out
    assert sizes(tmp_path) == [750, 50, 200]
    labels = ("energy (eV)", "forces (eV/Angstrom)", "std", "energy in eV")
    for words in ("750 structures of 9 atoms, H C O", *labels, "radius 2.41 Angstrom"):
        assert words in shown


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


@pytest.fixture
def raw(tmp_path):
    """Published files with invented content, of MD17 and of rMD17."""
    official(tmp_path)
    official(tmp_path, revised=True)
    return tmp_path


FEW = ["--split", "random", "--train", "20", "--val", "10"]
REVISED = ["--revised", "--split", "rmd17", "--split-number", "3", "--train", "25"]


def test_published_file_of_md17(raw):
    published = ["--data-path", str(raw)]
    main([*published, *FEW, "--out", str(raw / "a")])
    energy = np.concatenate(
        [MoleculeDataset.open(raw / "a", name).structures.energy for name in SPLITS]
    )
    assert len(energy) == 60
    assert abs(energy.std() / 0.0433641 - 1) < 0.3
    with pytest.raises(ValueError, match=r"asks for 950 \+ 50 structures, the data have 60"):
        main([*published, "--out", str(raw / "b")])

    # finished data need no source
    (raw / "md17_ethanol.npz").unlink()
    main([*published, *FEW, "--out", str(raw / "a")])


def test_published_splits_of_rmd17(raw):
    options = [*REVISED, "--data-path", str(raw)]
    main([*options, "--out", str(raw / "c")])
    assert sizes(raw / "c") == [25, 5, 20]
    tested = sorted(int(line) for line in (raw / "index_test_03.csv").read_text().split())
    assert Split.load(raw / "c" / "split.npz").test.tolist() == tested

    # an unpacking that was cut off after the molecule goes on
    with tarfile.open(raw / "rmd17.tar.bz2", "w:bz2") as archive:
        for file in [raw / "rmd17_ethanol.npz", *sorted(raw.glob("index_*.csv"))]:
            archive.add(file, f"rmd17/any/{file.name}")
    for file in raw.glob("index_*.csv"):
        file.unlink()
    main([*options, "--out", str(raw / "d")])
    assert Split.load(raw / "d" / "split.npz").test.tolist() == tested


def test_own_files_keep_the_usual_sizes_unless_the_set_is_too_small(tmp_path, capsys):
    write_structures(tmp_path / "small.npz", random_structures((3, 4) * 10))
    write_structures(tmp_path / "large.npz", random_structures((2,) * 1003))
    for name, expected in (("small", [16, 2, 2]), ("large", [950, 50, 3])):
        main(["--file", str(tmp_path / f"{name}.npz"), "--out", str(tmp_path / name)])
        assert sizes(tmp_path / name) == expected
    shown = capsys.readouterr().out
    assert shown.count("note: 20 structures are too few for 950 + 50 and a test set") == 1
    assert shown.count("too few") == 1


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
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "asks for 2000 + 50 + 200 structures, the data have 1000" in done.stderr


SILENT = [
    (["--sample", "--molecule", "aspirin"], "--sample is ethanol, --molecule asks for aspirin"),
    (
        ["--sample", "--energy-unit", "hartree"],
        "--energy-unit hartree describes a --file of your own, but no --file is given",
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
