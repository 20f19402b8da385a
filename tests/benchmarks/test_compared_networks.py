"""Options of compared networks: known ones pass, unknown ones say so."""

import pytest

from benchmarks import compared_networks as models


def test_an_unknown_option_is_left_out_only_where_nothing_changes(monkeypatch):
    known = {name: field for name, field in models.known_options().items() if name != "charges"}
    monkeypatch.setattr(models, "known_options", lambda: known)
    assert models.accepted({"charges": "none", "far_heads": 2}) == {"far_heads": 2}
    with pytest.raises(ValueError, match="has no option charges"):
        models.accepted({"charges": "latent"})
    with pytest.raises(ValueError, match="far_expansion .* must be one of .*, got wavelets"):
        models.accepted({"far_expansion": "wavelets"})


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
