"""Laws of the reversible stack, against its two streams in plain autograd.

Same function, same derivatives of both orders, same random numbers; memory that does not grow.
"""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from farfield.models.graph_ops import use_backend, weighted_sum
from farfield.models.layers.global_attention import TaylorAttention
from farfield.models.layers.layer_norm import LayerNorm
from farfield.models.layers.reversible import PlainLayers, ReversibleLayers
from farfield.models.near_field.edge_geometry import NearFieldGeometry
from farfield.models.networks.blocks import DropPath
from tests.support.draws import draw
from tests.support.law_cases import cutoff_graph
from tests.support.live_bytes import LiveBytes
from tests.support.turns import relative_error

NODES, WIDTH, DEPTH = 6, 4, 3


@dataclasses.dataclass
class Surroundings:
    """What the layers share: a tensor that is cached, one in a tuple, and one without gradient."""

    scale: Tensor
    shifts: tuple[Tensor, ...]
    order: Tensor

    @functools.cached_property
    def squared(self) -> Tensor:
        return self.scale.square()


class Layer(nn.Module):
    """Linear, SiLU, dropout, then what the context says; one parameter is never read."""

    def __init__(self, width: int = WIDTH, dropout: float = 0.3):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.unused = nn.Parameter(torch.zeros(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Surroundings) -> Tensor:
        hidden = self.dropout(nn.functional.silu(self.linear(x)))
        return hidden.index_select(0, context.order) * context.squared + context.shifts[0] * x.sin()


def two_streams(stack: ReversibleLayers, x: Tensor, context: object) -> Tensor:
    """The definition, with an ordinary graph."""
    first = second = x
    for f, g in stack.pairs:
        first = first + f(second, context)
        second = second + g(first, context)
    return (first + second) / 2


def stack(depth: int = DEPTH, **layer) -> ReversibleLayers:
    torch.manual_seed(0)
    return ReversibleLayers([(Layer(**layer), Layer(**layer)) for _ in range(depth)]).double()


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Features x, and the values that the context is made of."""
    drawn = draw(NODES, WIDTH, seed=1), draw(NODES, 1, seed=2), draw(NODES, 1, seed=3)
    return tuple(tensor.to(dtype).requires_grad_() for tensor in drawn)


def surroundings(scale: Tensor, shift: Tensor) -> Surroundings:
    """A shift that is computed from the scale must not count twice in the gradient of the scale."""
    return Surroundings(scale, (shift * scale.cos(), scale), torch.arange(NODES - 1, -1, -1))


def run(form, made: ReversibleLayers, x: Tensor, *rest: Tensor) -> Tensor:
    torch.manual_seed(5)
    return form(made, x, surroundings(*rest))


def call(made: ReversibleLayers, x: Tensor, context: object) -> Tensor:
    return made(x, context)


def first_gradients(form, made, tensors) -> list[Tensor]:
    out = run(form, made, *tensors)
    leaves = [*tensors, *made.parameters()]
    found = torch.autograd.grad(out.pow(3).sum(), leaves, materialize_grads=True)
    return [out.detach(), *found]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype, bar", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_outputs_and_gradients_are_the_two_streams(training, dtype, bar):
    made, tensors = stack().to(dtype).train(training), inputs(dtype)
    found = first_gradients(call, made, tensors)
    expected = first_gradients(two_streams, made, tensors)
    assert [tensor.dtype for tensor in found] == [dtype] * len(expected)
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) <= bar if other.any() else not one.any()


class Normed(Layer):
    """The same after a norm, as the layers of a network are."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.norm = LayerNorm(WIDTH)

    def forward(self, x: Tensor, context: Surroundings) -> Tensor:
        return super().forward(self.norm(x), context)


@pytest.mark.parametrize("depth", [2, 12, 48])
def test_inversion_loses_few_digits(depth):
    """Gradients against float64: in float32 no worse than those of plain autograd."""

    def gradients(form, dtype) -> list[Tensor]:
        torch.manual_seed(0)
        made = ReversibleLayers([(Normed(), Normed()) for _ in range(depth)]).to(dtype)
        tensors = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs(torch.float32)]
        return first_gradients(form, made, tensors)

    expected = gradients(two_streams, torch.float64)

    def error(found: list[Tensor]) -> float:
        pairs = zip(found, expected, strict=True)
        return max(relative_error(one, other) for one, other in pairs if other.any())

    assert error(gradients(call, torch.float64)) <= 1e-12
    single, plain = (error(gradients(form, torch.float32)) for form in (call, two_streams))
    assert single <= max(2 * plain, 2e-6)


