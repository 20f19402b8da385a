"""The far field's cost: against matrix products, plain plane waves and pairs, and in N.

    python -m benchmarks.speed.bench_far_field
    python -m benchmarks.speed.bench_far_field --atoms 300 --no-baseline --largest 4000 \\
        --json far_field.json

Kernel sum alone (4 heads, degrees l <= 2, 8 wave numbers up to kappa R = 2, tolerance 1e-5,
float32, one thread), values of C = 32 or 16 channels of 9 components, d = 32 or 8 key features.
Three tables:

speed        matmul: products of float32 matrices with the multiply-adds of moments and read-back,
             forward. multipole, planewave, pairwise: ours. einsum: the sum over Lebedev directions
             of E2Former-FMM, written plainly, with as many directions as the tolerance needs.
             Errors are relative to the pairwise sum in float64.
choice       pairwise, multipole and what ``auto`` takes, from 20 to 5000 atoms
scale        balls of fixed density. The wave numbers are fixed to the ball (the same moments for
             all balls) or fixed in space (moments grow with the ball). Memory is the peak of one
             forward and backward in a fresh process, the output reduced to one number an atom.

Times are medians of CPU milliseconds, all programs of a table taking turns in one process.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_far_field.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import math
import statistics

from benchmarks import harness  # before torch: it sets the thread count

import torch  # isort: skip
from torch import Tensor

from benchmarks.speed.far_field_programs import (
    HEADS,
    LMAX,
    RADIUS,
    PlaneWaveBaseline,
    inputs,
    matmul,
    program,
    reduced,
    wave_numbers,
)
from farfield.common.command_line import OptionParser, run_script
from farfield.models.far_field.expansions.auto import AutoExpansion
from farfield.models.far_field.expansions.multipole import MultipoleExpansion
from farfield.models.far_field.expansions.pairwise import PairwiseExpansion
from farfield.models.far_field.expansions.planewave import PlaneWaveExpansion
from farfield.models.so3.irreps import num_rows

SHAPES = {"d=32 C=32": (32, 32), "d=8 C=16": (8, 16)}  # key features and channels
CHOICE_ATOMS = (20, 50, 100, 200, 500, 1000, 2000, 5000)
SCALE_ATOMS = (1000, 10_000, 100_000)

# Law of the wave numbers, shape, and the largest number of atoms that is of interest.
FIXED_TO_BALL, FIXED_IN_SPACE = "fixed to the ball", "fixed in space"
SCALE_CASES = (
    (FIXED_TO_BALL, "d=8 C=16", 100_000),
    (FIXED_TO_BALL, "d=32 C=32", 10_000),
    (FIXED_IN_SPACE, "d=8 C=16", 100_000),
)

SPEED_COLUMNS = {
    "shape": "shape",
    "program": "program",
    "forward": "forward ms",
    "train": "with backward ms",
    "forward_ratio": "/ matmul",
    "train_ratio": "/ matmul",
    "error": "error",
}
CHOICE_COLUMNS = {
    "shape": "shape",
    "atoms": "atoms",
    "pairwise": "pairwise ms",
    "multipole": "multipole ms",
    "auto": "auto ms",
    "ratio": "auto / faster",
}
SCALE_COLUMNS = {
    "law": "wave numbers",
    "shape": "shape",
    "atoms": "atoms",
    "moments": "moments",
    "train": "with backward ms",
    "memory": "MB",
    "per_atom": "kB per atom",
}


def medians(tasks: dict, rounds: int) -> dict:
    """Median CPU milliseconds of every task, the tasks taking turns."""
    times = harness.interleave(tasks, rounds)
    return {name: 1e3 * statistics.median(each) for name, each in times.items()}


def speed_programs(arguments: tuple, baseline: bool) -> dict[str, harness.Program]:
    """What the table of speed compares with the matrix products."""
    expansions = {
        "multipole": MultipoleExpansion,
        "planewave": PlaneWaveExpansion,
        "pairwise": PairwiseExpansion,
    }
    programs = {name: program(expansion, arguments) for name, expansion in expansions.items()}
    if baseline:
        plain = PlaneWaveBaseline(wave_numbers(RADIUS), LMAX, RADIUS)
        programs["einsum"] = harness.Program("einsum", plain, lambda: (plain(*arguments),))
    return programs


@torch.no_grad()
def relative_error(found: harness.Program, exact: Tensor) -> str:
    """Error of a program's output relative to the exact sum."""
    difference = found.run()[0].double() - exact
    return f"{float(difference.norm() / exact.norm()):.1e}"


