"""A training step of E2Former with and without ``--recompute``: memory and time.

    python -m benchmarks.speed.bench_recompute
    python -m benchmarks.speed.bench_recompute --system cluster --atoms 600 --option layers=4

One structure of ``far_scaling_systems.py``; energy, forces and the gradient of all weights, without
an optimiser. Memory is the peak of a fresh process above the loaded program, time the median of CPU
seconds of one thread, both steps taking turns.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_recompute.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import statistics

from benchmarks import harness  # before torch: it sets the thread count
from benchmarks.compared_networks import typed_options
from benchmarks.speed.bench_far_scaling import SCALED, SizedProgram, program
from farfield.common.command_line import OptionParser, run_script

WAYS = {"kept": False, "--recompute": True}
COLUMNS = {
    "way": "temporaries",
    "atoms": "atoms",
    "edges": "edges",
    "seconds": "s",
    "time_ratio": "/ kept",
    "memory": "peak MB",
    "memory_ratio": "/ kept ",
}


class TrainingProgram(SizedProgram):
    """A program whose step computes gradients of weights alone, as training does."""

    def train(self) -> None:
        """Forward and backward of the mean square of energy and forces."""
        self.module.zero_grad(set_to_none=True)
        weights = list(self.module.parameters())
        sum(output.square().mean() for output in self.run()).backward(inputs=weights)


def step_program(system: str, atoms: int, extra: dict, recompute: bool) -> TrainingProgram:
    """The default network on a system, ready for a training step."""
    found = program(system, atoms, None, "screened", extra, "train")
    if recompute:
        found.module.network.recompute_parts()
    return TrainingProgram(**vars(found))


def rows_of(bench) -> list[dict]:
    """A row for each way."""
    extra = typed_options(bench.option)
    arguments = {way: (bench.system, bench.atoms, extra, again) for way, again in WAYS.items()}
    memory = {
        way: harness.peak_memory_mb(step_program, given, "train")
        for way, given in arguments.items()
    }
    programs = {way: step_program(*given) for way, given in arguments.items()}
    times = harness.interleave({way: one.train for way, one in programs.items()}, bench.rounds)

    return [
        {
            "way": way,
            "atoms": one.atoms,
            "edges": one.edges,
            "seconds": statistics.median(times[way]),
            "time_ratio": harness.ratio(times[way], times["kept"]).value,
            "memory": memory[way],
            "memory_ratio": memory[way] / memory["kept"],
        }
        for way, one in programs.items()
    ]


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_recompute", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--system", str, "water", choices=list(SCALED), help="structure that is made")
    bench.add("--atoms", int, 3000, low=3, help="atoms, about")
    bench.add("--option", str, None, help="options of the network, name=value,name=value")
    bench.add("--rounds", int, 3, low=1, help="timed rounds")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    bench = build_parser().parse_config(argv).bench
    report = harness.start(("torch",), bench.json)
    rows = rows_of(bench)
    harness.finish(rows, COLUMNS, bench, report)


if __name__ == "__main__":
    run_script(main)
