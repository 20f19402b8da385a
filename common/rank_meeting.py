"""A fresh part of a store for ranks that start together.

torchrun keeps one store for all its starts of the ranks, so the addresses of ranks that have died
are still in it, and its count of restarts may differ between machines. Here the first rank draws a
name and gives it to those who are there now: each of the others leaves a mark of its own and waits
for the answer to that mark.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

PAUSE = 0.02  # seconds between looks into the store


def meet(store, rank: int, count: int, limit: timedelta):
    """The ``PrefixStore`` of this start; ``RuntimeError`` where not all come within ``limit``."""
    from torch.distributed import PrefixStore

    own = uuid.uuid4().hex
    if rank > 0:
        store.set(_mark(rank), own)
        store.wait([_answer(own)], limit)
        name = store.get(_answer(own)).decode()
        store.set(_here(name, rank), "")
        return PrefixStore(name, store)

    end, missing = time.monotonic() + limit.total_seconds(), set(range(1, count))
    while missing:
        for other in sorted(missing):
            if store.check([_here(own, other)]):
                missing.remove(other)
            elif store.check([_mark(other)]):
                store.set(_answer(store.get(_mark(other)).decode()), own)
        if time.monotonic() > end:
            raise RuntimeError(f"rank {min(missing)} did not come")
        time.sleep(PAUSE if missing else 0)
    return PrefixStore(own, store)


def _mark(rank: int) -> str:
    return f"farfield/mark/{rank}"


def _answer(mark: str) -> str:
    return f"farfield/answer/{mark}"


def _here(name: str, rank: int) -> str:
    return f"farfield/{name}/{rank}"
