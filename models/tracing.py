"""Whether a network is being traced: written down once, operation by operation, to be compiled.

A trace holds what was computed for one batch, and it is right for every batch of other sizes only
if nothing in it was decided by values of tensors. Code that reads values (checks of the input,
loops cut to the size of a cache) asks :func:`is_tracing` and takes a form without. Input is then
checked outside of the trace (``Network.check``).

While a network is traced all graphs of a batch have one size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_tracing = False


class NotTraceableError(ValueError):
    """What is computed depends on values or sizes in a way that a trace cannot hold."""


def is_tracing() -> bool:
    """Whether the running computation is written down."""
    return _tracing


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Inside the with-block :func:`is_tracing` is True."""
    global _tracing
    before, _tracing = _tracing, True
    try:
        yield
    finally:
        _tracing = before
