"""Which gradients a backward pass will use.

A pass for some of the leaves, ``autograd.grad(energy, positions)`` or ``backward(inputs=weights)``,
leaves out whatever leads to none of them. Torch's own operations are told so; a
``torch.autograd.Function`` is only told which inputs are part of a graph at all, and would compute
gradients that are then thrown away: by the positions in the pass that trains on forces, by the
weights in molecular dynamics.

Cost: a microsecond for each argument.
"""

from __future__ import annotations

import torch
from torch.autograd.function import FunctionCtx


def needed_inputs(ctx: FunctionCtx) -> tuple[bool, ...]:
    """For each argument of the forward, whether the running backward pass goes on to it.

    To be called in ``backward``. True at most where ``ctx.needs_input_grad`` is. The engine is
    asked as in torch's ``register_multi_grad_hook``; it refuses the question for leaves, which
    therefore always count as needed.
    """
    # one node for each argument that needs a gradient
    nodes = (node for node, _ in ctx.next_functions if node is not None)
    return tuple(needed and _runs(next(nodes)) for needed in ctx.needs_input_grad)


def _runs(node: torch.autograd.graph.Node) -> bool:
    return node.name().endswith("AccumulateGrad") or torch._C._will_engine_execute_node(node)
