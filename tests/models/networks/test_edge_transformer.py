"""The EdgeTransformer under the laws that it keeps, each option once, and what it says of the
others.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.factory import build_model
from farfield.models.graph_ops import GraphIndex
from farfield.models.layers import edge_attention
from farfield.models.network_check import check_network
from farfield.models.networks import edge_transformer
from farfield.models.networks.edge_transformer import PRESETS
from tests.laws import ModelCases, ModelSuite
from tests.support.law_cases import joined, permuted, random_rotation, relative_error, turned
from tests.support.live_bytes import LiveBytes
from tests.support.small_edge_transformer import (
    EDGE_TRANSFORMER,
    edge_transformer_case,
    paired_batch,
)

DEFAULT = edge_transformer_case("default")
FREE = [
    DEFAULT,
    edge_transformer_case("one-layer", layers=1, heads=1),
    edge_transformer_case("diagonal", decomposer="diagonal"),
    edge_transformer_case("direct", forces="direct"),
    edge_transformer_case("no-forces", forces="none"),
    edge_transformer_case("wide-feed-forward", feed_forward_multiple=3, waves=5),
    edge_transformer_case("dipole", dipole=True),
]
INVARIANT = [
    edge_transformer_case("invariant", waves=0),
    edge_transformer_case("invariant-diagonal", waves=0, decomposer="diagonal"),
    edge_transformer_case("invariant-dipole", waves=0, dipole=True),
]


class TestEdgeTransformers(ModelSuite):
    # predictions turn only as far as training taught it, see the remarks of the network
    test_rotation = test_reflection = test_symmetric_structures_turn = None

    @pytest.fixture(params=FREE, ids=[case.name for case in FREE])
    def case(self, request):
        return request.param


class TestInvariantEdgeTransformers(ModelSuite):
    """Without waves of the direction only distances are left: every law holds."""

    @pytest.fixture(params=INVARIANT, ids=[case.name for case in INVARIANT])
    def case(self, request):
        return request.param


@pytest.fixture
def model(double):
    torch.manual_seed(0)
    return build_model(EDGE_TRANSFORMER).eval()


def batch_of(*sizes: int, seed: int = 0) -> AtomBatch:
    return paired_batch(list(sizes), torch.Generator().manual_seed(seed))


class TestWhatTheRemarksSay(ModelCases):
    def test_remarks(self):
        free, invariant = (
            build_model(EDGE_TRANSFORMER),
            build_model({**EDGE_TRANSFORMER, "waves": 0}),
        )
        assert any("not equivariant" in line for line in free.remarks)
        assert not any("equivariant" in line for line in invariant.remarks)
        assert all("any distance" in found.remarks[0] for found in (free, invariant))

    def test_the_frame_is_seen(self, double):
        model, batch, expected = self.answered(DEFAULT)
        rotation = random_rotation(self.draws(), torch.float64)
        found = model(turned(DEFAULT, batch, rotation))["energy"]
        assert relative_error(found, expected["energy"]) > 1e-6

    def test_atoms_hear_each_other_at_any_distance(self, double):
        model, batch, _ = self.prepare(DEFAULT, (3,))
        pair = joined(DEFAULT, [batch, batch])
        apart = pair.positions + torch.tensor([0.0, 500.0]).repeat_interleave(3).unsqueeze(1)
        one = dataclasses.replace(
            pair,
            positions=apart,
            graph=GraphIndex(pair.graph.src, pair.graph.dst, torch.tensor([6])),
        )
        gap = model(one)["energy"] - 2 * model(batch)["energy"]
        assert float(gap.detach().abs()) > 1e-6

    def test_the_validator_agrees(self, double):
        torch.manual_seed(0)
        check_network(build_model({**EDGE_TRANSFORMER, "waves": 0}), batch_of(4, 3))
        with pytest.raises(ValueError, match="a direction in space is preferred"):
            check_network(build_model(EDGE_TRANSFORMER), batch_of(4, 3))


class TestWhatIsRead:
    def test_no_edge(self, model):
        batch = batch_of(4, 3)
        none = torch.zeros(0, dtype=torch.long)
        bare = dataclasses.replace(batch, graph=GraphIndex(none, none, batch.graph.nodes_per_graph))
        assert torch.equal(model(batch)["forces"], model(bare)["forces"])

    @pytest.mark.parametrize("first", range(4))
    def test_any_atom_may_be_the_first(self, model, first):
        batch = batch_of(4)
        order = torch.tensor([first, *(atom for atom in range(4) if atom != first)])
        found = model(permuted(DEFAULT, batch, order))
        expected = model(batch)
        torch.testing.assert_close(found["energy"], expected["energy"], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found["forces"], expected["forces"][order])

    @pytest.mark.parametrize("name", ["total_charge", "spin"])
    def test_charge_and_spin_where_they_are(self, model, name):
        batch = batch_of(4, 3)
        with torch.no_grad():
            for weight in model.network.backbone.atoms.inputs.parameters():
                weight += 0.1
        neutral = dataclasses.replace(batch, graph_features={name: torch.zeros(2)})
        charged = dataclasses.replace(batch, graph_features={name: torch.tensor([0.0, 1.0])})
        energy = model(batch)["energy"]
        assert torch.equal(model(neutral)["energy"], energy)
        change = (model(charged)["energy"] - energy).detach().abs()
        assert change[0] == 0 and change[1] > 1e-6
        assert name in model.optional_inputs

    def test_conditions_are_asked_for(self, double):
        model = build_model({**EDGE_TRANSFORMER, "condition": "time,spin"})
        assert model.inputs == ["time", "spin"] and model.optional_inputs == ["total_charge"]
        with pytest.raises(ValueError, match="no input 'time'"):
            model(batch_of(3))

    def test_structures_without_atoms(self, model):
        batch, gaps = batch_of(3, 2), batch_of(3, 0, 2, 0)
        assert torch.equal(model(gaps)["forces"], model(batch)["forces"])
        assert torch.equal(model(gaps)["energy"][[1, 3]], torch.zeros(2, dtype=torch.float64))
        assert model(batch_of(0))["energy"].tolist() == [0.0]


def slopes(model, batch: AtomBatch) -> list[Tensor]:
    """Energy, forces, and the gradients of a loss on both by the weights."""
    model.train()
    out = model(batch)
    loss = out["energy"].square().sum() + out["forces"].square().sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [out["energy"], out["forces"], *(g for g in gradients if g is not None)]


class TestMemory:
    @pytest.mark.parametrize("forces", ["conservative", "direct"])
    def test_groups_chunks_and_second_runs_change_nothing(self, double, monkeypatch, forces):
        torch.manual_seed(0)
        model = build_model({**EDGE_TRANSFORMER, "forces": forces})
        batch = batch_of(5, 2, 4, 5)
        expected = slopes(model, batch)
        monkeypatch.setattr(edge_transformer, "VALUES_PER_GROUP", 8 * 40)
        monkeypatch.setattr(edge_transformer, "VALUES_KEPT", 0)
        monkeypatch.setattr(edge_attention.edge_attention, "__defaults__", (None, 100))
        for found, value in zip(slopes(model, batch), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-12)

    def test_a_layer_keeps_its_input_alone(self, monkeypatch):
        """Training on forces: 6 layers take little more than 2."""

        def peak(layers: int) -> int:
            torch.manual_seed(0)
            model = build_model({**EDGE_TRANSFORMER, "layers": layers}).train()
            batch = batch_of(12, 12)
            with LiveBytes() as live:
                model(batch)["forces"].square().sum().backward()
            return live.peak

        plain = [peak(layers) for layers in (2, 6)]
        monkeypatch.setattr(edge_transformer, "VALUES_KEPT", 0)
        economical = [peak(layers) for layers in (2, 6)]
        assert plain[1] >= 2 * plain[0]
        assert economical[1] <= 1.3 * economical[0] and economical[1] <= plain[1] / 3


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"width": 10, "heads": 4}, "width must be a multiple of heads = 4, got 10"),
            ({"heads": 0}, "heads must be >= 1"),
            ({"waves": -1}, "waves must be >= 0"),
            ({"decomposer": "poolings"}, "did you mean 'pooling'"),
            ({"stress": True}, "stress belongs to periodic structures"),
            ({"forces": "direct", "waves": 0}, "direct forces need directions"),
            ({"condition": "spin,,"}, "condition must be names"),
            ({"avg_atoms": 0.0}, "avg_atoms must be > 0"),
        ],
    )
    def test_bad_options_are_one_line(self, options, words):
        with pytest.raises(ValueError, match=words) as error:
            build_model({**EDGE_TRANSFORMER, **options})
        assert "\n" not in str(error.value)

    def test_structures_that_do_not_fit_are_one_line(self):
        model = build_model({**EDGE_TRANSFORMER, "max_atoms": 4})
        batch = batch_of(4, 5)
        cells = {
            "cell": torch.eye(3).expand(2, 3, 3),
            "periodic": torch.zeros(2, 3, dtype=torch.bool),
        }
        crystal = {**cells, "periodic": torch.tensor([[False] * 3, [True] * 3])}
        unknown = {"atomic_numbers": torch.full((9,), 119)}
        for changes, words in [({}, "5 atoms"), (crystal, "periodic"), (unknown, "119")]:
            with pytest.raises(ValueError, match=words) as error:
                model(dataclasses.replace(batch, **changes))
            assert "\n" not in str(error.value)

        larger = build_model({**EDGE_TRANSFORMER, "max_atoms": 5})
        assert torch.isfinite(larger(dataclasses.replace(batch, **cells))["energy"]).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_learn(preset):
    torch.manual_seed(0)
    model = build_model({"name": "edge_transformer", "preset": preset}).train()
    out = model(batch_of(3, 2))
    (out["energy"].square().sum() + out["forces"].square().sum()).backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert bool(out["forces"].any())
