"""A potential written down as one graph of tensor operations, from positions to forces.

The whole function (network, derivative by the positions, by the strain where there is a stress) is
run once on tensors without values, whose sizes are symbols, and every operation is recorded. What
comes out is right for any number of atoms and edges; structures of one batch have one size.

Cost: some seconds, once.
"""

from __future__ import annotations

import dataclasses

import sympy
import torch
from torch import Tensor
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
GRAPHS, ATOMS, EDGES = 3, 97, 1009


def symbolic_tensors(inputs: Inputs, batch: AtomBatch) -> list[Tensor]:
    """Tensors without values and with symbols for sizes, like those of a batch."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    graphs = 1 if inputs.single else GRAPHS
    names = ["graphs atoms", "graphs atoms", "edges", "edges"]
    names += ["graphs", "edges"] if inputs.periodic else []
    names += ["graphs" for _ in inputs.features]

    sizes, found = {"graphs": graphs, "atoms": ATOMS, "edges": EDGES}, []
    for tensor, named in zip(inputs.tensors(batch), names, strict=True):
        leading = [sizes[name] for name in named.split()]
        fixed = tensor.shape[len(leading) :]
        moving = [DimDynamic.STATIC if size == 1 else DimDynamic.DUCK for size in leading]
        context = StatelessSymbolicContext(moving + [DimDynamic.STATIC for _ in fixed])
        like = torch.empty(*leading, *fixed, dtype=tensor.dtype)
        found.append(mode.from_tensor(like, symbolic_context=context))
    return found


@dataclasses.dataclass(frozen=True)
class Trace:
    """What :func:`trace` gives.

    graph: module of the recorded operations; it takes ``Inputs.tensors`` and holds the weights.
    example: tensors without values for its inputs. names: of its outputs, in order. max_atoms: of
    a structure, None where any number is right.
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

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(run_traced(potential, inputs, list(tensors)).values())

    example = tuple(symbolic_tensors(inputs, batch))
    try:
        # tables that the network keeps are made of numbers, before there are tensors without
        names = tuple(run_traced(potential, inputs, inputs.tensors(batch)))
        graph = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*example)
    except NotTraceableError:
        raise
    except Exception as error:  # noqa: BLE001  a network may do anything that a trace cannot hold
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise NotTraceableError(lines[0]) from error

    rewrite(graph)
    return Trace(graph, example, names, _largest_size(example))


def _largest_size(example: tuple[Tensor, ...]) -> int | None:
    """Largest number of atoms of a structure for which the trace is right."""
    size = example[1].shape[1].node
    largest = None
    for guard in size.shape_env.guards:
        condition = guard.expr
        bounded = isinstance(condition, sympy.Le) and condition.lhs == size.expr
        if not (bounded and condition.rhs.is_Integer):
            raise NotTraceableError(f"sizes decide what is computed: {condition}")
        largest = min(int(condition.rhs), largest or int(condition.rhs))
    return largest