def test_second_derivatives_are_the_two_streams():
    """A force that is trained on: through x, context and parameters, with random numbers."""
    found = []
    for form in (call, two_streams):
        made, tensors = stack(), inputs()
        energy = run(form, made, *tensors).pow(3).sum()
        forces = torch.autograd.grad(energy, tensors, create_graph=True)
        loss = energy + sum(force.square().sum() for force in forces)
        loss.backward()
        leaves = [*tensors, *(p for p in made.parameters() if p.shape != (2,))]
        found.append([leaf.grad for leaf in leaves])
    for one, other in zip(*found, strict=True):
        assert relative_error(one, other) <= 1e-12


def test_second_derivatives_are_differences():
    made = stack(2).eval()

    def out(x, scale, shift, weight, bias):
        names = {"pairs.1.0.linear.weight": weight, "pairs.0.1.linear.bias": bias}
        return functional_call(made, names, (x, surroundings(scale, shift)))

    weights = draw(WIDTH, WIDTH, seed=8).requires_grad_(), draw(WIDTH, seed=9).requires_grad_()
    assert torch.autograd.gradcheck(out, (*inputs(), *weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(out, (*inputs(), *weights), fast_mode=True)


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_context_that_is_computed_from_a_parameter_of_a_layer(create_graph):
    found = []
    for form in (call, two_streams):
        made = stack().eval()
        weight, (x, scale, shift) = made.pairs[1][0].linear.weight, inputs()
        out = run(form, made, x, scale * weight.square().sum() / 16, shift)
        found += torch.autograd.grad(out.pow(3).sum(), weight, create_graph=create_graph)
    assert relative_error(*found) <= 1e-12


def test_random_numbers_go_on_as_after_the_plain_stack():
    states = []
    for form in (call, two_streams):
        made, tensors = stack(), inputs()
        out = run(form, made, *tensors)
        states.append(torch.get_rng_state())
        out.sum().backward()
        states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)
    torch.manual_seed(5)
    assert not torch.equal(torch.get_rng_state(), states[0])


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("kept", ["x", "scale", "pairs.0.0", "pairs.2.1"])
def test_only_some_tensors_need_gradients(kept, create_graph):
    found = []
    for form in (call, two_streams):
        made, tensors = stack(), dict(zip(("x", "scale", "shift"), inputs(), strict=True))
        leaves = {**tensors, **dict(made.named_parameters())}
        for name, leaf in leaves.items():
            leaf.requires_grad_(name.startswith(kept))

        out = run(form, made, *tensors.values()).square().sum()
        needed = [leaf for leaf in leaves.values() if leaf.requires_grad]
        found.append(
            torch.autograd.grad(out, needed, create_graph=create_graph, materialize_grads=True)
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


class Twice(nn.Module):
    """A layer that has one parameter under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor, context: Surroundings) -> Tensor:
        return self.second(self.first(x).sin()) * context.scale


def test_parameters_that_have_two_names():
    """In one layer, and in two layers."""
    found = []
    for form in (call, two_streams):
        made, tensors = stack().eval(), inputs()
        made.pairs[2][1].linear = made.pairs[0][0].linear
        made.pairs[1][0] = Twice().double()
        torch.nn.init.constant_(made.pairs[1][0].first.weight, 0.3)
        torch.nn.init.constant_(made.pairs[1][0].first.bias, 0.2)
        found.append(first_gradients(form, made, tensors))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_parameters_that_no_layer_reads_get_no_gradient():
    made = stack()
    run(call, made, *inputs()).sum().backward()
    assert all((p.grad is None) == name.endswith("unused") for name, p in made.named_parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    made, tensors = stack(), inputs()
    with mode():
        out = run(call, made, *tensors)
    assert not out.requires_grad
    assert torch.equal(out, run(two_streams, made, *tensors).detach())


def test_layers_that_do_not_depend_on_anything():
    """Layers that give constants and read no context: gradients of the streams alone."""

    class Constant(nn.Module):
        def forward(self, x: Tensor, context: None) -> Tensor:
            return torch.ones_like(x)

    made, x = ReversibleLayers([(Constant(), Constant())] * 2), inputs()[0]
    out = made(x, None)
    (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    torch.testing.assert_close(out, x + 2)
    torch.testing.assert_close(gradient, 2 * (x + 2))
    torch.testing.assert_close(*torch.autograd.grad(gradient.sum(), x), 2 * torch.ones_like(x))


def test_a_graph_that_is_kept_gives_the_same_gradients_again():
    made, tensors = stack(), inputs()
    out = run(call, made, *tensors).sum()
    first = torch.autograd.grad(out, tensors, retain_graph=True)
    second = torch.autograd.grad(out, tensors)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_changes_between_forward_and_backward_are_refused():
    made, tensors = stack(), inputs()
    out = run(call, made, *tensors).sum()
    made.eval()
    with pytest.raises(RuntimeError, match="train and eval"):
        out.backward()

    out = run(call, made, *tensors).sum()
    with torch.no_grad():
        made.pairs[0][0].linear.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


class Global(nn.Module):
    """Attention over all nodes, which has derivatives of its own, then stochastic depth."""

    def __init__(self):
        super().__init__()
        self.attention = TaylorAttention(WIDTH, 2, 2, gate_values=True)
        self.drop_path = DropPath(0.3)

    def forward(self, x: Tensor, context: NearFieldGeometry) -> Tensor:
        return self.drop_path(context.graph, self.attention(context.graph, x))


class Local(nn.Module):
    """Messages along edges, with the cached harmonics of the geometry."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, WIDTH)

    def forward(self, x: Tensor, context: NearFieldGeometry) -> Tensor:
        weights = self.linear(context.harmonics(1)) * context.envelope / context.softened_length
        return weighted_sum(context.graph, torch.tanh(x), weights)


@pytest.mark.parametrize("backend", ["torch", "dgl"])
def test_layers_and_geometry_of_the_near_field(backend):
    """Forces, and what a training on forces needs, by the sums of both backends."""
    graph = cutoff_graph(draw(9, 3, seed=1).float(), torch.tensor([5, 4]), 3.0)
    torch.manual_seed(0)
    made, found = ReversibleLayers([(Global(), Local()) for _ in range(3)]).double(), []
    for form in (call, two_streams):
        torch.manual_seed(5)
        positions = draw(9, 3, seed=1).requires_grad_()
        context = NearFieldGeometry.from_positions(
            graph, positions, envelope=torch.cos, invariants=lambda length: length.view(-1, 1)
        )
        with use_backend(backend):
            energy = form(made, draw(9, WIDTH, seed=2), context).pow(2).sum()
            found.append(torch.autograd.grad(energy, positions, retain_graph=True))
            forces = torch.autograd.grad(energy, positions, create_graph=True)[0]
            found[-1] += torch.autograd.grad(forces.square().sum(), [*made.parameters()])
    for one, other in zip(*found, strict=True):
        assert relative_error(one, other) <= 1e-11


def peak_bytes(kind: type, depth: int) -> int:
    """Of one training step on 8192 nodes."""
    torch.manual_seed(0)
    made = kind([(Layer(8), Layer(8)) for _ in range(depth)])
    x, scale, shift = (torch.randn(8192, width) for width in (8, 1, 1))
    context = Surroundings(scale.requires_grad_(), (shift.requires_grad_(),), torch.arange(8192))
    with LiveBytes() as live:
        made(x, context).square().sum().backward()
    return live.peak


def test_memory_does_not_grow_with_depth():
    shallow, deep = peak_bytes(ReversibleLayers, 4), peak_bytes(ReversibleLayers, 48)
    assert deep <= 1.15 * shallow
    # the counter sees an ordinary stack grow
    assert peak_bytes(PlainLayers, 48) >= 8 * peak_bytes(PlainLayers, 4)


def test_plain_layers_are_an_ordinary_residual_stack():
    made, (x, scale, shift) = stack().eval(), inputs()
    plain = PlainLayers([tuple(pair) for pair in made.pairs])
    context, expected = surroundings(scale, shift), x
    for f, g in made.pairs:
        expected = expected + f(expected, context)
        expected = expected + g(expected, context)
    torch.testing.assert_close(plain(x, context), expected, rtol=0, atol=0)
    assert list(plain.state_dict()) == list(made.state_dict())
    assert relative_error(plain(x, context), made(x, context)) > 1e-2


@pytest.mark.parametrize("kind", [ReversibleLayers, PlainLayers])
def test_a_stack_of_nothing_is_refused(kind):
    with pytest.raises(ValueError, match="at least one pair"):
        kind([])
