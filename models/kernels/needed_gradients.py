"""Which gradients a backward pass will use.

A pass for some of the leaves, ``autograd.grad(energy, positions)`` or ``backward(inputs=weights)``,
leaves out whatever leads to none of them. Torch's own operations are told so; a
``torch.autograd.Function`` is told only which inputs are part of a graph at all, and would make
gradients that are then thrown away: those by the positions in the pass that trains on forces, those
by the weights in molecular dynamics.
"""

from __future__ import annotations

import torch
from torch.autograd.function import FunctionCtx


def needed_inputs(ctx: FunctionCtx) -> tuple[bool, ...]:
    """For each argument of the forward, whether the running backward pass goes on to it; to be
    called in ``backward``.

    At most ``ctx.needs_input_grad``. The engine is asked as in torch's
    ``register_multi_grad_hook``; for leaves it refuses the question, and they always count as
    wanted.
    """
    nodes = (
        node for node, _ in ctx.next_functions if node is not None
    )  # one for each argument that needs a gradient
    return tuple(needed and _runs(next(nodes)) for needed in ctx.needs_input_grad)


def _runs(node: torch.autograd.graph.Node) -> bool:
    return node.name().endswith("AccumulateGrad") or torch._C._will_engine_execute_node(node)
