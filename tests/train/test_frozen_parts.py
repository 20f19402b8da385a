"""Parts of a network by name: they never share a weight, and freezing says what it cannot do."""

import dataclasses

import pytest
from torch import nn

from farfield.models.factory import build_model, network_class, network_names
from farfield.train.frozen_parts import BACKBONE, HEADS, freeze, frozen_names


@pytest.fixture(scope="module")
def network():
    """An E2Former of two layers."""
    return build_model(
        {"name": "e2former", "irreps": "4x0e+4x1o", "schedule": "first-order2", "near_heads": 2}
    )


# networks that have these options have their weights among the parts
ADDED = {"encoder": "dit", "with_cluster": True, "experts": 4}
OWN = [one for one in network_names() if network_class(one).__module__.startswith("farfield.")]


@pytest.mark.parametrize("name", OWN)
def test_parts_of_every_network_are_there_and_share_nothing(name):
    fields = {field.name for field in dataclasses.fields(network_class(name).Options)}
    added = {key: value for key, value in ADDED.items() if key in fields}
    network = build_model({"name": name, **added})
    weights = [key for key, _ in network.named_parameters()]
    parts = network.weight_parts()
    found = {part: set(frozen_names(weights, parts, part)) for part in parts}
    assert all(found.values()) and "layers" in parts
    assert sum(map(len, found.values())) == len(set().union(*found.values()))

    # all layers are its layers one by one, and what is no head is the backbone
    last = 1 + max(int(part) for part in _numbers(found["layers"], parts["layers"]))
    one_by_one = [set(frozen_names(weights, parts, f"layers:{i}")) for i in range(last)]
    assert all(one_by_one) and set().union(*one_by_one) == found["layers"]
    if HEADS in parts:
        backbone = set(frozen_names(weights, parts, BACKBONE))
        assert backbone == set(weights) - found[HEADS]


def test_a_part_without_weights_is_refused(network):
    with pytest.raises(ValueError, match="--freeze clusters: this network has no weights there"):
        freeze(network, "clusters")


def _numbers(names, beginnings):
    for name in names:
        for beginning in beginnings:
            if name.startswith(f"{beginning}."):
                yield name.removeprefix(f"{beginning}.").split(".")[0]


def test_frozen_weights_need_no_gradient(network):
    frozen = set(freeze(network, "embedding, layers:0"))
    try:
        for name, weight in network.named_parameters():
            assert weight.requires_grad == (name not in frozen)
        assert any("blocks.0." in name for name in frozen)
        assert not any("blocks.1." in name for name in frozen)
    finally:
        network.requires_grad_(True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("embeding", "did you mean 'embedding'"),
        ("layers:2", "layers have the numbers 0 .. 1"),
        ("layers:1-0", "layers have the numbers 0 .. 1"),
        ("layers:x", "layers have the numbers 0 .. 1"),
        ("heads:0", "only layers have numbers"),
        ("backbone,heads", "leave a part to train"),
        ("", "must be one of"),
    ],
)
def test_what_cannot_be_frozen_is_one_line(network, text, words):
    with pytest.raises(ValueError, match=words) as caught:
        freeze(network, text)
    assert "\n" not in str(caught.value)
    assert all(weight.requires_grad for weight in network.parameters())


def test_a_network_without_parts_says_so():
    class Bare(nn.Linear):
        def weight_parts(self):
            return {}

    with pytest.raises(ValueError, match="names no parts"):
        freeze(Bare(1, 1), "heads")
