"""One option: texts and yaml values become checked values, at the limits and beyond."""

import argparse
import math

import pytest

from farfield.common.option_values import MAX_CHOICES_WIDTH, Limits, Option


def option(kind=int, default=3, limits=None, choices=None, optional=False, origin=None) -> Option:
    limits = Limits(**(limits or {}))
    return Option("--size", "size", kind, default, limits, choices, optional, origin, "length, cm")


@pytest.mark.parametrize(
    "limits, inside, outside, words",
    [
        ({"low": 1}, [1, 2], [0, math.nan], ">= 1"),
        ({"above": 1}, [2], [1, 0, math.nan], "> 1"),
        ({"high": 5}, [5, 4], [6, math.nan], "<= 5"),
        ({"below": 5}, [4], [5, 6, math.nan], "< 5"),
        ({"low": 0, "below": 1}, [0, 0.5], [1], "< 1"),
        ({"low": 0, "below": 1}, [0], [-1], ">= 0"),
        ({"low": 0, "above": 0, "high": 9}, [9], [10], "<= 9"),
    ],
)
def test_limits_say_which_of_them_is_broken(limits, inside, outside, words):
    assert [Limits(**limits).broken_by(value) for value in inside] == [None] * len(inside)
    assert [Limits(**limits).broken_by(value) for value in outside] == [words] * len(outside)


@pytest.mark.parametrize(
    "given, text, value",
    [
        ({}, "7", 7),
        ({"kind": float}, "1e-3", 1e-3),
        ({"kind": float, "limits": {"high": math.inf}}, "inf", math.inf),
        ({"kind": str, "default": "a"}, "b", "b"),
        ({"optional": True}, "None", None),
        ({"kind": str, "choices": ("cm", "mm")}, "mm", "mm"),
    ],
)
def test_texts_are_read(given, text, value):
    assert option(**given).read(text) == value


@pytest.mark.parametrize(
    "given, text, words",
    [
        ({}, "x", "must be a whole number, got 'x'; leave --size out for the default 3"),
        ({}, "", "must not be empty; leave --size out for the default 3"),
        ({}, "none", "must be a whole number, got 'none'"),
        ({"kind": float, "default": None}, "x", "must be a number, got 'x'; leave --size out$"),
        ({"kind": float}, "inf", "must be < inf, got inf"),
        ({"kind": float}, "nan", "must be < inf, got nan"),
        ({"kind": float, "limits": {"below": 9}}, "9", "must be < 9, got 9.0"),
        ({"limits": {"low": 1}}, "0", "must be >= 1, got 0"),
        ({"kind": str, "choices": ("cm", "mm")}, "m", "must be one of cm, mm"),
        ({"origin": "8, set by the data"}, "x", "for the default 8, set by the data$"),
    ],
)
def test_what_is_no_value_says_what_to_type(given, text, words):
    with pytest.raises(argparse.ArgumentTypeError, match=words):
        option(**given).read(text)


def test_yaml_values_obey_the_same_limits():
    assert option().check(7) == option().check("7") == 7
    assert option(kind=bool, default=True).check(False) is False
    assert option(kind=bool, default=None).check(None) is None
    for default, value in ((True, None), (True, 1), (None, "yes")):
        with pytest.raises(argparse.ArgumentTypeError, match="must be true or false, got"):
            option(kind=bool, default=default).check(value)
    with pytest.raises(argparse.ArgumentTypeError, match="must be >= 1"):
        option(limits={"low": 1}).check(0)


def test_help_shows_choices_and_default():
    assert option().help() == "length, cm (default 3)" and option().metavar() == "INT"
    assert option(default=None).help() == "length, cm"
    assert option(kind=bool, default=True).help() == "length, cm (default yes)"
    assert option(kind=bool, default=False).help() == "length, cm (default no)"
    few, many = ("cm", "mm"), ("x" * (MAX_CHOICES_WIDTH - 2), "yy")
    fitting = ("x" * (MAX_CHOICES_WIDTH - 2), "y")
    assert option(choices=few).metavar() == "{cm,mm}" and ":" not in option(choices=few).help()
    assert option(choices=fitting).metavar() == "{" + ",".join(fitting) + "}"
    assert option(choices=many).metavar() == "NAME"
    assert option(choices=many).help() == f"length, cm: {', '.join(many)} (default 3)"