def speed_rows(options) -> list[dict]:
    """A row for every shape and program."""
    rows = []
    for name, (keys, channels) in SHAPES.items():
        arguments = inputs(options.atoms, keys, channels, RADIUS)
        graph, *tensors = arguments
        doubles = (tensor.detach().double() for tensor in tensors)
        exact = PairwiseExpansion(wave_numbers(RADIUS), LMAX)(graph, *doubles)
        programs = speed_programs(arguments, options.baseline)

        # Products of the size that the multipole expansion needs.
        moments, width = programs["multipole"].module.moments, tensors[3].shape[-1]
        products = matmul(options.atoms, moments, keys, width)
        count = options.atoms * moments * HEADS * width * (2 * keys + num_rows(LMAX))
        print(f"{name}: {moments} moments, {count / 1e9:.2f} 10^9 multiply-adds")

        tasks = {("matmul", "forward"): products.forward}
        for key, each in programs.items():
            tasks |= {(key, step): getattr(each, step) for step in harness.STEPS}
        times = medians(tasks, options.rounds)

        unit = times["matmul", "forward"]
        rows.append({"shape": name, "program": "matmul", "forward": unit, "forward_ratio": 1.0})
        for key, each in programs.items():
            row = {"shape": name, "program": key, "error": relative_error(each, exact)}
            for step in harness.STEPS:
                row |= {step: times[key, step], f"{step}_ratio": times[key, step] / unit}
            rows.append(row)
    return rows


def choice_rows(options) -> list[dict]:
    """Forward and backward of pairs, moments and the choice between them."""
    expansions = {
        "pairwise": PairwiseExpansion,
        "multipole": MultipoleExpansion,
        "auto": AutoExpansion,
    }
    rows = []
    for name, (keys, channels) in SHAPES.items():
        for atoms in (size for size in CHOICE_ATOMS if size <= options.largest):
            arguments = inputs(atoms, keys, channels, RADIUS)
            tasks = {
                key: program(expansion, arguments).train for key, expansion in expansions.items()
            }

            # One round takes seconds beyond 1000 atoms.
            times = medians(tasks, options.rounds if atoms <= 1000 else 1)
            ratio = times["auto"] / min(times["pairwise"], times["multipole"])
            rows.append({"shape": name, "atoms": atoms, **times, "ratio": ratio})
    return rows


def scale_row(law: str, shape: str, atoms: int) -> dict:
    """Time and memory of the multipole expansion of one ball."""
    radius = RADIUS * (atoms / 1000) ** (1 / 3)
    waves = radius if law == FIXED_TO_BALL else RADIUS
    arguments = (atoms, *SHAPES[shape], radius, waves)
    case = reduced(*arguments)
    times = medians({"train": case.train}, 3 if atoms <= 1000 else 1)
    memory = harness.peak_memory_mb(reduced, arguments, "train")

    return {
        "law": law,
        "shape": shape,
        "atoms": atoms,
        "moments": case.module.moments,
        "train": times["train"],
        "memory": memory,
        "per_atom": 1e3 * memory / atoms,
    }


def scale_rows(options) -> list[dict]:
    """Rows of balls of fixed density, each ten times larger than the one before."""
    rows = []
    for law, shape, most in SCALE_CASES:
        sizes = [size for size in SCALE_ATOMS if size <= min(options.largest, most)]
        rows += [scale_row(law, shape, atoms) for atoms in sizes]
    return rows


def exponents(rows: list[dict]) -> str:
    """Slopes of log time and log memory against log atoms at a fixed number of moments."""
    own = [row for row in rows if (row["law"], row["shape"]) == (FIXED_TO_BALL, "d=8 C=16")]
    if len(own) < 2:
        return "one size only: no exponents"

    atoms = [math.log(row["atoms"]) for row in own]
    slopes = {
        name: statistics.linear_regression(atoms, [math.log(row[name]) for row in own]).slope
        for name in ("train", "memory")
    }
    return (
        f"fixed moments, d=8 C=16: time ~ atoms^{slopes['train']:.2f}, memory ~ "
        f"atoms^{slopes['memory']:.2f}"
    )


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_far_field", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--atoms", int, 1000, low=8, help="atoms of the table of speed")
    bench.add("--largest", int, 100_000, low=20, help="most atoms in the other two tables")
    bench.add("--baseline", bool, True, help="measure plain plane waves (3 GB at 1000 atoms)")
    bench.add("--rounds", int, 3, low=1, help="timed rounds")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(("torch", "scipy"), options.json)
    tables = {"speed": speed_rows(options)}
    print(harness.table(tables["speed"], SPEED_COLUMNS))
    tables["choice"] = choice_rows(options)
    print(harness.table(tables["choice"], CHOICE_COLUMNS))
    tables["scale"] = scale_rows(options)
    print(harness.table(tables["scale"], SCALE_COLUMNS))
    print(exponents(tables["scale"]))
    harness.keep(options, report, **tables)


if __name__ == "__main__":
    run_script(main)
