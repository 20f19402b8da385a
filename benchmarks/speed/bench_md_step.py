"""A step of molecular dynamics: the network operation by operation, and compiled.

    python -m benchmarks.speed.bench_md_step --checkpoint runs/ethanol/checkpoint_best.pt
    python -m benchmarks.speed.bench_md_step --structures ethanol --json md_step.json

One step of ASE's velocity Verlet from 300 K with everything in it, in milliseconds of CPU
time of one thread. The ways take turns in one process, each on its own copy of the structure; the
spread is the smallest and the largest round.

| way | pairs | network |
|---|---|---|
| plain | searched in every step | operation by operation |
| skin | searched when an atom has moved by half a skin | operation by operation |
| compiled | the same | compiled |

Structures: ethanol (a bundled frame), two ethanols and a water (21 atoms, as many as aspirin), and
370 atoms of a double-walled carbon nanotube. The row of 32 ethanols is energies and forces, for one
of them: plain one after another, else in one batch. The last columns say how far compiled values
are from the network's, relative to the largest.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_md_step.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import statistics
from collections.abc import Callable

import numpy as np
from ase import Atoms, units
from ase.build import molecule, nanotube
from ase.md.verlet import VelocityVerlet

from benchmarks import harness  # before torch: it sets the thread count
from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.moving_structure import MovingStructure
from farfield.dataloader.sources.md17 import read_sample
from farfield.simulate.calculator import FarfieldCalculator
from farfield.simulate.velocities import draw_velocities

STEPS = {"ethanol": 40, "trimer": 20, "nanotube": 2}  # in a round
TIMESTEP = 0.1  # fs: a potential may know little of a structure
REPLICAS = 32
COLUMNS = {
    "system": "system",
    "atoms": "atoms",
    "plain": "plain, ms",
    "skin": "skin, ms",
    "compiled": "compiled, ms",
    "least": "least",
    "most": "most",
    "gain": "plain / compiled",
    "energy_error": "energy",
    "force_error": "forces",
}


def ethanol() -> Atoms:
    """A bundled frame."""
    frame = read_sample()[0]
    return Atoms(frame.atomic_numbers, frame.positions)


def trimer() -> Atoms:
    """Two ethanols and a water side by side: 21 atoms, as many as aspirin has."""
    first, second, third = ethanol(), ethanol(), molecule("H2O")
    second.positions += [0, 0, 4]
    third.positions += [0, 4, 2]
    return first + second + third


def double_nanotube() -> Atoms:
    """The 370 middle atoms of two nanotubes, one in the other."""
    tubes = nanotube(5, 5, length=10) + nanotube(10, 10, length=10)
    tubes.positions -= tubes.positions.mean(0)
    middle = np.argsort(np.abs(tubes.positions[:, 2]), kind="stable")[:370]
    return Atoms(tubes.numbers[middle], tubes.positions[middle])


SYSTEMS = {"ethanol": ethanol, "trimer": trimer, "nanotube": double_nanotube}


class PlainCalculator(FarfieldCalculator):
    """The calculator with a search for pairs in every step."""

    def __init__(self, path: str):
        super().__init__(path)
        self._moving = MovingStructure(self.cutoff, self.dtype, self.device, skin=0.0)


def stepper(atoms: Atoms, calculator: FarfieldCalculator, steps: int) -> Callable[[], None]:
    """A function that moves a copy of the structure on by so many steps."""
    atoms = atoms.copy()
    atoms.calc = calculator
    draw_velocities(atoms, 300, np.random.default_rng(0))
    integrator = VelocityVerlet(atoms, TIMESTEP * units.fs)

    def run() -> None:
        for _ in range(steps):
            integrator.step()

    return run


def errors(ours: list[dict], other: list[dict]) -> dict[str, float]:
    """Largest differences of energies and forces, relative to the largest value."""
    found = {}
    for name, column in (("energy", "energy_error"), ("forces", "force_error")):
        one, two = (np.array([result[name] for result in results]) for results in (ours, other))
        found[column] = float(np.abs(one - two).max() / np.abs(two).max())
    return found


def md_row(name: str, checkpoint: str, rounds: int, compiled: FarfieldCalculator) -> dict:
    """Times of a step of one system, all ways in turn."""
    atoms = SYSTEMS[name]()
    plain, skin = PlainCalculator(checkpoint), FarfieldCalculator(checkpoint)
    ways = {"plain": plain, "skin": skin, "compiled": compiled}
    runs = {way: stepper(atoms, one, STEPS[name]) for way, one in ways.items()}
    times = harness.interleave(runs, rounds)

    results = []
    for one in (compiled, skin):
        one.calculate(atoms, ["energy", "forces"])
        results.append([one.results])
    return row(name, len(atoms), times, STEPS[name]) | errors(*results)


def replica_row(checkpoint: str, rounds: int, compiled: FarfieldCalculator) -> dict:
    """Times of energies and forces of one of :data:`REPLICAS` ethanols in a batch.

    Plain: one after another.
    """
    rng, first = np.random.default_rng(0), ethanol()
    replicas = [first.copy() for _ in range(REPLICAS)]
    for one in replicas:
        one.positions += 0.05 * rng.standard_normal(one.positions.shape)
    eager = FarfieldCalculator(checkpoint)

    def one_by_one() -> None:
        for one in replicas:
            eager.calculate(one, ["energy", "forces"])

    runs = {
        "plain": one_by_one,
        "skin": lambda: eager.evaluate_many(replicas),
        "compiled": lambda: compiled.evaluate_many(replicas),
    }
    times = harness.interleave(runs, rounds)
    found = errors(compiled.evaluate_many(replicas), eager.evaluate_many(replicas))
    return row(f"{REPLICAS} ethanols", len(first), times, REPLICAS) | found


def row(name: str, atoms: int, times: dict[str, list[float]], count: int) -> dict:
    """A row of the table: medians, and the spread of the compiled way, in ms."""
    each = {way: [1000 * one / count for one in found] for way, found in times.items()}
    medians = {way: statistics.median(found) for way, found in each.items()}
    spread = {"least": min(each["compiled"]), "most": max(each["compiled"])}
    gain = {"gain": medians["plain"] / medians["compiled"]}
    return {"system": name, "atoms": atoms} | medians | spread | gain


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_md_step", __doc__)
    bench = parser.section("bench", "what is measured")
    potential = "checkpoint of a potential that knows H, C and O"
    bench.add("--checkpoint", str, "runs/ethanol/checkpoint_best.pt", help=potential)
    names = f"names joined by commas, or all: {', '.join([*SYSTEMS, 'replicas'])}"
    bench.add("--structures", str, "all", help=names)
    bench.add("--rounds", int, 9, low=1, help="timed rounds")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    names = harness.chosen(options.structures, [*SYSTEMS, "replicas"], "--structures")
    report = harness.start(output=options.json)

    compiled = FarfieldCalculator(options.checkpoint, compile="on")
    rows = []
    for name in names:
        if name == "replicas":
            rows.append(replica_row(options.checkpoint, options.rounds, compiled))
        else:
            rows.append(md_row(name, options.checkpoint, options.rounds, compiled))
    harness.finish(rows, COLUMNS, options, report)


if __name__ == "__main__":
    run_script(main)
