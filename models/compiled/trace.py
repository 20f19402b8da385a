"""A potential written down as one graph of tensor operations, from positions to forces.

The whole function (network, derivative by the positions, by the strain where there is a stress) is
run once on tensors without values, whose sizes are symbols, and every operation is recorded. What
comes out is right for any number of atoms and edges; of a training step, for batches of one size.

Cost: some seconds, once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import sympy
import torch
from torch import SymInt, Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from farfield.models.batch import AtomBatch
from farfield.models.compiled.rewrites import rewrite
from farfield.models.compiled.traced_inputs import Inputs, run_traced
from farfield.models.potential import Potential
from farfield.models.tracing import NotTraceableError

# any sizes would do that differ from one another, small enough for a sum over pairs
GRAPHS, ATOMS, NODES, EDGES = 3, 97, 313, 1009


def symbolic_tensors(inputs: Inputs, batch: AtomBatch) -> list[Tensor]:
    """Tensors without values and with symbols for sizes, like those of a batch."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    sizes = {"graphs": GRAPHS, "atoms": ATOMS, "nodes": NODES, "edges": EDGES}
    if inputs.fixed is not None:
        sizes = {"edges": EDGES}
    elif inputs.single:
        sizes["graphs"] = 1
    return [
        _without_values(mode, tensor, [sizes[name] for name in names if name in sizes])
        for tensor, names in zip(inputs.tensors(batch), inputs.sizes, strict=True)
    ]


def fixed_tensors(tensors: list[Tensor], mode: FakeTensorMode) -> list[Tensor]:
    """Tensors without values, of the same fixed sizes, such as weights."""
    return [_without_values(mode, tensor, []) for tensor in tensors]


def _without_values(mode: FakeTensorMode, tensor: Tensor, leading: list[int]) -> Tensor:
    """Like ``tensor``, with symbols for its first sizes, whose values are ``leading``."""
    fixed = tensor.shape[len(leading) :]
    moving = [DimDynamic.STATIC if size == 1 else DimDynamic.DUCK for size in leading]
    context = StatelessSymbolicContext(moving + [DimDynamic.STATIC for _ in fixed])
    like = torch.empty((*leading, *fixed), dtype=tensor.dtype)
    return mode.from_tensor(like, symbolic_context=context)


@dataclasses.dataclass(frozen=True)
class Trace:
    """What :func:`trace` gives.

    graph: module of the recorded operations; it holds every tensor that is no input. example:
    tensors without values for its inputs. names: of its outputs, in order. max_atoms: of a
    structure, None where any number is right.
    """

    graph: GraphModule
    example: tuple[Tensor, ...]
    names: tuple[str, ...]
    max_atoms: int | None


def trace(potential: Potential, batch: AtomBatch) -> Trace:
    """Record ``potential`` for batches like this one, of any size.

    The potential is in evaluation mode and its weights ask for no gradient. Raises
    :class:`NotTraceableError` in one line where its operations depend on more than the three sizes.
    """
    inputs = Inputs.of(batch)

    def function(*tensors: Tensor) -> dict[str, Tensor]:
        return run_traced(potential, inputs, list(tensors))

    return record(function, inputs.tensors(batch), symbolic_tensors(inputs, batch))


def record(
    function: Callable[..., dict[str, Tensor]], tensors: list[Tensor], example: list[Tensor]
) -> Trace:
    """Record what a function computes.

    function: of tensors, gives tensors by name. tensors: arguments to try it on. example: the same
    without values, with symbols for sizes. Errors: see :func:`trace`.
    """
    try:
        # tables that a network keeps are made of numbers, before there are tensors without
        names = tuple(function(*tensors))
        plain = make_fx(
            lambda *arguments: tuple(function(*arguments).values()),
            tracing_mode="symbolic",
            _allow_non_fake_inputs=True,
        )
        graph = plain(*example)
    except NotTraceableError:
        raise
    except Exception as error:  # noqa: BLE001  a network may do anything that a trace cannot hold
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise NotTraceableError(lines[0]) from error

    for node in graph.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise NotTraceableError(f"the network draws random numbers ({node.target})")
    rewrite(graph)
    return Trace(graph, tuple(example), names, _largest_size(example))


def _largest_size(example: list[Tensor]) -> int | None:
    """Largest number of atoms of a structure for which the trace is right."""
    symbols = [size for tensor in example for size in tensor.shape if isinstance(size, SymInt)]
    environment = symbols[0].node.shape_env
    atoms = [size.node.expr for size in symbols if size.node.hint == ATOMS]

    largest = None
    for guard in environment.guards:
        condition = guard.expr
        bounded = isinstance(condition, sympy.Le) and condition.lhs in atoms
        if not (bounded and condition.rhs.is_Integer):
            raise NotTraceableError(f"sizes decide what is computed: {condition}")
        largest = min(int(condition.rhs), largest or int(condition.rhs))
    return largest
