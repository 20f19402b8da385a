"""A training step of E2Former for every order of its near-field attention, and every way to sum.

    python -m benchmarks.speed.bench_e2former_attention
    python -m benchmarks.speed.bench_e2former_attention --scenes small --rounds 15 \\
        --json attention.json

Two near-field layers, degrees 0..2, edges up to 5 Angstrom, everything else by default. A step is
energy, forces and the gradient of all weights, without an optimiser. Scenes:

    large       a generated double-walled nanotube, 370 atoms, 64 channels
    small       five generated molecules of 9 atoms, 32 channels

Columns: the kernel implementations in edge form, and the node form of the convolution with
``memory_efficient`` (zero order has no convolution). Times are medians of CPU milliseconds of one
thread, all programs of a scene taking turns. Memory, of one order in the large scene, is the peak
of a fresh process above the loaded program.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_e2former_attention.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import statistics
from collections.abc import Callable

from benchmarks import harness  # before torch: it sets the thread count
from benchmarks.speed.bench_training_step import CUTOFF, structures_of, training_step
from benchmarks.speed.near_field_cases import double_walled_nanotube, small_molecules
from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.graphs import NeighborStore
from farfield.dataloader.structures import Structures
from farfield.models.kernels.harmonic_sum import KERNELS
from farfield.models.near_field.e2former_attention import ORDERS


def large() -> Structures:
    """The nanotube."""
    return structures_of(*(part[None] for part in double_walled_nanotube()))


def small() -> Structures:
    """The molecules."""
    return structures_of(*small_molecules(5, 9))


# Structures and channels.
SCENES: dict[str, tuple[Callable[[], Structures], int]] = {
    "large": (large, 64),
    "small": (small, 32),
}
VARIANTS = {kernel: {"near_kernel_implementation": kernel} for kernel in KERNELS} | {
    "node form": {"near_convolution_form": "node"}
}
WITHOUT_CONVOLUTION = "zero-order"
MEMORY_SCENE, MEMORY_ORDER = "large", "first-order"
COLUMNS = {"scene": "scene", "order": "order", "unit": ""} | {name: name for name in VARIANTS}


def build(scene: str, order: str, variant: str) -> harness.Program:
    """The network of one cell of the table."""
    make, channels = SCENES[scene]
    return training_step(f"{scene} {order} {variant}", make(), channels, order, **VARIANTS[variant])


def variants_of(order: str) -> list[str]:
    """The variants that differ for an order."""
    return [name for name in VARIANTS if order != WITHOUT_CONVOLUTION or name in KERNELS]


def time_rows(scene: str, rounds: int) -> list[dict]:
    """A row of milliseconds for every order."""
    cells = [(order, variant) for order in ORDERS for variant in variants_of(order)]
    times = harness.interleave({cell: build(scene, *cell).train for cell in cells}, rounds)
    rows = {order: {"scene": scene, "order": order, "unit": "ms"} for order in ORDERS}
    for (order, variant), found in times.items():
        rows[order][variant] = 1e3 * statistics.median(found)
    return list(rows.values())


def memory_row(scene: str, order: str) -> dict:
    """Peak MB of every variant."""
    peaks = {
        variant: harness.peak_memory_mb(build, (scene, order, variant), "train")
        for variant in variants_of(order)
    }
    return {"scene": scene, "order": order, "unit": "peak MB"} | peaks


def describe(scene: str) -> str:
    """The counts that a reader needs to repeat a scene."""
    make, channels = SCENES[scene]
    structures = make()
    edges = NeighborStore.compute(structures, CUTOFF).num_edges
    return (
        f"{scene}: {len(structures)} structures, {structures.num_atoms} atoms, {edges} "
        f"directed edges, {channels} channels"
    )


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_e2former_attention", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--scenes", str, "all", help=f"comma list of {', '.join(SCENES)}, or all")
    bench.add("--rounds", int, 7, low=1, help="timed rounds")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    scenes = harness.chosen(options.scenes, SCENES, "--scenes")
    report = harness.start(output=options.json)
    described = {scene: describe(scene) for scene in scenes}
    print(*described.values(), sep="\n", flush=True)

    rows = [row for scene in scenes for row in time_rows(scene, options.rounds)]
    if MEMORY_SCENE in scenes:
        rows.append(memory_row(MEMORY_SCENE, MEMORY_ORDER))
    print(harness.table(rows, COLUMNS))
    harness.keep(options, report, scenes=described, rows=rows)


if __name__ == "__main__":
    run_script(main)
