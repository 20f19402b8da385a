"""Residual stacks whose memory does not grow with depth.

    x1 = x2 = x;   y1 = x1 + f(x2),   y2 = x2 + g(y1)  for every pair (f, g);   (y1 + y2) / 2

(Gomez et al. 2017, "The reversible residual network", eq. 6 and 8). A pair is undone by ``x2 = y2 -
g(y1)``, ``x1 = y1 - f(x2)``. So the backward pass needs the result of the last pair alone: from the
last pair to the first it computes the inputs of the pair, runs f and g on them again with the same
random numbers, and takes their gradients. An ordinary stack keeps what every pair has computed.

All layers read one context (edge rotations, radial features, envelopes, ...). Its tensors are found
and replaced by ``layer_context.py``: each run of a layer reads a copy with tensors of its own.

Digits. Subtraction does not undo addition to the last digit, and what is missing grows on the way
back. The streams are therefore sums in float64, whatever the type of the features, which layers
read and give in their own type. Largest relative error of a gradient against float64, for layers
that start with a norm, at depth 2, 12, 48: 8e-7, 6e-7, 3e-6 in float32 (plain autograd: 4e-7, 9e-7,
3e-6) and 1e-15, 2e-14, 2e-13 in float64. Without norms, where features grow sixty-fold over 48
pairs, float32 loses everything but one digit, in plain autograd too.

Cost: one more run of all layers. Memory, whatever the depth: the
context, the graph of one layer, and a few tensors of the size of x, half of them in float64. Second
derivatives need the graph of all layers, so a pass that builds one (``create_graph=True``: forces
that are trained on) takes the memory of an ordinary stack.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call

from farfield.models.kernels.needed_gradients import needed_inputs
from farfield.models.layers.layer_context import context_tensors, with_tensors

Pairs = Sequence[tuple[nn.Module, nn.Module]]


@dataclasses.dataclass
class _RandomState:
    """State of the random numbers of the CPU, and of one GPU (None: on the CPU)."""

    cpu: Tensor
    cuda: Tensor | None
    device: torch.device

    @classmethod
    def now(cls, device: torch.device, place: Tensor) -> _RandomState:
        """The state that layers on ``device`` find now, kept in the memory of ``place``."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(place.copy_(torch.get_rng_state()), cuda, device)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same numbers again inside a with-block; the generators are left untouched."""
        with torch.random.fork_rng(devices=[] if self.cuda is None else [self.device]):
            # a copy: torch 2.13 crashes on a state that is part of a larger tensor
            torch.set_rng_state(self.cpu.clone())
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield


@dataclasses.dataclass
class _Replay:
    """What a backward pass needs, next to tensors, to run the layers again.

    Attributes
        layers     f and g of the first pair, f and g of the second, ...
        context    what they read, without graph
        tensors    the tensors in there
        active     places of those that need gradients
        owned      for each layer, name -> place of its parameters among all parameters
        states     random state before each layer, filled by the forward pass
        training   the mode of each layer
    """

    layers: list[nn.Module]
    context: object
    tensors: list[Tensor]
    active: list[int]
    owned: list[dict[str, int]]
    training: list[bool]
    states: list[_RandomState] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, layers: list[nn.Module], context: object, parameters: list[Tensor]) -> _Replay:
        """The layers as they are now; ``parameters`` are all of them, each once."""
        tensors = context_tensors(context)
        detached = [tensor.detach() if tensor.requires_grad else tensor for tensor in tensors]
        place = {id(parameter): n for n, parameter in enumerate(parameters)}
        # a parameter that a layer has under two names is there twice
        named = [layer.named_parameters(remove_duplicate=False) for layer in layers]
        return cls(
            layers,
            with_tensors(context, detached),
            detached,
            [n for n, tensor in enumerate(tensors) if tensor.requires_grad],
            [{name: place[id(p)] for name, p in of_layer} for of_layer in named],
            [layer.training for layer in layers],
        )

    def context_of(self, active: Sequence[Tensor]) -> object:
        """A context of its own for one run, with these tensors in the active places."""
        tensors = list(self.tensors)
        for place, tensor in zip(self.active, active, strict=True):
            tensors[place] = tensor
        return with_tensors(self.context, tensors)

    def read_by(self, place: int) -> list[int]:
        """Places of what layer number ``place`` can read among active tensors and parameters."""
        count = len(self.active)
        return [*range(count), *(count + n for n in sorted(set(self.owned[place].values())))]

    def run(self, place: int, x: Tensor, context: object, parameters: Sequence[Tensor]) -> Tensor:
        """Layer number ``place`` with its random numbers and with these parameters."""
        own = {name: parameters[index] for name, index in self.owned[place].items()}
        with self.states[place].again():
            return functional_call(self.layers[place], own, (x, context), tie_weights=False)

    def check_mode(self) -> None:
        """RuntimeError where a layer has changed its mode since the forward pass."""
        if self.training != [layer.training for layer in self.layers]:
            raise RuntimeError(
                "reversible layers changed between train and eval mode after their forward pass; "
                "call backward before model.train() or model.eval()"
            )


