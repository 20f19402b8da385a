"""The tensors of what layers share: found in nested containers, and replaced in a copy.

A ``torch.autograd.Function`` gives gradients only to tensors that are its arguments. A function
that runs layers which all read one context (edge rotations, radial features, envelopes, ...) takes
the tensors out of it (:func:`context_tensors`) and gives each run a copy with other tensors in
their places (:func:`with_tensors`). A copy starts without the values that the original has cached,
so what one run of a layer computes never enters the graph of another run.

Cost: some microseconds for each part of the context; no tensor is copied.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn


def context_tensors(context: object) -> list[Tensor]:
    """All tensors of a context, in a fixed order; a tensor that occurs twice comes twice.

    Looked for in dataclasses (the fields that their constructor takes), tuples, lists and dicts,
    nested to any depth. Anything else is taken as it is; TypeError if it holds a tensor that needs
    a gradient, which would be lost.
    """
    found = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _with_changed_tensors(context, note)
    return found


def with_tensors(context: object, tensors: Sequence[Tensor]) -> object:
    """A copy of a context with other tensors, in the order of :func:`context_tensors`.

    Only what holds a changed tensor is copied, without the values of its cached properties. Every
    other part is shared with the original, with what it has cached. ValueError for another number
    of tensors.
    """
    count = len(context_tensors(context))
    if len(tensors) != count:
        raise ValueError(f"the context has {count} tensors, got {len(tensors)} to replace them")
    rest = iter(tensors)
    return _with_changed_tensors(context, lambda _: next(rest))


def _with_changed_tensors(value: object, change: Callable[[Tensor], Tensor]) -> object:
    """``value`` with ``change`` applied to its tensors; the same object where nothing changes."""
    if isinstance(value, Tensor):
        return change(value)

    parts = _parts(value)
    changed = {key: _with_changed_tensors(part, change) for key, part in parts.items()}
    if all(changed[key] is part for key, part in parts.items()):
        return value

    if dataclasses.is_dataclass(value):
        return dataclasses.replace(value, **changed)
    if isinstance(value, dict):
        result = copy.copy(value)
        result.update(changed)
        return result

    # a named tuple takes its parts one by one
    kind = type(value)
    return kind(*changed.values()) if hasattr(value, "_fields") else kind(changed.values())


def _parts(value: object) -> dict:
    """What to look for tensors in, by name or place; empty for what is taken as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: getattr(value, field.name) for field in fields if field.init}
    if isinstance(value, dict):
        return value
    if isinstance(value, (tuple, list)):
        return dict(enumerate(value))

    if any(isinstance(held, Tensor) and held.requires_grad for held in _attributes(value)):
        raise TypeError(
            f"a {type(value).__name__} in the context of layers holds tensors that need gradients, "
            "which are found in dataclasses, tuples, lists and dicts only; make it a dataclass"
        )
    return {}


def _attributes(value: object) -> Iterable[object]:
    if isinstance(value, nn.Module):
        return value.parameters()
    return getattr(value, "__dict__", {}).values()
