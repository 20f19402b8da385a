"""Contractions of a multilinear form, differentiable to any order.

    T(a_1, .., a_n), linear in each argument;   dT/da_k = T without a_k

is linear in the arguments that are left, and its derivatives leave out one more: contracted with a
cotangent in the place of a_k they are T without another argument. So one function that contracts T
serves all derivatives, and nothing but the arguments is kept for them.

Cost: that of the contractions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from farfield.models.kernels.needed_gradients import needed_inputs


class MultilinearForm(Protocol):
    """A form T. arguments: their names, in the order in which :func:`contraction` takes them."""

    arguments: tuple[str, ...]

    def contract(self, needed: set[str], given: dict[str, Tensor]) -> dict[str, Tensor]:
        """T without each of the ``needed`` arguments, by name.

        given: the arguments by name; those that no result reads may be missing.
        """


def contraction(form: MultilinearForm, left_out: str, *arguments: Tensor) -> Tensor:
    """T without the argument ``left_out``, of all others in their order."""
    return _Contraction.apply(form, left_out, *arguments)


class _Contraction(Function):
    """T without one argument; its derivatives are T without another one."""

    @staticmethod
    def forward(ctx, form: MultilinearForm, left_out: str, *arguments: Tensor) -> Tensor:
        """``arguments`` in the order of ``form.arguments``, without the one left out."""
        ctx.form, ctx.left_out = form, left_out
        ctx.save_for_backward(*arguments)
        names = [name for name in form.arguments if name != left_out]
        return form.contract({left_out}, dict(zip(names, arguments, strict=True)))[left_out]

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple:
        """One sweep that shares its products, or one contraction for each gradient.

        Only contractions of their own can be differentiated again.
        """
        form = ctx.form
        names = [name for name in form.arguments if name != ctx.left_out]
        every = dict(zip(names, ctx.saved_tensors, strict=True)) | {ctx.left_out: cotangent}

        # a list: a set has no order of its own
        needed = [name for name, use in zip(names, needed_inputs(ctx)[2:], strict=True) if use]
        if torch.is_grad_enabled():
            gradients = {
                name: _Contraction.apply(form, name, *_others(form, name, every)) for name in needed
            }
        else:
            gradients = form.contract(set(needed), every)
        return None, None, *(gradients.get(name) for name in names)


def _others(form: MultilinearForm, left_out: str, every: dict[str, Tensor]) -> Iterator[Tensor]:
    return (every[name] for name in form.arguments if name != left_out)
