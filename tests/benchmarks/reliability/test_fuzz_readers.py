"""A few changed files for every reader of foreign files; a careless reader is noticed."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reliability import fuzz_readers
from benchmarks.reliability.foreign_files import FOREIGN, Foreign, hostile, make_pickles, only_file
from benchmarks.reliability.fuzz_readers import enter_in_manifest, foreign_target, measure
from benchmarks.reliability.hostile_pickles import hostile_pickle
from benchmarks.reliability.mutations import BYTES, TEXT, changed_value, mutated
from farfield.dataloader.sources.plain_pickles import read_plain_pickle
from farfield.dataloader.storage.files import file_checksum, write_json


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda one: one.name)
def test_changed_files_are_read_or_refused(foreign, tmp_path):
    row = measure(foreign_target(foreign, tmp_path), 1.0, (7,), None, most=12)
    assert row["inputs"] == 12 == row["read"] + row["refused"], row["faults"]


def test_a_careless_reader_is_noticed(tmp_path):
    def careless(folder: Path):
        return pickle.loads(only_file(folder).read_bytes())

    target = Foreign("careless", make_pickles, careless, (hostile, hostile, *BYTES))
    row = measure(foreign_target(target, tmp_path / "made"), 1.0, (0,), tmp_path / "odd", most=12)
    assert row["code"] > 0
    assert len(row["faults"]) == 12 - row["read"] - row["refused"]
    assert len(list((tmp_path / "odd").iterdir())) == len(row["faults"])


def test_no_hostile_pickle_is_read():
    generator = np.random.default_rng(3)
    for _ in range(40):
        with pytest.raises(ValueError, match="could run code|damaged"):
            read_plain_pickle(hostile_pickle(generator, {"points": np.ones(3)}))


def test_a_seed_repeats_the_changes():
    content = b"1 2.5 words and\nmore 3 lines\n" * 9
    made = [
        [mutated(np.random.default_rng((seed, n)), content, (), TEXT) for n in range(30)]
        for seed in (1, 1, 2)
    ]
    assert made[0] == made[1] != made[2]
    assert content not in made[0][:1] or len(set(made[0])) > 20


def test_nested_values_lose_or_change_one_entry():
    value = {"a": [1, 2, {"b": 3}], "c": "d"}
    changed = [changed_value(np.random.default_rng(n), value) for n in range(30)]
    assert all(one != value for one in changed)
    assert value == {"a": [1, 2, {"b": 3}], "c": "d"}


def test_a_changed_file_is_entered_into_the_manifest(tmp_path):
    (tmp_path / "one.npz").write_bytes(b"changed")
    write_json(tmp_path / "manifest.json", {"files": {"one.npz": "before"}, "settings": {}})
    enter_in_manifest(tmp_path, tmp_path / "one.npz")
    assert file_checksum(tmp_path / "one.npz") in (tmp_path / "manifest.json").read_text()


def test_every_suffix_of_a_stored_file_has_changes():
    for suffix in (".json", ".npz", ".pt", ".npy", ".yaml", ".csv", ".part"):
        assert fuzz_readers.changes_of(suffix)
