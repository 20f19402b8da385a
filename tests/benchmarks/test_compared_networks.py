"""Options of compared networks."""

import pytest

from benchmarks import compared_networks as models


def test_rows_are_options_of_the_network():
    known = models.known_options()
    for row, options in models.DEFAULT_ROWS.items():
        for name, value in options.items():
            choices = known[name].choices
            assert not choices or value in choices or value == models.NEAR_ONLY, (row, name)


def test_options_of_a_command_line_have_the_types_of_the_network():
    text = "far_heads=3,far_weight=0.5,far_learnable_radial=false,condition=none,norm=layer_norm"
    assert models.typed_options(text) == {
        "far_heads": 3,
        "far_weight": 0.5,
        "far_learnable_radial": False,
        "condition": None,
        "norm": "layer_norm",
    }
    assert models.typed_options(None) == {}
    wrong = {
        "far_heads": "name=value",
        "fare_heads=3": "name=value",
        "far_heads=2.5": "of type int, got '2.5'",
        "far_learnable_radial=2": "true or false",
    }
    for text, words in wrong.items():
        with pytest.raises(ValueError, match=words):
            models.typed_options(text)
