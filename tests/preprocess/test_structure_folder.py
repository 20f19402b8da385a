"""A folder of splits: what is written, what is used again, what is refused, what an interruption
leaves.
"""

import json
import shutil
from pathlib import Path

import pytest

from farfield.common.session import Interrupted
from farfield.dataloader.batch_plan import BatchPlan
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.graphs import NeighborStore
from farfield.dataloader.prepared_folder import (
    graphs_folder,
    load_statistics,
    structures_file,
    structures_of_split,
)
from farfield.dataloader.reference_energies import fit_references
from farfield.dataloader.sources import md17
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.splits import Split
from farfield.preprocess import preprocess_md17, preprocess_md22, structure_folder
from farfield.preprocess.preprocess_md17 import main
from tests.support.prepared import content, copied

FEW = ["--split", "random", "--train", "30", "--val", "5", "--test", "10", "--cutoff", "2.5"]


def run(folder, *more: str):
    main(["--sample", *FEW, "--out", str(folder), *more])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small data folder, not to be changed."""
    folder = tmp_path_factory.mktemp("made") / "ethanol"
    run(folder)
    return folder


def test_folder_holds_the_split_of_the_source(made):
    sample, split = md17.read_sample(), Split.load(made / "split.npz")
    assert split.data_hash == sample.data_hash
    for name, count in zip(SPLITS, (30, 5, 10), strict=True):
        dataset = MoleculeDataset.open(made, name, cutoff=2.5)
        expected = sample[getattr(split, name)]
        assert len(dataset) == count
        assert dataset.structures.data_hash == expected.data_hash
        assert dataset.cutoff == 2.5
        computed = NeighborStore.compute(expected, 2.5)
        assert dataset.neighbors.edges_per_graph.tolist() == computed.edges_per_graph.tolist()
        assert 9 * 2 < computed.num_edges / count < 72
    statistics = load_statistics(made)
    train = MoleculeDataset.open(made, "train", references=statistics.references)
    assert statistics.references == fit_references(train.structures)
    assert statistics.structures == 30
    assert statistics.average_neighbors == train.neighbors.num_edges / 270
    batch = train[next(iter(BatchPlan(train, batch_size=4)))]
    assert batch.num_graphs == 4
    assert float(batch.labels["residual_energy"].abs().max()) < 1.5


OPTIONS = {"gap": 0, "number": 1, "path": None, "sample": None, "seed": 0}
OPTIONS |= {"train": None, "val": None, "test": None}
EV = "energy in eV, length in Angstrom, forces in eV/Angstrom"
KCAL = "energy in kcal/mol, length in Angstrom, forces in kcal/mol/Angstrom"
KCAL += " (1 kcal/mol = 0.0433641 eV)"


def settings(reading: dict, split: str, **options) -> dict:
    """Settings as folders have them since format 2."""
    head = {"format": 2, "reading": reading, "cutoff": 4.0, "split": split}
    return head | {"split_options": OPTIONS | options}


def own_reading(**options) -> dict:
    return {"units": EV, "keys": {}, "stress_key": None, "periodic": None} | options


@pytest.mark.parametrize(
    ("script", "options", "expected"),
    [
        (
            preprocess_md17,
            ["--sample"],
            settings({"units": EV, "sample": "ethanol"}, "random", train=750, val=50, test=200),
        ),
        (
            preprocess_md17,
            ["--molecule", "aspirin"],
            settings({"units": KCAL, "molecule": "aspirin", "revised": False}, "md17"),
        ),
        (
            preprocess_md22,
            ["--molecule", "DHA"],
            settings({"units": KCAL, "molecule": "DHA"}, "lsr-mp", sample=8000, seed=48),
        ),
        (preprocess_md17, ["--file", "a.xyz"], settings(own_reading(), "random")),
        (
            preprocess_md22,
            ["--file", "a.xyz", "--forces-key", "F", "--split", "time"],
            settings(own_reading(keys={"forces": "F"}), "time"),
        ),
    ],
)
def test_folders_made_before_are_used_again(tmp_path, monkeypatch, script, options, expected):
    """A folder with other settings is refused, so they may not change."""
    (tmp_path / "a.xyz").touch()
    monkeypatch.chdir(tmp_path)
    plan = script.choose(script.build_parser().parse_config(options))
    assert plan.settings == expected
    assert list(plan.source_files) == ["train and val", "test"]


def test_second_run_changes_nothing(made, monkeypatch, capsys):
    before, stamps = content(made), {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    monkeypatch.setattr(md17, "read_sample", None)
    monkeypatch.setattr(structure_folder.NeighborStore, "build", None)
    run(made)
    assert content(made) == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
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
        "save": (structure_folder.Split, "save"),
        "build": (structure_folder.NeighborStore, "build"),
        "statistics": (structure_folder.Statistics, "of"),
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
        match="holds data with cutoff 2.5, but 3.0 is needed; give --rebuild to replace them, or "
        "another --out",
    ):
        run(folder, "--cutoff", "3")
    with pytest.raises(
        ValueError, match="holds data with split_options .*'seed': 0.*, but .*'seed': 1.* is needed"
    ):
        run(folder, "--split-seed", "1")
    with pytest.raises(
        ValueError, match=r"holds the neighbours within 2\.5 Angstrom, but 3\.0 is needed"
    ):
        MoleculeDataset.open(folder, "val", cutoff=3.0)
    assert content(folder) == content(made)
    run(folder, "--split-seed", "1", "--rebuild")
    assert Split.load(folder / "split.npz").settings["seed"] == 1
    assert len(MoleculeDataset.open(folder, "test")) == 10


def test_strangers_files_are_not_overwritten(tmp_path):
    (tmp_path / "train.npz").write_bytes(b"something of the user")
    with pytest.raises(
        ValueError, match=r"train\.npz exists without manifest\.json; give --rebuild"
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
    with pytest.raises(ValueError, match=r"test\.npz is damaged or copied from elsewhere"):
        MoleculeDataset.open(folder, "test")

    # with its graphs it fits itself, but it is no part of this folder
    shutil.rmtree(graphs_folder(folder, "test"))
    shutil.copytree(graphs_folder(made, "val"), graphs_folder(folder, "test"))
    with pytest.raises(ValueError, match=r"test\.npz is damaged or copied from elsewhere"):
        MoleculeDataset.open(folder, "test")
    with pytest.raises(ValueError, match=r"test\.npz is damaged or copied from elsewhere"):
        structures_of_split(folder, "test")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["train.npz"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"does not list train\.npz: the folder is not finished"):
        MoleculeDataset.open(folder, "train")
    assert graphs_folder(folder, "val").is_dir()


def test_a_refused_request_leaves_what_is_there(made, tmp_path):
    folder = copied(made, tmp_path / "data")
    with pytest.raises(ValueError, match="the split asks for 3000"):
        main(["--sample", "--out", str(folder), "--train", "3000", "--val", "2", "--rebuild"])
    assert content(folder) == content(made)
    with pytest.raises(ValueError, match="the split asks for 3000"):
        main(["--sample", "--out", str(tmp_path / "new"), "--train", "3000", "--val", "2"])
    assert not (tmp_path / "new").exists()


def test_a_changed_statistics_file_is_damaged(made, tmp_path):
    folder = copied(made, tmp_path)
    text = (folder / "statistics.json").read_text()
    (folder / "statistics.json").write_text(text.replace('"force_rms": ', '"force_rms": 1'))
    with pytest.raises(
        ValueError,
        match=r"statistics.json is damaged or copied.*\(its checksum does not fit manifest.json\)",
    ):
        load_statistics(folder)
