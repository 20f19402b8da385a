"""preprocess_nbody: what it writes, what it uses again, what it refuses, what an interruption
leaves.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from farfield.common.session import Interrupted
from farfield.dataloader.datasets.nbody_data import DRAW_ORDER, NBodyDataset, cache_folder
from farfield.dataloader.sources import nbody_simulation
from farfield.dataloader.sources.nbody_simulation import simulate_nbody
from farfield.models.networks.nbody_transformer import NBodyOptions
from farfield.preprocess import preprocess_nbody
from farfield.preprocess.preprocess_nbody import cached_starts, main
from tests.support.processes import run_script

SMALL = ["--train", "5", "--test", "4", "--val", "3", "--lmax", "2"]


@pytest.fixture(scope="module", autouse=True)
def short_frames():
    """A frame is five steps of the simulation: its motion has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nbody_simulation, "STEPS_PER_FRAME", 5)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory, short_frames):
    """A small data folder, not to be changed."""
    folder = tmp_path_factory.mktemp("made") / "nbody"
    main([*SMALL, "--out", str(folder)])
    return folder


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "nbody"))


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run(folder: Path, *more: str):
    main([*SMALL, "--out", str(folder), *more])


def test_splits_are_one_stream_of_simulations(made):
    rng = np.random.RandomState(42)  # noqa: NPY002
    for split, count in zip(DRAW_ORDER, (5, 4, 3), strict=True):
        expected = simulate_nbody(count, rng)
        with np.load(made / f"nbody_{split}.npz") as found:
            for name in ("positions", "velocities", "charges"):
                assert found[name].dtype == np.float32
                np.testing.assert_array_equal(found[name], expected[name].astype(np.float32))
            metadata = json.loads(str(found["metadata"]))
            assert found["positions"].shape == (count, 49, 5, 3)
            assert found["charges"].shape == (count, 5)
        assert metadata["split"] == split
        assert metadata["seed"] == 42
        assert metadata["time_step"] == 0.001
        assert metadata["box"] == 5.0


def test_caches_open_for_every_split(made):
    for split in DRAW_ORDER:
        dataset = NBodyDataset(made, split, 10)
        assert len(dataset.open_cache(2)) == len(dataset)
        assert dataset[[0, 2]].edge_basis is not None


def test_second_run_changes_nothing_and_simulates_nothing(made, monkeypatch, capsys):
    before = content(made)
    stamps = {path: path.stat().st_mtime_ns for path in made.rglob("*.np?")}
    monkeypatch.setattr(preprocess_nbody, "integrate", None)
    monkeypatch.setattr(preprocess_nbody.BasisCache, "build", None)
    run(made)
    assert content(made) == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("p1000", "p500", "Linear", "constant"))


def test_cached_starts_and_variants(tmp_path):
    few = ["--train", "2", "--test", "2", "--val", "1", "--bodies", "3"]
    main([*few, "--dynamics", "springs", "--cache-starts", "0,7", "--out", str(tmp_path)])
    dataset = NBodyDataset(tmp_path, "train", 10, "all")
    dataset.open_cache(NBodyOptions.lmax)
    assert dataset[[7]].edge_basis is not None
    assert dataset[[6]].edge_basis is None
    assert dataset[[0]].edge_features["springs"].shape == (6, 1)
    main([*few, "--cache-starts", "none", "--out", str(tmp_path / "none")])
    assert not cache_folder(tmp_path / "none", "train").exists()


