"""Prediction: time for a structure through the ASE calculator, and in batches of `farfield.load`.

    python -m benchmarks.speed.bench_prediction --checkpoint runs/ethanol/checkpoint_best.pt
    python -m benchmarks.speed.bench_prediction --input molecules.xyz --json prediction.json

Energy and forces of the same structures (without ``--input``: bundled frames of
ethanol), all ways in turn in one process; times are medians of CPU milliseconds. Neighbours
are found within the measured time.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_prediction.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import statistics
from collections.abc import Callable

from ase import Atoms

from benchmarks import harness  # before torch: it sets the thread count
from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.from_ase import read_structures
from farfield.dataloader.sources.md17 import read_sample
from farfield.simulate.calculator import FarfieldCalculator
from farfield.train.prediction import load

BATCH_ATOMS = (72, 450, 1800)  # largest number of atoms in a batch
COLUMNS = {"way": "way", "milliseconds": "ms a structure", "speedup": "times as fast"}


def bundled_structures() -> list[Atoms]:
    """The bundled frames of ethanol."""
    sample = read_sample()
    frames = [sample[index] for index in range(len(sample))]
    return [Atoms(one.atomic_numbers, one.positions) for one in frames]


def ways(checkpoint: str, structures: list[Atoms]) -> dict[str, Callable[[], None]]:
    """Name of a way -> energies and forces of all structures by it."""
    calculator, model = FarfieldCalculator(checkpoint), load(checkpoint)

    def one_by_one() -> None:
        for atoms in structures:
            calculator.calculate(atoms, ["energy", "forces"])

    def batches(atoms: int) -> Callable[[], None]:
        return lambda: model.predict(structures, max_atoms=atoms)

    found = {"calculator": one_by_one}
    return found | {f"predict, {atoms} atoms a batch": batches(atoms) for atoms in BATCH_ATOMS}


def measure(checkpoint: str, structures: list[Atoms], rounds: int) -> list[dict]:
    """One row a way: CPU milliseconds a structure, and how many times as fast as the calculator."""
    times = harness.interleave(ways(checkpoint, structures), rounds)
    first = times["calculator"]
    return [
        {
            "way": name,
            "milliseconds": 1000 * statistics.median(found) / len(structures),
            "speedup": statistics.median(first) / statistics.median(found),
        }
        for name, found in times.items()
    ]


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_prediction", __doc__)
    bench = parser.section("bench", "what is measured")
    potential = "checkpoint of a potential"
    bench.add("--checkpoint", str, "runs/ethanol/checkpoint_best.pt", help=potential)
    bench.add("--input", str, None, help="file of structures, of any format that ASE reads")
    bench.add("--structures", int, 100, low=1, help="largest number of structures")
    bench.add("--rounds", int, 5, low=1, help="timed rounds")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(output=options.json)
    if options.input is None:
        structures = bundled_structures()
    else:
        structures = read_structures(options.input, option="--input")
    rows = measure(options.checkpoint, structures[-options.structures :], options.rounds)
    harness.finish(rows, COLUMNS, options, report)


if __name__ == "__main__":
    run_script(main)
