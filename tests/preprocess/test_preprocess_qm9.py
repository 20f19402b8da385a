"""preprocess_qm9: what it writes, what it uses again after a kill, what it refuses."""

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from farfield.common import plugins
from farfield.common.session import Interrupted
from farfield.dataloader.chemistry.molecule_graphs import GRAPH_RULES
from farfield.dataloader.datasets.property_data import PropertyDataset
from farfield.dataloader.splits import Split
from farfield.dataloader.storage import array_store
from farfield.dataloader.storage.basis_cache import BasisCache
from farfield.preprocess import basis_shards
from farfield.preprocess.preprocess_qm9 import main
from tests.support.processes import Script

COUNT = 40


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A ragged npz file of chains of carbon with hydrogens."""
    rng = np.random.default_rng(0)
    counts = rng.integers(2, 9, COUNT)
    positions = [
        1.4 * np.outer(np.arange(size), [1, 0.3, 0.1]) + 0.05 * rng.standard_normal((size, 3))
        for size in counts
    ]
    path = tmp_path_factory.mktemp("source") / "molecules.npz"
    numbers = np.full(counts.sum(), 6)
    values = {
        "homo": rng.standard_normal(COUNT),
        "alpha": rng.standard_normal(COUNT),
        "gdb_id": np.arange(1, COUNT + 1),
    }
    np.savez(path, n_atoms=counts, Z=numbers, R=np.concatenate(positions), **values)
    return path


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(basis_shards, "MOLECULES_PER_SHARD", 8)


def run(source, folder, *more: str):
    main(["--file", str(source), "--out", str(folder), *more])


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    """A finished folder of bond graphs, not to be changed; made in one piece."""
    folder = tmp_path_factory.mktemp("made") / "qm9"
    run(source, folder)
    return folder


def test_folder_holds_splits_labels_and_graphs(made, source, capsys):
    split, file = Split.load(made / "split.npz"), np.load(source)
    assert [len(getattr(split, part)) for part in ("train", "val", "test")] == [32, 4, 4]
    for part in ("train", "val", "test"):
        dataset = PropertyDataset.open(made, part, verify="full")
        assert dataset.targets == ("alpha", "homo")
        assert dataset.lmax == 3
        assert dataset.graph_rule == {"kind": "bonds"}
        chosen = getattr(split, part)
        assert dataset.structures.extra["gdb_id"].tolist() == (chosen + 1).tolist()
        np.testing.assert_array_equal(
            dataset[[0, 1]].labels["alpha"].numpy(), file["alpha"][chosen[:2]]
        )
        assert (
            dataset.edges_per_structure.tolist() == (2 * (file["n_atoms"][chosen] - 1)).tolist()
        )  # a chain
        assert int(dataset[[1]].edge_features["bond_kinds"].min()) >= 1
    assert not (made / "shards").exists()
    run(source, made)
    shown = capsys.readouterr().out
    assert "split random 32 / 4 / 4 with seed 0" in shown
    assert "basis of lmax 3" in shown


def test_second_run_changes_nothing(made, source, monkeypatch):
    before, stamps = content(made), {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    monkeypatch.setattr(basis_shards, "make_shard", None)
    run(source, made)
    assert content(made) == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


@pytest.mark.parametrize(("graph", "kinds"), [("cutoff", False), ("complete", True)])
def test_other_graphs_and_processes_and_a_limit(source, tmp_path, graph, kinds):
    run(
        source,
        tmp_path / "a",
        "--graph",
        graph,
        "--cutoff",
        "2.5",
        "--lmax",
        "2",
        "--limit",
        "20",
        "--train",
        "10",
        "--val",
        "5",
    )
    dataset = PropertyDataset.open(tmp_path / "a", "train")
    assert (len(dataset), dataset.lmax, dataset.bond_kinds is not None) == (10, 2, kinds)
    assert len(dataset.cache) == 20
    if graph == "complete":
        run(
            source,
            tmp_path / "b",
            "--graph",
            graph,
            "--lmax",
            "2",
            "--limit",
            "20",
            "--train",
            "10",
            "--val",
            "5",
            "--workers",
            "2",
        )
        a, b = (content(tmp_path / name) for name in "ab")
        assert {name: a[name] for name in a if name != "manifest.json"} == {
            name: b[name] for name in b if name != "manifest.json"
        }


OWN_RULE = """
import numpy as np
from farfield.dataloader.chemistry.molecule_graphs import GRAPH_RULES


