"""Schedules read from text, stochastic depth, and what a block adds to its input."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from farfield.models.far_field.attention import FarFieldOptions
from farfield.models.graph_ops import GraphIndex
from farfield.models.layers.radial import polynomial_envelope
from farfield.models.near_field.e2former_attention import ORDERS, NearFieldShape
from farfield.models.near_field.edge_geometry import NearFieldGeometry
from farfield.models.networks.blocks import (
    ATTENTIONS,
    MAX_LAYERS,
    Block,
    BlockOptions,
    DropPath,
    FarLayer,
    HybridLayer,
    NearLayer,
    Scene,
    parse_schedule,
)
from tests.support.law_cases import cutoff_graph

NEAR = NearFieldShape(lmax=2, channels=8, heads=2, hidden=6, score_width=4)
FAR = FarFieldOptions(
    heads=2, key_features=2, value_channels=2, kernel_lmax=2, expansion="pairwise"
)


def options(attention: str, far_weight: float = 1.0, **change) -> BlockOptions:
    """Of a small block; the near field has the order that ``attention`` asks for."""
    order = ATTENTIONS[attention].near_order
    near = None if order is None else dataclasses.replace(NEAR, attention_order=order)
    chosen = {
        "ffn_channels": 8,
        "norm": "rms_norm_sh",
        "norm_epsilon": 0.3,
        "feed_forward": "gate",
        "drop_path": 0.0,
        **change,
    }
    far = dataclasses.replace(FAR, weight=far_weight)
    return BlockOptions(2, 8, near, far, typical_atoms=20.0, **chosen)


def scene(nodes: int = 6) -> Scene:
    generator = torch.Generator().manual_seed(0)
    positions = 1.5 * torch.randn(nodes, 3, generator=generator)
    graph = cutoff_graph(positions, torch.tensor([nodes - 2, 2]), 4.0)
    near = NearFieldGeometry.from_positions(
        graph,
        positions,
        envelope=lambda length: polynomial_envelope(length / 4.0),
        invariants=lambda length: torch.randn(len(length), 6, generator=generator),
    )
    return Scene(near, positions)


def features(nodes: int = 6) -> torch.Tensor:
    return torch.randn(nodes, 9, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("text", "layers", "expected"),
    [
        ("first-order", 3, ["first-order"] * 3),
        ("fmm-node", 1, ["fmm-node"]),
        ("first-order6+fmm-node2", 4, ["first-order"] * 6 + ["fmm-node"] * 2),
        (
            "zero-order1+hybrid-all-order2+fmm-node",
            2,
            ["zero-order", "hybrid-all-order", "hybrid-all-order", "fmm-node", "fmm-node"],
        ),
        (" first-order2 + fmm-node1 ", 9, ["first-order", "first-order", "fmm-node"]),
        ("first-order+fmm-node2", 1, ["first-order", "fmm-node", "fmm-node"]),
    ],
)
def test_schedules(text, layers, expected):
    assert parse_schedule(text, layers) == expected


@pytest.mark.parametrize(
    ("text", "layers", "quoted"),
    [
        ("", 2, ["''", "without a name", "first-order6+fmm-node2"]),
        ("first-order6+", 2, ["'first-order6+'", "without a name"]),
        ("6", 2, ["without a name"]),
        ("first-ordre2", 2, ["'first-ordre'", "did you mean 'first-order'?"]),
        ("hybrid-fmm-node", 2, ["'hybrid-fmm-node'", "known: zero-order"]),
        ("zzz", 2, ["'zzz'", "known: zero-order", "fmm-node"]),
        ("first-order0", 2, ["'first-order'", "at least once, got 0"]),
        ("first-order", 0, ["at least once, got 0"]),
        ("first-order-2", 2, ["'first-order-'", "did you mean 'first-order'?"]),
        ("first-order60+fmm-node60", 2, [f"more than {MAX_LAYERS} layers"]),
        ("first-order999999999999", 2, [f"more than {MAX_LAYERS} layers"]),
    ],
)
def test_bad_schedules_are_one_line_with_the_mend(text, layers, quoted):
    with pytest.raises(ValueError) as error:
        parse_schedule(text, layers)
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in quoted), message


def test_every_order_has_its_hybrid():
    assert set(ATTENTIONS) == {*ORDERS, "fmm-node", *(f"hybrid-{order}" for order in ORDERS)}


@pytest.mark.parametrize(
    ("change", "quoted"),
    [
        ({"norm": "batch"}, "rms_norm_sh, layer_norm_sh, layer_norm, got 'batch'"),
        ({"feed_forward": "moe"}, "gate, sphere_grid, two_body, got 'moe'"),
        ({"ffn_channels": 0}, "must be >= 1, got 0"),
        ({"drop_path": 1.0}, r"in \[0, 1\), got 1.0"),
        ({"drop_path": -0.1}, r"in \[0, 1\), got -0.1"),
        ({"far_weight": float("nan")}, "weight of the far field must be finite, got nan"),
    ],
)
def test_bad_options_are_refused(change, quoted):
    with pytest.raises(ValueError, match=quoted):
        options("first-order", **change)


def test_a_hybrid_starts_as_its_near_field():
    """The same seed gives the same weights but for those of the far field, also those drawn later,
    and other seeds other far fields.
    """

    def start(attention: str, seed: int) -> dict:
        torch.manual_seed(seed)
        return Block(attention, options(attention)).state_dict() | {"after": torch.rand(3)}

    near, hybrid, other = (
        start("first-order", 0),
        start("hybrid-first-order", 0),
        start("hybrid-first-order", 1),
    )
    for name, value in near.items():
        assert torch.equal(
            value, hybrid[name.replace("attention.attention.", "attention.near.attention.", 1)]
        ), name
    far = [name for name in hybrid if ".far." in name and hybrid[name].dim() > 1]
    assert far and all(
        not torch.equal(hybrid[name], other[name]) for name in far if "radial" not in name
    )


def test_hybrid_is_near_plus_scaled_far():
    torch.manual_seed(0)
    hybrid, x, where = HybridLayer(options("hybrid-first-order")), features(), scene()
    near, far = hybrid.near(x, where), hybrid.far(x, where)
    for scale in (0.0, 1.0, -2.5):
        nn.init.constant_(hybrid.far_weight, scale)
        torch.testing.assert_close(hybrid(x, where), near + scale * far)
    assert (
        isinstance(hybrid.near, NearLayer)
        and isinstance(hybrid.far, FarLayer)
        and hybrid.far_weight.requires_grad
    )


def test_far_weight_starts_where_it_is_told():
    assert HybridLayer(options("hybrid-zero-order", far_weight=0.25)).far_weight.item() == 0.25


@pytest.mark.parametrize("attention", ["zero-order", "fmm-node", "hybrid-first-order"])
def test_block_adds_two_branches(attention):
    """Pre-norm: x + attention(norm(x)), then + feed-forward(norm(.)); a block whose branches give
    zero is the identity.
    """
    torch.manual_seed(0)
    block, x, where = Block(attention, options(attention)), features(), scene()
    middle = x + block.attention(block.attention_norm(x), where)
    expected = middle + block.feed_forward(block.feed_forward_norm(middle))
    torch.testing.assert_close(block(x, where), expected)
    assert float((expected - x).detach().abs().max()) > 0.1
    dead = Block(attention, options(attention))
    for parameter in dead.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(dead(x, where), x)


def test_drop_path_drops_whole_graphs_and_keeps_the_mean():
    sizes = torch.arange(1, 201) % 3 + 1
    graph = GraphIndex(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long), sizes)
    x = torch.ones(int(sizes.sum()), 4, 2)
    torch.manual_seed(0)
    out = DropPath(0.25).train()(graph, x)
    for index in range(200):
        assert len(out[graph.graph_of_node == index].unique()) == 1
    kept = out[graph.node_offsets[:-1], 0, 0]
    assert set(kept.tolist()) <= {0.0, float(torch.tensor(1 / 0.75))}
    assert abs(float((kept > 0).float().mean()) - 0.75) < 0.1
    assert torch.equal(DropPath(0.25).eval()(graph, x), x) and torch.equal(
        DropPath(0.0).train()(graph, x), x
    )