class _TwoStreams(Function):
    """Both streams at the end of the stack; arguments: replay, x, active tensors, parameters.

    Every layer moves one stream by what it reads of the other, then the two change places.
    """

    @staticmethod
    def forward(ctx, replay: _Replay, x: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Run the layers without a graph, and note the random state before each."""
        context = replay.context_of([t.detach() for t in tensors[: len(replay.active)]])
        moved = read = x.double()
        # in one piece, for the reason given in _by_inversion
        places = torch.get_rng_state().repeat(len(replay.layers), 1)
        for layer, place in zip(replay.layers, places, strict=True):
            replay.states.append(_RandomState.now(x.device, place))
            moved, read = read, moved + layer(read.to(x.dtype), context)

        ctx.replay = replay
        ctx.save_for_backward(x, moved, read, *tensors)
        return moved, read

    @staticmethod
    def backward(ctx, moved_gradient: Tensor, read_gradient: Tensor) -> tuple:
        """Gradients by inversion, or with a graph of their own where one is asked for."""
        needed = needed_inputs(ctx)[1:]
        ctx.replay.check_mode()
        x, moved, read, *tensors = ctx.saved_tensors
        cotangents = moved_gradient, read_gradient

        if torch.is_grad_enabled():
            return None, *_with_graph(ctx.replay, [x, *tensors], needed, cotangents)
        return None, *_by_inversion(ctx.replay, (moved, read), [x, *tensors], needed, cotangents)


def _by_inversion(
    replay: _Replay,
    streams: tuple[Tensor, Tensor],
    tensors: list[Tensor],
    needed: Sequence[bool],
    cotangents: tuple[Tensor, Tensor],
) -> list[Tensor | None]:
    """Gradients by the needed ``tensors`` (x first), one layer after the other from the last.

    streams: at the end. At any time there are two streams, their two gradients, the sums of
    gradients, and the graph of one layer.
    """
    x, *others = tensors
    leaves = [
        tensor.detach().requires_grad_(use) for tensor, use in zip(others, needed[1:], strict=True)
    ]
    # made before all else: what outlives the layers must not lie between what they free, or the
    # memory of the process grows with depth although the memory of its tensors does not
    sums = [torch.zeros_like(leaf) if leaf.requires_grad else None for leaf in leaves]
    reached = set()
    (moved, read), (moved_gradient, read_gradient) = streams, cotangents

    for place in reversed(range(len(replay.layers))):
        # before this layer the streams had changed places: it read what is now called ``moved``
        source = moved.to(x.dtype, copy=True).requires_grad_()
        read_leaves = [n for n in replay.read_by(place) if leaves[n].requires_grad]
        inputs = [source, *(leaves[n] for n in read_leaves)]
        step, gradients = _pulled_back(replay, place, inputs, leaves, read_gradient)
        moved, read = read - step, moved

        of_source, *of_leaves = gradients
        moved_gradient, read_gradient = read_gradient, moved_gradient
        if of_source is not None:
            read_gradient = read_gradient + of_source
        for n, gradient in zip(read_leaves, of_leaves, strict=True):
            if gradient is not None:
                sums[n] += gradient
                reached.add(n)

    x_gradient = (moved_gradient + read_gradient).to(x.dtype) if needed[0] else None
    return [x_gradient, *(total if n in reached else None for n, total in enumerate(sums))]


def _pulled_back(
    replay: _Replay, place: int, inputs: list[Tensor], leaves: list[Tensor], cotangent: Tensor
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """What a layer gives for ``inputs[0]``, and the gradients of <result, cotangent> by inputs."""
    count = len(replay.active)
    with torch.enable_grad():
        context = replay.context_of(leaves[:count])
        step = replay.run(place, inputs[0], context, leaves[count:])
    if not step.requires_grad:
        return step, [None] * len(inputs)
    gradients = torch.autograd.grad(step, inputs, cotangent.to(step.dtype), allow_unused=True)
    return step.detach(), gradients


def _with_graph(
    replay: _Replay,
    tensors: list[Tensor],
    needed: Sequence[bool],
    cotangents: tuple[Tensor, Tensor],
) -> list[Tensor | None]:
    """Gradients by the needed ones of x, active tensors and parameters, with their own graph.

    All layers run again from x as an ordinary stack. An argument may be computed from another one
    (a length from a vector); the gradients of a function are those by views of its arguments, none
    of which is computed from another.
    """
    x, *others = [tensor.view_as(tensor) for tensor in tensors]
    count = len(replay.active)
    context = replay.context_of(others[:count])
    moved = read = x.double()
    for place in range(len(replay.layers)):
        moved, read = read, moved + replay.run(place, read.to(x.dtype), context, others[count:])

    # a stream that only constants have entered has no graph
    pairs = [
        (stream, cotangent)
        for stream, cotangent in zip((moved, read), cotangents, strict=True)
        if stream.requires_grad
    ]
    streams, cotangents = zip(*pairs, strict=True)
    inputs = [tensor for tensor, use in zip([x, *others], needed, strict=True) if use]
    found = iter(
        torch.autograd.grad(streams, inputs, cotangents, create_graph=True, allow_unused=True)
    )
    return [next(found) if use else None for use in needed]


class _PairedLayers(nn.Module):
    """Pairs of layers (f, g), each called as ``f(x, context)``; the names of all parameters."""

    def __init__(self, pairs: Pairs):
        super().__init__()
        if not pairs:
            raise ValueError("a stack of layers needs at least one pair, got none")
        self.pairs = nn.ModuleList(nn.ModuleList(pair) for pair in pairs)


class ReversibleLayers(_PairedLayers):
    """Two-stream residual stack whose memory in training does not grow with depth.

    Formula: see the module. ``forward(x (nodes, ...), context) -> (nodes, ...)``; pairs: modules
    (f, g) that are called as ``f(x, context)`` and give the shape of x. Gradients reach x, all
    parameters and all tensors of the context. A layer must give the same result for the same x,
    context, parameters and random numbers (of torch's default generators): no running statistics.
    Layers stay in train or eval mode from forward to backward; RuntimeError where they do not.
    Values that a context caches by itself are computed again for each layer, unless they lie in a
    part of it without tensors that need gradients.

    First derivatives keep x and the two streams alone. Those with a graph of their own
    (``create_graph=True``) are exact too, but need the memory of an ordinary stack.

    Not the function of :class:`PlainLayers`, although the parameters have the same names: weights
    that were trained in one are of no use to the other.

    Example

        layers = ReversibleLayers([(attention, feed_forward) for _ in range(48)])
        features = layers(features, geometry)
    """

    def forward(self, x: Tensor, context: object) -> Tensor:
        """(nodes, ...) -> (nodes, ...)."""
        layers = [layer for pair in self.pairs for layer in pair]
        parameters = list(self.parameters())
        replay = _Replay.of(layers, context, parameters)
        tensors = context_tensors(context)
        active = [tensors[n] for n in replay.active]
        first, second = _TwoStreams.apply(replay, x, *active, *parameters)
        return ((first + second) / 2).to(x.dtype)


class PlainLayers(_PairedLayers):
    """Ordinary residual stack of the same layers: ``x <- x + f(x)``, ``x <- x + g(x)`` for a pair.

    ``forward(x (nodes, ...), context) -> (nodes, ...)``. Not the function that
    :class:`ReversibleLayers` computes; faster by a third, with memory that grows with depth.
    """

    def forward(self, x: Tensor, context: object) -> Tensor:
        """(nodes, ...) -> (nodes, ...)."""
        for pair in self.pairs:
            for layer in pair:
                x = x + layer(x, context)
        return x
