"""Laws of the encoder in front: full attention over elements, for whole structures and no further.

The blocks of "dit" start as the identity, so every weight is drawn before a law is held on it.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from farfield.models.factory import build_model
from farfield.models.graph_ops import GraphIndex
from farfield.models.networks.encoder import ATTENTION_KERNELS, ENCODERS, Encoder, EncoderOptions
from tests.laws import ModelSuite
from tests.support.added_weights import assert_no_other_weight_changes, silent_weights
from tests.support.law_cases import Case, joined
from tests.support.small_e2former import (
    case,
    crystal,
    draw,
    made,
    one_structure,
    two_cells,
)

KINDS = [name for name in ENCODERS if name != "none"]
EACH = pytest.mark.parametrize("kind", KINDS)
SMALL = {"encoder_width": 8, "encoder_heads": 2}


def awake(model: torch.nn.Module) -> torch.nn.Module:
    """The model with weights of its encoder that are all drawn."""
    generator = torch.Generator().manual_seed(7)
    for name, weight in model.named_parameters():
        if "encoder." in name:
            with torch.no_grad():
                weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


def encoded(kind: str, **options) -> torch.nn.Module:
    return awake(made(encoder=kind, **SMALL, **options))


def law_case(name: str, **options) -> Case:
    plain = case(name, **SMALL, **options)
    return dataclasses.replace(plain, build=lambda: awake(plain.build()))


CASES = [
    law_case("dit", encoder="dit"),
    law_case("transformer", encoder="transformer", encoder_attention="flash", forces="direct"),
]


class TestE2FormerWithEncoder(ModelSuite):
    @pytest.fixture(params=CASES, ids=[case.name for case in CASES])
    def case(self, request):
        return request.param


def tokens_of(sizes: list[int], kind: str, attention: str = "auto"):
    """An encoder, a graph of ``sizes`` without edges, and scalars of its atoms."""
    torch.manual_seed(0)
    module = Encoder(6, EncoderOptions(kind, 8, 2, 2, attention))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    none = torch.zeros(0, dtype=torch.long)
    return module, GraphIndex(none, none, torch.tensor(sizes)), torch.randn(sum(sizes), 6)


@EACH
def test_it_is_attention_over_the_atoms_of_one_structure(kind, double):
    """In a batch of any sizes, an empty one among them, each structure has what it has alone; and
    an atom hears all others of its structure.
    """
    module, graph, scalars = tokens_of([3, 0, 5, 1, 3], kind)
    together = module(graph, scalars)
    for part, found in zip(scalars.split(graph.sizes), together.split(graph.sizes), strict=True):
        none = graph.src
        alone = module(GraphIndex(none, none, torch.tensor([len(part)])), part)
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-13)

    jacobian = torch.autograd.functional.jacobian
    slope = jacobian(lambda values: module(graph, values).sum(1), scalars).abs().sum(2)
    hears = torch.block_diag(*[torch.ones(size, size) for size in graph.sizes if size]) > 0
    assert torch.equal(slope > 1e-9, hears)


@EACH
def test_all_implementations_are_one_function(kind, double):
    batch = draw((5, 3, 5))
    answers = [encoded(kind, encoder_attention=name)(batch) for name in ATTENTION_KERNELS]
    for answer in answers[1:]:
        for name in ("energy", "forces"):
            torch.testing.assert_close(answer[name], answers[0][name], rtol=1e-12, atol=1e-13)


@EACH
@pytest.mark.parametrize("attention", ATTENTION_KERNELS)
def test_no_derivative_by_positions_flows_through_it(kind, attention, double):
    """Its tokens do not know positions. So a loss on forces, a second derivative, takes the first
    one of the attention alone, and every implementation has that.
    """
    model, batch = encoded(kind, encoder_attention=attention).train(), draw()
    positions = batch.positions.clone().requires_grad_(True)
    seen = []
    model.network.backbone.encoder.register_forward_hook(lambda *call: seen.append(call[2]))
    out = model(dataclasses.replace(batch, positions=positions))
    (slope,) = torch.autograd.grad(seen[0].sum(), positions, allow_unused=True)
    assert seen[0].requires_grad and slope is None

    weights = [weight for name, weight in model.named_parameters() if "encoder." in name]
    slopes = torch.autograd.grad(out["forces"].square().sum(), weights, allow_unused=True)
    directions = [torch.randn_like(weight) for weight in weights]
    expected = sum(
        float((slope * way).sum())
        for slope, way in zip(slopes, directions, strict=True)
        if slope is not None
    )
    losses, step = [], 1e-6
    for move in (step, -2 * step):
        with torch.no_grad():
            for weight, way in zip(weights, directions, strict=True):
                weight += move * way
        losses.append(float(model(batch)["forces"].detach().square().sum()))
    assert expected != 0
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@EACH
def test_every_weight_learns(kind, double):
    assert not silent_weights(encoded(kind), draw(), ".encoder.")


@EACH
def test_it_changes_no_other_first_weight(kind):
    plain, found = made().state_dict(), made(encoder=kind).state_dict()
    assert_no_other_weight_changes(plain, found, ".encoder.")


@EACH
def test_what_is_not_extensive_is_said_and_true(kind, double):
    """Copies far apart add up; other molecules far away change the tokens, and a remark says so."""
    model, (one, other) = encoded(kind), draw((5, 4)).split()
    alone = model(one)["energy"], model(other)["energy"]
    copies = model(one_structure(one, one))["energy"]
    torch.testing.assert_close(copies, 2 * alone[0], rtol=1e-11, atol=1e-11)
    assert abs(float(model(one_structure(one, other))["energy"] - sum(alone))) > 1e-6
    assert [line.split(":")[0] for line in model.remarks] == [f"encoder {kind}"]
    assert made().remarks == []


def test_supercell_has_twice_the_energy(double):
    """Copies of a cell are copies: the tokens are the same."""
    model, batch = encoded("dit"), crystal()
    twice = model(two_cells(batch))["energy"]
    torch.testing.assert_close(twice, 2 * model(batch)["energy"], rtol=1e-12, atol=0)


@EACH
def test_it_reads_what_the_network_is_told(kind, double):
    """A total charge reaches the tokens through ``condition``."""
    model, batch = encoded(kind, condition="total_charge"), draw()
    seen = []
    with torch.no_grad():
        for weight in model.network.backbone.condition.parameters():
            weight += 0.5
    model.network.backbone.encoder.register_forward_hook(lambda *call: seen.append(call[2]))
    for charge in (0.0, 1.0):
        model(
            dataclasses.replace(batch, graph_features={"total_charge": torch.tensor([0, charge])})
        )
    assert torch.equal(seen[0][:5], seen[1][:5]) and not torch.equal(seen[0][5:], seen[1][5:])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"encoder": "dti"},
            "kind of the encoder must be one of none, dit, transformer, got 'dti'",
        ),
        ({"encoder_width": 10}, "width of the encoder must be a multiple of its 4 heads, got 10"),
        ({"encoder_depth": 0}, "depth of the encoder must be >= 1, got 0"),
        ({"encoder_attention": "fast"}, "attention of the encoder must be one of auto, math"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words) as error:
        made(**options)
    assert "\n" not in str(error.value)


def test_an_implementation_that_torch_lacks_is_one_line(monkeypatch):
    """On a CPU torch has no kernel of this name, as a GPU has no flash attention of float32."""
    lacking = (ATTENTION_KERNELS["memory_efficient"][1],) * 2
    monkeypatch.setitem(ATTENTION_KERNELS, "flash", lacking)
    with pytest.raises(ValueError, match="'flash': torch has no such attention for float32"):
        encoded("dit", encoder_attention="flash")(draw())


def test_properties_and_diffusion_have_it_too():
    for name in ("e2former_properties", "e2former_diffusion"):
        options = {"irreps": "8x0e+8x1o", "near_heads": 2, "encoder": "dit", **SMALL}
        model = build_model({"name": name, **options})
        assert any("encoder." in weight for weight in model.state_dict())


def test_joined_batches_of_many_sizes(double):
    """The order of structures in a batch does not matter to any of them."""
    here, model = CASES[0], encoded("dit")
    batches = [draw(sizes, seed) for seed, sizes in enumerate([(5, 2), (1, 5), (2, 2)])]
    together = model(joined(here, batches))["energy"]
    torch.testing.assert_close(
        together, torch.cat([model(one)["energy"] for one in batches]), rtol=1e-12, atol=1e-12
    )
