"""Laws of options: flat names, published names, groups, and one line for every mistake."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import pytest

from farfield.models.option_fields import (
    DERIVED,
    LEADS,
    MAIN,
    Alias,
    canonical,
    flat_values,
    make_options,
    option_fields,
)

SHAPES = {"ball": 1, "cube": 2}


@dataclasses.dataclass(frozen=True)
class Far:
    heads: Annotated[int, "attention heads", MAIN, Alias("n_heads")] = 2
    shape: Annotated[str, "shape of it all", SHAPES] = "ball"


@dataclasses.dataclass(frozen=True)
class Wide(Far):
    heads: int = 8  # only the default changes


@dataclasses.dataclass(frozen=True)
class Front:
    kind: Annotated[str, "kind of it", LEADS] = "none"
    width: int = 3


@dataclasses.dataclass(frozen=True)
class Led:
    front: Front = Front()


@dataclasses.dataclass(frozen=True)
class Network:
    size: Annotated[str, "sizes", Alias("width", int, lambda value, now: f"{value}{now[-1]}")] = (
        "4b"
    )
    cutoff: float = 4.0
    limit: int | None = None
    secret: Annotated[int, "set by the network", DERIVED] = 0
    far: Far = Wide()


def test_flat_names_are_the_paths():
    fields = option_fields(Network)
    assert list(fields) == ["size", "cutoff", "limit", "far_heads", "far_shape"]
    heads = fields["far_heads"]
    assert (heads.default, heads.kind, heads.main) == (8, int, True)
    assert heads.help == "attention heads" and heads.aliases[0].name == "n_heads"
    assert fields["far_shape"].choices == ("ball", "cube") and fields["limit"].optional


def test_the_field_that_leads_a_group_has_the_name_of_the_group():
    assert list(option_fields(Led)) == ["front", "front_width"]
    for values in ({"front": "wide"}, {"front": {"kind": "wide"}}, {"front_kind": "wide"}):
        options = make_options(Led, values)
        assert options == Led(Front("wide"))
        assert flat_values(options) == {"front": "wide", "front_width": 3}
    with pytest.raises(ValueError, match="'front' is given twice"):
        make_options(Led, {"front": "wide", "front_kind": "none"})


def test_values_survive_the_way_there_and_back():
    for values in ({"far_heads": 3}, {"far": {"heads": 3}}, {"n_heads": 3}):
        options = make_options(Network, values)
        assert options.far.heads == 3 and options.far.shape == "ball" and options.cutoff == 4.0
        assert make_options(Network, flat_values(options)) == options
    assert make_options(Network, {"cutoff": 5}).cutoff == 5.0


def test_a_published_name_may_build_on_the_value_of_the_option():
    assert make_options(Network, {"width": 7}).size == "7b"
    assert make_options(Network, {"width": 7, "size": "1x"}).size == "7x"
    assert canonical(Network, {"width": 7}, {"size": "1y"}) == {"size": "7y"}


@pytest.mark.parametrize(
    ("values", "quoted"),
    [
        ({"far_head": 1}, "unknown option 'far_head'; did you mean 'far_heads'?"),
        ({"zzz": 1}, "unknown option 'zzz'; known: size, cutoff"),
        ({"far": {"depth": 1}}, "unknown option 'far_depth'"),
        ({"secret": 1}, "unknown option 'secret'"),
        ({"far_heads": 1, "n_heads": 2}, "n_heads and far_heads are one option"),
        ({"far_heads": 1, "far": {"heads": 2}}, "option 'far_heads' is given twice"),
        ({"far_heads": 2.0}, "far_heads must be of type int, got 2.0"),
        ({"far_heads": True}, "far_heads must be of type int, got True"),
        ({"cutoff": None}, "cutoff must be of type float, got None"),
    ],
)
def test_mistakes_are_one_line(values, quoted):
    with pytest.raises(ValueError) as error:
        make_options(Network, values)
    assert quoted in str(error.value) and "\n" not in str(error.value)
