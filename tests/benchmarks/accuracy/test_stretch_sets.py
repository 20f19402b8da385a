"""Frames of trajectories: what trains is never what decides or tests, and stretches lie apart."""

import numpy as np
import pytest

from benchmarks.accuracy import stretch_sets as sets
from tests.support.trajectory_files import write_molecule

NAMES = (sets.TRAIN, sets.VAL, sets.CHOICE, "random", "stretch")


@pytest.mark.parametrize("count", [155, 232, 1200])
def test_parts_of_a_trajectory_share_no_frame_and_stretches_lie_apart(count):
    parts = {name: sets.in_time(name, count) for name in NAMES}
    every = np.concatenate(list(parts.values()))
    assert len(np.unique(every)) == len(every) and every.max() == count - 1

    window = np.concatenate([parts[name] for name in (sets.TRAIN, sets.VAL, "random")])
    assert parts[sets.CHOICE].min() - window.max() > sets.GAP
    assert parts["stretch"].min() - parts[sets.CHOICE].max() > sets.GAP
    for name in (sets.CHOICE, "stretch"):
        assert (np.diff(parts[name]) == 1).all()
    assert len(parts[sets.TRAIN]) > 0.5 * count


def test_files_of_tests_are_read_at_the_end_alone(tmp_path):
    write_molecule(tmp_path / "acac" / "train_300K.npz", 500, 0)
    data = sets.StretchData.read(sets.SETS["acac"], tmp_path, 5.0, with_tests=False)
    assert {part: len(found) for part, found in data.parts.items()} == {"train": 450, "val": 50}
    with pytest.raises(FileNotFoundError, match="test_MD_300K"):
        sets.StretchData.read(sets.SETS["acac"], tmp_path, 5.0, with_tests=True)

    write_molecule(tmp_path / "acac" / "test_MD_300K.npz", 7, 1)
    write_molecule(tmp_path / "acac" / "train_600K.npz", 8, 2)
    data = sets.StretchData.read(sets.SETS["acac"], tmp_path, 5.0, with_tests=True)
    assert len(data.parts["300K_md"]) == 7 and len(data.parts["600K"]) == 8
    assert data.parts["600K"][[0]].graph_features["total_charge"].tolist() == [0.0]


def test_kilocalories_become_electronvolts_and_short_files_are_refused(tmp_path):
    path = tmp_path / "md22_at-at.npz"
    write_molecule(path, 100, 0)
    frames = sets.SETS["at_at"].tests["stretch"]
    found = sets.read_frames(frames, tmp_path, "kcal/mol")
    assert found.forces[0, 0] == pytest.approx(np.load(path)["F"][90, 0, 0] * 0.0433641, rel=1e-4)
    write_molecule(path, 12, 0)
    with pytest.raises(ValueError, match="12 frames, too few"):
        sets.read_frames(frames, tmp_path, "kcal/mol")