def test_starts_are_parsed():
    assert cached_starts("3,0,3") == [0, 3]
    assert cached_starts("all") == list(range(48))
    assert cached_starts("none") == []
    for text in ("x", "0;1", "", "-1", "48"):
        with pytest.raises(ValueError, match="--cache-starts must"):
            cached_starts(text)


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_interrupted_simulation_goes_on_where_it_stopped(made, tmp_path, monkeypatch, stop_at):
    calls = []

    def interrupted(*arguments, **more):
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return real(*arguments, **more)

    real = preprocess_nbody.integrate
    monkeypatch.setattr(preprocess_nbody, "integrate", interrupted)
    with pytest.raises(
        Interrupted, match="interrupted; the same command, without --rebuild, makes what .* lacks"
    ):
        run(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == sorted(
        f"nbody_{split}.npz" for split in DRAW_ORDER[: stop_at - 1]
    )
    run(tmp_path)
    assert len(calls) == 4  # the interrupted one is made twice, the finished ones once
    assert content(tmp_path) == content(made)


def test_interrupted_cache_is_absent_and_made_again(made, tmp_path, monkeypatch):
    real = preprocess_nbody.graphs_of

    def interrupted(*arguments):
        yield next(real(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(preprocess_nbody, "graphs_of", interrupted)
    with pytest.raises(Interrupted):
        run(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    monkeypatch.setattr(preprocess_nbody, "graphs_of", real)
    run(tmp_path)
    assert content(tmp_path) == content(made)


def test_interrupted_rebuild_leaves_nothing_old(made, tmp_path, monkeypatch):
    def interrupted(start, *arguments, **more):
        if len(start["charges"]) == 4:  # the test split
            raise KeyboardInterrupt
        return real(start, *arguments, **more)

    folder, real = copied(made, tmp_path), preprocess_nbody.integrate
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(preprocess_nbody, "integrate", interrupted)
        run(folder, "--seed", "7", "--rebuild")
    assert sorted(content(folder)) == ["nbody_manifest.json", "nbody_train.npz"]
    run(folder, "--seed", "7")
    assert sorted(content(folder)) == sorted(content(made))
    assert content(folder) != content(made)


def test_lost_split_is_made_again(made, tmp_path):
    folder = copied(made, tmp_path)
    (folder / "nbody_test.npz").unlink()
    run(folder)
    assert content(folder) == content(made)


def test_damage_and_other_settings_are_refused_and_rebuilt(made, tmp_path):
    folder = copied(made, tmp_path)
    for path in (folder / "nbody_val.npz", folder / "nbody_test_basis" / "packed.npy"):
        whole = path.read_bytes()
        broken = bytearray(whole)
        broken[len(whole) // 2] ^= 8
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=f"{path.name} is damaged.*--rebuild"):
            run(folder)
        path.write_bytes(whole)
    with pytest.raises(
        ValueError,
        match="holds data with seed 42, but 7 is needed; give --rebuild to replace them, or "
        "another --out",
    ):
        run(folder, "--seed", "7")
    with pytest.raises(
        ValueError, match="holds the basis of lmax 2, but lmax 1 is needed.*--rebuild"
    ):
        run(folder, "--lmax", "1")
    with pytest.raises(ValueError, match="give --rebuild to replace it"):
        run(folder, "--cache-dtype", "float16")
    assert content(folder) == content(made)
    run(folder, "--seed", "7", "--rebuild")
    assert json.loads((folder / "nbody_manifest.json").read_text())["settings"]["seed"] == 7
    NBodyDataset(folder, "test", 10).open_cache(2)


def test_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place, reason in (("file", "File exists"), ("file/nbody", "Not a directory")):
        with pytest.raises(
            ValueError, match=rf"--out .* cannot be written \({reason}\); give another --out"
        ):
            run(tmp_path / place)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(
        ValueError, match=r"--out .* cannot be written \(Permission denied\); give another --out"
    ):
        run(tmp_path)


def test_strangers_files_are_not_overwritten(tmp_path):
    (tmp_path / "nbody_train.npz").write_bytes(b"something of the user")
    with pytest.raises(
        ValueError, match=r"nbody_train\.npz exists without nbody_manifest\.json; give --rebuild"
    ):
        run(tmp_path)
    assert (tmp_path / "nbody_train.npz").read_bytes() == b"something of the user"


def test_as_a_script_bad_input_is_one_line_and_exit_code_2(tmp_path):
    done = run_script(preprocess_nbody.__file__, "--out", str(tmp_path), "--bodies", "1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "--bodies" in done.stderr
    assert "must be >= 2, got 1" in done.stderr
