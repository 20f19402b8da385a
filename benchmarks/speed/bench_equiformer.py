"""Equiformer against ``equiformer-pytorch``: time, degree 6, and memory over depth.

    # installs equiformer-pytorch
    make bench

    python -m benchmarks.speed.bench_equiformer --rounds 5 --json equiformer.json
    python -m benchmarks.speed.bench_equiformer --parts memory --memory-structures 2

Three parts:

    speed      3 degrees, dim (64, 32, 16), depth 4: forward and train step of both programs, in
               turns in one process; then ours alone on 32 structures, where the public program
               needs about 1 GB a structure. A second row of ours has the kernel of the public
               program, ``edge_kernel=pairwise``.
    degree6    7 degrees of 16 channels, depth 2, one structure of 64 points: a train step of each
               program in a process of its own, which is ended beyond 8 GB or 120 s
    memory     2 degrees of 32 channels: peak memory of a train step of ours at depths 4 and 48,
               reversible or not. Activations: growth of the resident set of a fresh process during
               the step, less the gradients of the weights. Weights and their gradients grow with
               depth in any case and stand in a column of their own.

Points are random, 16 nearest neighbours, all other options by default (8 heads of width 24). Times
are CPU seconds of one thread. Train = forward + backward, without an optimiser.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_equiformer.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import dataclasses
import statistics
from collections.abc import Callable

from benchmarks import harness  # before torch: it sets the thread count
from benchmarks.installed_equiformer import PACKAGE, equiformer_is_installed
from benchmarks.speed.equiformer_programs import (
    BYTES,
    OURS,
    PAIRWISE,
    Clouds,
    clouds_program,
    warm_program,
)
from benchmarks.watched_step import watched_step
from farfield.common.command_line import OptionParser, run_script

MANY = 32  # structures of the row of ours alone
LIMIT_MB, LIMIT_S = 8e3, 120.0
DEPTHS = (4, 48)
SPEED_SIZE = Clouds(4, 128, (64, 32, 16), depth=4)  # structures: --structures
DEGREE_SIZE = Clouds(1, 64, (16,) * 7, depth=2)
MEMORY_SIZE = Clouds(8, 128, (32, 32), depth=DEPTHS[0])  # structures: --memory-structures
SPEED_COLUMNS = {
    "program": "program",
    "structures": "structures",
    "parameters": "weights",
    "forward_s": "forward s",
    "train_s": "train s",
    "forward_ratio": "forward ratio",
    "train_ratio": "train ratio",
}
DEGREE_COLUMNS = {
    "program": "program",
    "said": "train step",
    "build_s": "build s",
    "step_s": "step s",
    "peak_mb": "peak MB",
}
MEMORY_COLUMNS = {
    "reversible": "reversible",
    "depth": "depth",
    "weights_mb": "weights + gradients MB",
    "activations_mb": "activations MB",
    "activations_ratio": "/ depth 4",
    "total_mb": "all MB",
    "total_ratio": "/ depth 4",
}


def cloud_rows(options, against: bool) -> list[dict]:
    """Seconds of all programs in turns, then of ours on more structures."""
    clouds = dataclasses.replace(SPEED_SIZE, structures=options.structures)
    print(f"speed: {clouds.describe()}", flush=True)
    rows = timed_rows(clouds, [OURS, PAIRWISE, *[PACKAGE] * against], options.rounds)
    if options.many:
        many = dataclasses.replace(clouds, structures=MANY)
        rows += timed_rows(many, [OURS], rounds=min(options.rounds, 3))
    return rows


def timed_rows(clouds: Clouds, names: list[str], rounds: int) -> list[dict]:
    """A row for each program: median seconds, and the ratio to the first one."""
    programs = [clouds_program(name, clouds) for name in names]
    tasks = {(p.name, step): getattr(p, step) for step in harness.STEPS for p in programs}
    times = harness.interleave(tasks, rounds)

    rows = []
    for program in programs:
        row = {
            "program": program.name,
            "structures": clouds.structures,
            "parameters": program.num_parameters,
        }
        for step in harness.STEPS:
            row[f"{step}_s"] = statistics.median(times[program.name, step])
            if program is not programs[0]:
                found = harness.ratio(times[program.name, step], times[names[0], step])
                row[f"{step}_ratio"] = found
        rows.append(row)
    return rows


def degree_rows(options, against: bool) -> list[dict]:
    """What became of a train step of each program with degrees 0..6."""
    print(f"degree6: {DEGREE_SIZE.describe()}", flush=True)
    rows = []
    for name in [OURS, PAIRWISE, *[PACKAGE] * against]:
        found = watched_step(clouds_program, (name, DEGREE_SIZE), "train", LIMIT_MB, LIMIT_S)
        rows.append({"program": name, **dataclasses.asdict(found)})
    return rows


def memory_rows(options, against: bool) -> list[dict]:
    """Peak memory of ours at all depths; the ratio is that to the first one."""
    size = dataclasses.replace(MEMORY_SIZE, structures=options.memory_structures)
    print(f"memory: {size.describe().rpartition(',')[0]}", flush=True)
    rows = []
    for reversible in (False, True):
        first = None
        for depth in DEPTHS:
            row = depth_row(dataclasses.replace(size, depth=depth, reversible=reversible))
            first = first or row
            for part in ("activations", "total"):
                row[f"{part}_ratio"] = row[f"{part}_mb"] / first[f"{part}_mb"]
            rows.append(row)
    return rows


def depth_row(clouds: Clouds) -> dict:
    """MB of a train step: weights with their gradients, activations, both."""
    weights = clouds_program(OURS, clouds).num_parameters
    gradients = BYTES * weights / 1e6
    growth = harness.peak_memory_mb(warm_program, (clouds,), "train")
    return {
        "reversible": str(clouds.reversible).lower(),
        "depth": clouds.depth,
        "parameters": weights,
        "weights_mb": 2 * gradients,
        "activations_mb": growth - gradients,
        "total_mb": growth + gradients,
    }


PARTS: dict[str, tuple[Callable[..., list[dict]], dict[str, str]]] = {
    "speed": (cloud_rows, SPEED_COLUMNS),
    "degree6": (degree_rows, DEGREE_COLUMNS),
    "memory": (memory_rows, MEMORY_COLUMNS),
}


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_equiformer", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--parts", str, "all", help=f"comma list of {', '.join(PARTS)}, or all")
    bench.add("--rounds", int, 5, low=1, help="timed rounds of the part speed")

    bench.add(
        "--structures",
        int,
        SPEED_SIZE.structures,
        low=1,
        help="structures that all programs are timed with",
    )
    bench.add("--many", bool, True, help=f"time ours alone on {MANY} structures, too")

    bench.add(
        "--memory-structures",
        int,
        MEMORY_SIZE.structures,
        low=1,
        help="structures of the part memory",
    )
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    parts = harness.chosen(options.parts, PARTS, "--parts")
    report = harness.start(("torch", "dgl", "numpy", PACKAGE), options.json)
    against = equiformer_is_installed()
    if not against:
        print(f"{PACKAGE} is not installed: run `make bench` to install it; measuring ours alone")

    found = {}
    for part in parts:
        rows_of, columns = PARTS[part]
        found[part] = rows_of(options, against)
        print(harness.table(found[part], columns), flush=True)
    parts = {part: harness.plain_rows(rows) for part, rows in found.items()}
    harness.keep(options, report, parts=parts)


if __name__ == "__main__":
    run_script(main)
