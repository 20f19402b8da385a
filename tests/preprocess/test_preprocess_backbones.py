"""preprocess_backbones: what it writes, how files are divided, what it uses again and refuses."""

import numpy as np
import pytest

from farfield.dataloader.backbones import chain_residues
from farfield.dataloader.prepared_folder import MANIFEST, structures_file
from farfield.dataloader.sources.built_backbones import build_backbones
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.splits import Split
from farfield.dataloader.storage import files
from farfield.dataloader.structures import Structures
from farfield.preprocess.preprocess_backbones import main
from tests.support.prepared import content, copied
from tests.support.protein_files import chain_lines, write_lines

BUILT = ["--build", "10", "--residues", "8,12", "--seed", "3"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of ten built chains, not to be changed."""
    folder = tmp_path_factory.mktemp("made") / "built"
    main([*BUILT, "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def proteins(tmp_path_factory):
    """Ten files; file k holds k % 3 + 1 chains of 9 residues and one of 4."""
    folder = tmp_path_factory.mktemp("proteins")
    chains = build_backbones(4, 9, 9, seed=1)
    short = build_backbones(1, 4, 4, seed=2)[0]
    for number in range(10):
        lines = chain_lines(short, chain="Z")
        for place in range(number % 3 + 1):
            moved = chains[place]._replace(positions=chains[place].positions + 50 * place + number)
            lines += chain_lines(moved, chain="ABC"[place])
        write_lines(folder / f"p{number}.pdb", *lines)
    return folder


def loaded(folder) -> dict[str, Structures]:
    return {split: Structures.load(structures_file(folder, split)) for split in SPLITS}


def test_built_chains_are_divided_once_each(made):
    parts = loaded(made)
    assert [len(parts[split]) for split in SPLITS] == [8, 1, 1]
    chains = {chain.name: chain for chain in build_backbones(10, 8, 12, seed=3)}
    names = np.concatenate([parts[split].names for split in SPLITS])
    assert sorted(names) == sorted(chains)
    for part in parts.values():
        for index, name in enumerate(part.names):
            one = part[index]
            assert np.array_equal(one.positions, chains[name].positions.reshape(-1, 3))
            assert np.array_equal(chain_residues(one), chains[name].residues)

    manifest = files.read_json(made / MANIFEST, "")
    assert set(manifest["files"]) == {"train.npz", "val.npz", "test.npz", "split.npz"}
    for name, checksum in manifest["files"].items():
        assert files.file_checksum(made / name) == checksum


def test_all_pieces_of_a_file_are_in_one_split(proteins, tmp_path, capsys):
    main(["--pdb", str(proteins), "--out", str(tmp_path / "data"), "--val", "2", "--test", "3"])
    parts = loaded(tmp_path / "data")
    of_split = {split: {name.split("_")[0] for name in parts[split].names} for split in SPLITS}
    assert [len(of_split[split]) for split in SPLITS] == [5, 2, 3]
    assert set.union(*of_split.values()) == {f"p{number}" for number in range(10)}
    assert sum(len(part) for part in parts.values()) == sum(k % 3 + 1 for k in range(10))
    assert "19 pieces of >= 8 residues; 10 shorter pieces are left out" in capsys.readouterr().out
    assert Split.load(tmp_path / "data" / "split.npz").settings["groups"] == 10


def test_names_of_files_give_the_folder_of_their_folder(proteins, tmp_path):
    main(["--pdb", str(proteins), "--out", str(tmp_path / "one")])
    listed = ",".join(str(path) for path in sorted(proteins.iterdir(), reverse=True))
    main(["--pdb", listed, "--out", str(tmp_path / "two")])
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_short_pieces_are_taken_where_they_are_asked_for(proteins, tmp_path):
    main(["--pdb", str(proteins), "--min-residues", "3", "--out", str(tmp_path / "data")])
    counts = np.concatenate([part.counts for part in loaded(tmp_path / "data").values()])
    assert (counts == 16).sum() == 10 and (counts == 36).sum() == 19


def test_the_same_command_changes_nothing_and_makes_what_is_lost(made, tmp_path):
    folder = copied(made, tmp_path)
    main([*BUILT, "--out", str(folder)])
    (folder / "val.npz").unlink()
    main([*BUILT, "--out", str(folder)])
    assert content(folder) == content(made)


def test_sample_is_small_and_needs_nothing(tmp_path):
    main(["--sample", "--out", str(tmp_path / "sample")])
    parts = loaded(tmp_path / "sample")
    assert [len(parts[split]) for split in SPLITS] == [48, 6, 6]
    assert max(part.counts.max() for part in parts.values()) <= 4 * 32


def test_other_settings_are_refused_and_replaced_by_rebuild(made, tmp_path):
    folder = copied(made, tmp_path)
    other = ["--build", "5", "--residues", "8,9", "--out", str(folder)]
    with pytest.raises(ValueError, match="holds data with reading .* give --rebuild"):
        main(other)
    assert content(folder) == content(made)
    main([*other, "--rebuild"])
    assert sum(len(part) for part in loaded(folder).values()) == 5


def test_damaged_and_changed_files_are_refused(made, proteins, tmp_path):
    folder = copied(made, tmp_path)
    bytes_ = bytearray((folder / "train.npz").read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    (folder / "train.npz").write_bytes(bytes_)
    with pytest.raises(ValueError, match="train.npz is damaged"):
        main([*BUILT, "--out", str(folder)])

    mine = copied(proteins, tmp_path / "mine")
    arguments = ["--pdb", str(mine), "--out", str(tmp_path / "data")]
    main(arguments)
    write_lines(mine / "p3.pdb", *chain_lines(build_backbones(1, 9, 9, seed=8)[0]))
    with pytest.raises(ValueError, match="was made from .* give another --out"):
        main(arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "there are no backbones to preprocess; give --pdb FILES, --build NUMBER or --sample"),
        (["--sample", "--build", "5"], "--build and --sample exclude each other"),
        (["--sample", "--residues", "8,9"], "--residues is for --build, not for --sample"),
        (["--build", "5", "--residues", "8"], "two whole numbers like 24,64, got '8'"),
        (["--build", "5", "--residues", "9,8"], "2 <= least <= most"),
        (["--build", "2"], "--build"),
        (["--build", "5", "--train", "9"], "9 .* 5; lower --train"),
        (["--pdb", "nowhere"], "nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_folder(arguments, message, tmp_path):
    with pytest.raises((ValueError, OSError), match=message) as error:
        main([*arguments, "--out", str(tmp_path / "data")])
    assert "\n" not in str(error.value) and not (tmp_path / "data").exists()


def test_too_few_files_are_refused(proteins, tmp_path):
    two = f"{proteins / 'p1.pdb'},{proteins / 'p2.pdb'}"
    with pytest.raises(ValueError, match="2 files cannot be divided .* give at least 3 files"):
        main(["--pdb", two, "--out", str(tmp_path / "data")])
    with pytest.raises(ValueError, match="no piece of --pdb .* has 10 residues; lower --min-res"):
        main(["--pdb", two, "--min-residues", "10", "--out", str(tmp_path / "data")])
