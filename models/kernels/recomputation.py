"""Functions that keep their arguments and nothing else for the backward pass, to any order.

``torch.utils.checkpoint`` saves the memory of one backward pass. Where forces are trained that pass
is itself differentiated, and its own graph holds every temporary again. Here the backward pass is a
function that is recomputed too:

    y = f(x),      x' = (df/dx)^T y',      x'' = d<x', z>/d(x, y')

and each line keeps the arguments of its own function only. So memory holds the arguments, plus the
temporaries of the one function that runs.

Cost: each derivative runs the function once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from farfield.models.kernels.needed_gradients import needed_inputs
from farfield.models.tracing import is_tracing

Tensors = tuple[Tensor, ...]


def runs_again(module: nn.Module) -> bool:
    """Whether a module with an attribute ``recompute`` is to save memory now.

    Where it was asked to and trains; a traced network is written down as usual.
    """
    return module.recompute and module.training and not is_tracing()


def recomputed(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, whose temporaries are made again for every derivative.

    Gradients reach ``tensors`` alone, so ``function`` must hold no other tensor that needs one. It
    must give the same values whenever it runs (no random numbers). The gradient of a leaf is
    computed whether it is asked for or not; the gradient of a view (``leaf.view_as(leaf)``) is not.
    """
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
        return function(*tensors)
    return _Recomputed.apply(lambda *given: (function(*given),), *tensors)[0]


def weight_views(module: nn.Module) -> dict[str, Tensor]:
    """Views of the weights of a module by name, for :func:`recomputed_module`.

    To be made once for all calls of one pass: each view holds a gradient of its own.
    """
    return {name: weight.view_as(weight) for name, weight in module.named_parameters()}


def recomputed_module(
    module: nn.Module, weights: Mapping[str, Tensor], *tensors: Tensor, **others: object
) -> Tensor:
    """``module(*tensors, **others)`` with other weights, as :func:`recomputed`.

    weights: by name, as :func:`weight_views` gives them. others: what needs no gradient.
    """

    def run(*given: Tensor) -> Tensor:
        own = dict(zip(weights, given[len(tensors) :], strict=True))
        return functional_call(module, own, given[: len(tensors)], others)

    return recomputed(run, *tensors, *weights.values())


class _Recomputed(torch.autograd.Function):
    """``function(*tensors) -> tensors`` with its gradients as another function of this kind."""

    @staticmethod
    def forward(ctx, function: Callable[..., Tensors], *tensors: Tensor) -> Tensors:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return function(*_leaves(tensors))

    @staticmethod
    def backward(ctx, *cotangents: Tensor):
        """Gradients (None, one per tensor): None for the function and where none is needed."""
        needed = needed_inputs(ctx)[1:]
        gradients = _gradients_of(ctx.function, len(cotangents), needed)
        arguments = (*cotangents, *ctx.saved_tensors)
        if torch.is_grad_enabled():
            found = iter(_Recomputed.apply(gradients, *arguments))
        else:
            found = iter(gradients(*_leaves(arguments)))
        return None, *(next(found) if is_needed else None for is_needed in needed)


def _leaves(tensors: Tensors) -> Tensors:
    """The same values, cut off from what made them: one may depend on another."""
    return tuple(tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors)


def _gradients_of(
    function: Callable[..., Tensors], outputs: int, needed: tuple[bool, ...]
) -> Callable[..., Tensors]:
    """(cotangents, tensors) -> gradients of the tensors that need one."""

    def gradients(*arguments: Tensor) -> Tensors:
        """One gradient for each tensor that needs one, zero where no output depends on it."""
        cotangents, tensors = arguments[:outputs], arguments[outputs:]
        leaves = [tensor for tensor, is_needed in zip(tensors, needed, strict=True) if is_needed]
        is_differentiated = torch.is_grad_enabled()

        with torch.enable_grad():
            pairs = zip(function(*tensors), cotangents, strict=True)
            # the gradient of a linear function does not depend on its argument
            pairs = [(value, cotangent) for value, cotangent in pairs if value.requires_grad]
            if not pairs:
                return tuple(torch.zeros_like(tensor) for tensor in leaves)
            values, cotangents = zip(*pairs, strict=True)
            return torch.autograd.grad(
                values,
                leaves,
                cotangents,
                create_graph=is_differentiated,
                allow_unused=True,
                materialize_grads=True,
            )

    return gradients
