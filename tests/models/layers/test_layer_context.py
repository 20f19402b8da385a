"""Tensors of nested contexts: found in order, replaced in copies that share nothing cached."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from farfield.models.layers.layer_context import context_tensors, with_tensors
from tests.support.draws import draw
from tests.support.far_field_clouds import batch


class Ends(NamedTuple):
    first: Tensor
    second: Tensor


@dataclasses.dataclass(frozen=True)
class Inner:
    values: Tensor
    count: int = 3

    @functools.cached_property
    def doubled(self) -> Tensor:
        return 2 * self.values


@dataclasses.dataclass
class Outer:
    graph: object
    length: Tensor
    inner: Inner
    whole: Inner
    ends: Ends
    many: list
    by_name: dict
    missing: Tensor | None = None
    made: Tensor | None = dataclasses.field(default=None, init=False)


def outer() -> Outer:
    a, b, c, d, e, f, g = (draw(2, seed=n) for n in range(7))
    return Outer(batch([2]), a, Inner(b), Inner(c), Ends(d, e), [f, (f, 1)], {"g": g, "h": "text"})


def test_tensors_are_found_in_every_container_in_order():
    found = context_tensors(outer())
    expected = [draw(2, seed=n) for n in (0, 1, 2, 3, 4, 5, 5, 6)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert context_tensors(None) == [] == context_tensors(batch([2]))


def test_a_copy_has_the_new_tensors_and_the_original_keeps_its_own():
    context = outer()
    before = context_tensors(context)
    new = [tensor + 1 for tensor in before]
    copied = with_tensors(context, new)
    assert all(one is other for one, other in zip(context_tensors(copied), new, strict=True))
    assert all(one is other for one, other in zip(context_tensors(context), before, strict=True))

    assert isinstance(copied.ends, Ends) and copied.ends.second is new[4]
    assert copied.by_name["h"] == "text" and copied.many[1][1] == 1 and copied.inner.count == 3
    assert copied.graph is context.graph and copied.missing is None


def test_what_is_cached_stays_where_no_tensor_changes_and_only_there():
    context = outer()
    assert context.inner.doubled is not context.whole.doubled
    context.made = torch.ones(1)
    new = context_tensors(context)
    new[1] = new[1] + 1
    copied = with_tensors(context, new)
    assert copied.whole is context.whole and copied.ends is context.ends
    assert copied.made is None
    torch.testing.assert_close(copied.inner.doubled, 2 * new[1], rtol=0, atol=0)
    torch.testing.assert_close(context.inner.doubled, 2 * context.inner.values, rtol=0, atol=0)
    assert with_tensors(context, context_tensors(context)) is context


def test_another_number_of_tensors_is_refused():
    with pytest.raises(ValueError, match="the context has 8 tensors, got 7"):
        with_tensors(outer(), context_tensors(outer())[:7])


class Hiding:
    def __init__(self):
        self.values = torch.ones(2, requires_grad=True)


@pytest.mark.parametrize("hiding", [Hiding(), nn.Linear(1, 1)])
def test_tensors_whose_gradients_would_be_lost_are_refused(hiding):
    with pytest.raises(TypeError, match=f"{type(hiding).__name__} in the context"):
        context_tensors({"a": [hiding]})
    for tensor in hiding.parameters() if isinstance(hiding, nn.Module) else [hiding.values]:
        tensor.requires_grad_(False)
    assert context_tensors({"a": [hiding]}) == []
