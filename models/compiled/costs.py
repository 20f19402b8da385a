"""What compiled code costs and saves, in CPU time."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

REPEATS = 3  # of a call that is timed; the fastest counts


def cpu_seconds() -> float:
    """CPU time of this process and of the compilers that it has run."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def milliseconds(function: Callable[[], object]) -> float:
    """CPU time of a call, the fastest of :data:`REPEATS`."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def words_on_compiling(spent: float, now: float, before: float, calls: str) -> str:
    """What compiling took, and after how many calls it has paid; empty where it took nothing.

    spent: s. now, before: ms a call with a program and without. calls: their name.
    """
    if not spent:
        return ""
    line = f"; compiling took {spent:.0f} s of CPU time"
    if now < before:
        line += f", which pays after {1000 * spent / (before - now):,.0f} {calls}"
    return line
