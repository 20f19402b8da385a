"""What a resumed run may change, and what it hears about options that are newer than it."""

from __future__ import annotations

from pathlib import Path

import pytest

from farfield.common.run_folder import check_same_run, newer_options

SAVED = {"task": "toy", "model": {"width": 4}, "training": {"lr": 0.1, "epochs": 3}}


def current(**training) -> dict:
    return SAVED | {"training": SAVED["training"] | training}


def test_a_changed_option_is_refused_unless_it_is_free():
    check_same_run(Path("run"), SAVED, current(epochs=9), frozenset({"epochs"}))
    with pytest.raises(ValueError, match=r"run: training.lr is 0.1 there and 0.2 here"):
        check_same_run(Path("run"), SAVED, current(lr=0.2), frozenset())
    with pytest.raises(ValueError, match="its task is 'toy', not 'other'"):
        check_same_run(Path("run"), SAVED, current() | {"task": "other"}, frozenset())


def test_an_option_that_is_newer_than_the_run_is_no_change():
    now = current(warmth=0.5)
    check_same_run(Path("run"), SAVED, now, frozenset())
    assert newer_options(SAVED, now) == {"warmth": 0.5} and newer_options(SAVED, SAVED) == {}


def test_an_option_that_is_gone_is_a_change():
    with pytest.raises(ValueError, match=r"training.lr is 0.1 there and None here"):
        check_same_run(Path("run"), SAVED, SAVED | {"training": {"epochs": 3}}, frozenset())