@GRAPH_RULES.register("star")
def star(points, bonded, rule):
    others = np.arange(1, len(points))
    return np.stack([np.zeros_like(others), others], axis=1)
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_graph_rule_of_a_users_file(source, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(GRAPH_RULES, "_entries", dict(GRAPH_RULES))
    monkeypatch.setattr(plugins, "_IMPORTED", {})
    file = tmp_path / "my_rule.py"
    file.write_text(OWN_RULE, encoding="utf-8")
    more = ["--import", str(file), "--graph", "star", "--no-bond-kinds", "--workers", workers]
    run(source, tmp_path / "qm9", *more)

    dataset = PropertyDataset.open(tmp_path / "qm9", "train")
    sizes = np.diff(dataset.structures.offsets)
    assert dataset.edges_per_structure.tolist() == (2 * (sizes - 1)).tolist()


def interrupt_after(monkeypatch, count: int):
    """Let ``count`` shards be made, then interrupt."""
    make, done = basis_shards.make_shard, []

    def make_some(shard):
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(shard.folder)
        return make(shard)

    monkeypatch.setattr(basis_shards, "make_shard", make_some)
    return make


def record_builds(monkeypatch) -> list[str]:
    """Names of the shards that are built from now on."""
    built, build = [], BasisCache.build

    def record(folder, *rest):
        built.append(folder.parent.name)
        return build(folder, *rest)

    monkeypatch.setattr(BasisCache, "build", record)
    return built


@pytest.mark.parametrize("damage", ["nothing", "flipped", "lost", "half"])
def test_shards_of_an_interrupted_run_are_used_again_if_they_are_whole(
    made, source, tmp_path, monkeypatch, damage
):
    folder = tmp_path / "qm9"
    make = interrupt_after(monkeypatch, 3)
    with pytest.raises(Interrupted, match="the same command, without --rebuild"):
        run(source, folder)
    shards = folder / "shards"
    assert sorted(path.name for path in shards.iterdir()) == ["00000", "00001", "00002"]
    assert not (folder / "basis").exists()
    with pytest.raises(FileNotFoundError):
        PropertyDataset.open(folder, "train")
    target = shards / "00001" / "basis" / "packed.npy"
    if damage == "flipped":
        broken = bytearray(target.read_bytes())
        broken[len(broken) // 2] ^= 1
        target.write_bytes(broken)
    elif damage == "lost":
        shutil.rmtree(shards / "00001" / "bond_kinds")
    elif damage == "half":
        target.write_bytes(target.read_bytes()[:-100])
    monkeypatch.setattr(basis_shards, "make_shard", make)
    built = record_builds(monkeypatch)
    run(source, folder)
    assert built == ([] if damage == "nothing" else ["00001"]) + ["00003", "00004"]
    ours, expected = content(folder), content(made)
    assert ours == expected
    assert not shards.exists()


def test_shards_of_an_older_version_are_used_again(made, source, tmp_path, monkeypatch):
    """Their folder was called pieces."""
    folder = tmp_path / "qm9"
    make = interrupt_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        run(source, folder)
    (folder / "shards").rename(folder / "pieces")
    monkeypatch.setattr(basis_shards, "make_shard", make)
    built = record_builds(monkeypatch)
    run(source, folder)
    assert built == ["00003", "00004"]
    assert content(folder) == content(made)

    # also when everything is made again
    (folder / "pieces").mkdir()
    run(source, folder, "--rebuild")
    assert content(folder) == content(made) and not (folder / "pieces").exists()


def test_killed_in_the_middle_is_finished_by_the_same_command(made, source, tmp_path):
    folder = tmp_path / "qm9"
    program = "import sys; from farfield.preprocess import basis_shards as g\n"
    program += "g.MOLECULES_PER_SHARD = 8; m = g.make_shard\n"
    program += (
        "import time\ndef slow(shard):\n    n = m(shard); time.sleep(0.3); return "
        "n\ng.make_shard = slow\n"
    )
    program += "from farfield.preprocess.preprocess_qm9 import main; main(sys.argv[1:])"
    script = Script("-c", program, "--file", str(source), "--out", str(folder))
    deadline = time.monotonic() + 120
    while not (folder / "shards" / "00001" / "bond_kinds").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    script.send_signal(signal.SIGKILL)
    assert script.wait().returncode == -signal.SIGKILL
    assert (folder / "shards").exists()
    assert not (folder / "basis").exists()
    run(source, folder)
    assert content(folder) == content(made)


FILES = [
    "basis/packed.npy",
    "basis/vector.npy",
    "bond_kinds/kinds.npy",
    "molecules.npz",
    "split.npz",
]


@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes_are_refused(made, source, tmp_path, monkeypatch, name):
    """Wherever they are: nothing is left to a sample of the blocks."""
    monkeypatch.setattr(array_store, "SAMPLED_BLOCKS", 0)
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    broken = bytearray((folder / name).read_bytes())
    broken[len(broken) // 2] ^= 1
    (folder / name).write_bytes(broken)
    with pytest.raises(ValueError, match="--rebuild"):
        run(source, folder)
    with pytest.raises(ValueError, match="--rebuild"):
        PropertyDataset.open(folder, "train")
    run(source, folder, "--rebuild")
    assert content(folder) == content(made)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_damaged_manifest_is_refused_or_its_files_are_made_again(made, source, tmp_path, share):
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    broken = bytearray((folder / "manifest.json").read_bytes())
    broken[int(share * len(broken))] ^= 1
    (folder / "manifest.json").write_bytes(broken)
    try:
        run(source, folder)
    except ValueError as error:
        assert "--rebuild" in str(error)
        run(source, folder, "--rebuild")
    same, expected = (
        {name: data for name, data in content(each).items() if name != "manifest.json"}
        for each in (folder, made)
    )
    assert same == expected


def test_other_settings_and_sources_are_refused(made, source, tmp_path):
    for more, message in (
        (["--graph", "complete"], "graph_rule {'kind': 'bonds'}, but {'kind': 'complete'}"),
        (["--lmax", "2"], "lmax 3, but 2 is needed"),
        (["--no-bond-kinds"], "bond_kinds True, but False"),
        (["--split-seed", "1"], "holds data with split"),
        (["--limit", "10"], "holds data with reading"),
    ):
        with pytest.raises(ValueError, match="--rebuild") as caught:
            run(source, made, *more)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    other = dict(np.load(source))
    np.savez(tmp_path / "molecules.npz", **other | {"homo": other["homo"] + 1})
    with pytest.raises(ValueError, match="was made from molecules.npz .*given is molecules.npz"):
        run(tmp_path / "molecules.npz", made)


def test_options_that_exclude_each_other_are_refused(source, tmp_path):
    for argv, message in (
        (["--file", str(source), "--source", "sdf"], "--source sdf excludes --file"),
        (["--source", "npz"], "--source npz needs --file"),
        (["--uncharacterised", "x.txt"], "--uncharacterised x.txt is for --file"),
    ):
        with pytest.raises(ValueError, match=message):
            main([*argv, "--out", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="nothing.npz does not exist"):
        run(tmp_path / "nothing.npz", tmp_path / "out")


def test_loader_workers_open_the_cache_by_its_path(made):
    from farfield.dataloader.batch_plan import BatchPlan
    from farfield.train.data_order import EpochLoader

    dataset = PropertyDataset.open(made, "train")
    batches = list(EpochLoader(dataset, BatchPlan(dataset, batch_size=16), workers=1))
    assert sum(batch.num_graphs for batch in batches) == 32
    assert all(torch.isfinite(part).all() for batch in batches for part in batch.edge_basis.packed)
