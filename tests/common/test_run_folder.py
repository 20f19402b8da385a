"""What a resumed run may change, and what it hears about options that are newer than it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from farfield.common.command_line import OptionParser, add_config_option
from farfield.common.configuration import IF_UNNAMED
from farfield.common.run_folder import check_same_run, newer_options, save_config
from farfield.common.yaml_files import read_yaml, with_checksum

SAVED = {"task": "toy", "model": {"width": 4}, "training": {"lr": 0.1, "epochs": 3}}


def current(**training) -> dict:
    return SAVED | {"training": SAVED["training"] | training}


def test_a_changed_option_is_refused_unless_it_is_free():
    check_same_run(Path("run"), SAVED, current(epochs=9), frozenset({"epochs"}))
    with pytest.raises(ValueError, match=r"run: training.lr is 0.1 there and 0.2 here"):
        check_same_run(Path("run"), SAVED, current(lr=0.2), frozenset())
    with pytest.raises(ValueError, match="its task is 'toy', not 'other'"):
        check_same_run(Path("run"), SAVED, current() | {"task": "other"}, frozenset())


def test_an_option_that_is_newer_than_the_run_is_no_change_at_its_default():
    now = current(warmth=0.5) | {IF_UNNAMED: {"warmth": 0.5}}
    check_same_run(Path("run"), SAVED, now, frozenset())
    assert newer_options(SAVED, now) == {"warmth": 0.5} and newer_options(SAVED, SAVED) == {}


def test_another_value_of_a_newer_option_is_a_change():
    for usual in ({"warmth": 0.0}, {}):
        now = current(warmth=0.5) | {IF_UNNAMED: usual}
        with pytest.raises(
            ValueError, match="begun without the option training.warmth, .* 0.5 her"
        ):
            check_same_run(Path("run"), SAVED, now, frozenset())
        check_same_run(Path("run"), SAVED, now, frozenset({"warmth"}))


def test_a_given_value_of_a_newer_option_is_refused(tmp_path):
    """The file of the run lacks the option; a value of the command line is compared anyway."""
    parser = OptionParser("toy", "")
    add_config_option(parser)
    run = parser.section("run", "")
    run.add("--run-dir", str, str(tmp_path))
    run.add("--resume", bool, False)
    parser.section("training", "").add("--warmth", float, 0.5)
    file = tmp_path / "config.yaml"
    begun = f"task: toy\nrun: {{run_dir: {tmp_path}, resume: false}}\n"
    file.write_text(begun)

    for given in ([], ["--warmth", "0.5"]):
        save_config(tmp_path, parser.parse_config(["--resume", *given]), frozenset({"resume"}))
        assert "if_unnamed" not in file.read_text()
        file.write_text(begun)
    with pytest.raises(ValueError, match="begun without the option training.warmth, .* 0.7 here"):
        changed = parser.parse_config(["--resume", "--warmth", "0.7"])
        save_config(tmp_path, changed, frozenset({"resume"}))


def test_an_option_that_is_gone_is_a_change():
    with pytest.raises(ValueError, match=r"training.lr is 0.1 there and None here"):
        check_same_run(Path("run"), SAVED, SAVED | {"training": {"epochs": 3}}, frozenset())


def test_a_changed_config_is_refused_when_a_run_goes_on(tmp_path):
    text = yaml.safe_dump({"task": "toy", "training": {"epochs": 10}})
    path = tmp_path / "config.yaml"
    path.write_text(with_checksum(text))
    assert read_yaml(path, unchanged=True) == yaml.safe_load(text)

    # also what a resumed run may change is not changed by a wrong bit, or a lost line
    whole = path.read_text()
    for changed in (whole.replace("10", "30"), whole[:-4], whole.replace("task: toy\n", "")):
        path.write_text(changed)
        with pytest.raises(ValueError, match="config.yaml .* its checksum does not fit"):
            read_yaml(path, unchanged=True)
        read_yaml(path)  # a template of another run is the user's

    # as a user changes it, and as earlier versions wrote it
    path.write_text(text.replace("10", "30"))
    assert read_yaml(path, unchanged=True)["training"] == {"epochs": 30}
