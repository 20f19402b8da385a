"""Steps under watch: one step of a program in a process of its own, ended beyond a limit.

Memory is the largest resident set of that process, loaded libraries included, as its user sees it;
``harness.peak_memory_mb`` gives the growth alone. Cost: that of the step and of loading torch.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import pathlib
import time
from collections.abc import Callable

from benchmarks import harness  # before torch: it sets the thread count

import torch  # isort: skip

DOING = ("building", "stepping")  # what a watched program does, by the number of its reports


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a step in a process of its own.

    said: "done", or the limit that ended it and what it was doing then. build_s, step_s: CPU
    seconds. peak_mb: largest resident set of the process, loaded libraries included.
    """

    said: str
    build_s: float | None
    step_s: float | None
    peak_mb: float


def watched_step(
    build: Callable[..., harness.Program],
    arguments: tuple,
    step: str,
    limit_mb: float,
    limit_s: float,
) -> Outcome:
    """Run one step in a fresh process that is ended beyond a limit of memory or of wall time.

    build: a function at the top of a module. arguments: its arguments, picklable. step: "forward"
    or "train".
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_report, args=(theirs, build, arguments, step))
    process.start()
    theirs.close()
    end = time.perf_counter() + limit_s
    told, peak, said = [], 0.0, "done"

    try:
        while len(told) < 2:
            peak = max(peak, _peak_mb(process.pid))
            if peak > limit_mb:
                said = f"more than {limit_mb / 1e3:g} GB, {DOING[len(told)]}"
                break
            if time.perf_counter() > end:
                said = f"longer than {limit_s:g} s, {DOING[len(told)]}"
                break
            if ours.poll(0.02):
                told.append(ours.recv())
    except EOFError:
        said = f"failed, {DOING[len(told)]}"
    finally:
        process.kill()
        process.join()
        ours.close()
    seconds = [*told, None, None]
    return Outcome(said, seconds[0], seconds[1], peak)


def _report(pipe, build: Callable[..., harness.Program], arguments: tuple, step: str) -> None:
    """CPU seconds of building, then those of the step; waits to be ended, so that memory shows."""
    torch.set_num_threads(1)
    start = time.process_time()
    program = build(*arguments)
    pipe.send(time.process_time() - start)
    pipe.send(harness.seconds(getattr(program, step)))
    time.sleep(60)


def _peak_mb(process: int) -> float:
    """Largest resident set of a process so far, MB; 0 once it has ended."""
    try:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(found[0].split()[1]) * 1024 / 1e6 if found else 0.0
