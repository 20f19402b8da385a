"""What a preset resolves to changes on purpose only: trained rows of docs/results stand on it.

A preset that changes on purpose changes ``tests/support/resolved_presets.json`` in the same commit.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farfield.models.factory import build_model, default_config, network_class, network_names

RESOLVED = json.loads(
    (Path(__file__).parents[1] / "support" / "resolved_presets.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", network_names())
def test_presets_are_what_they_were(name):
    found = {preset: default_config(name, preset) for preset in network_class(name).presets}
    assert found == RESOLVED[name]


@pytest.mark.parametrize("name", network_names())
def test_a_network_of_its_name_alone_is_its_small_preset(name):
    assert build_model({"name": name}).config == {"name": name, **RESOLVED[name]["small"]}
