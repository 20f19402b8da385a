"""Second processes in a folder that is in use: each is refused in one line.

    python -m benchmarks.reliability.second_processes --number 20

A training, a preprocessing, a run of dynamics and a sampling take turns: the first process starts,
and while it works a second one is started with the same arguments, as a user does who forgot the
first. The first must end as if nothing had happened. Cost: the run of a small program for each.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks import harness
from benchmarks.reliability.forked_programs import ForkedProgram, learn_imports, run_forked
from benchmarks.reliability.small_programs import PROGRAMS, SmallProgram, prepare_inputs
from farfield.common.command_line import OptionParser, run_script

COLUMNS = {
    "program": "program",
    "pairs": "pairs",
    "refused": "second one refused in a line",
    "unharmed": "first one unharmed",
}
IN_USE = "in use by another process"
WITH_FOLDERS = ("training", "preprocessing of n-body", "dynamics", "sampling")


def chosen_programs() -> list[SmallProgram]:
    """The programs that work in a folder for some time."""
    return [one for one in PROGRAMS if one.name in WITH_FOLDERS]


def measure(program: SmallProgram, inputs: Path, folder: Path, pairs: int) -> dict:
    """Start pairs of processes; a row of the table."""
    whole, output = folder / "whole" / "run", folder / "output"
    whole.parent.mkdir(parents=True)
    ended = learn_imports(program.main, program.start(inputs, whole), output)
    if ended.code:
        raise RuntimeError(f"{program.name} fails undisturbed: {ended.text.strip()[-2000:]}")
    expected = program.left(whole)

    refused = unharmed = 0
    for pair in range(pairs):
        run = folder / str(pair) / "run"
        run.parent.mkdir()
        first = ForkedProgram(program.main, program.start(inputs, run), folder / "first")
        ended = wait_until_working(first, run)
        second = run_forked(program.main, program.again(inputs, run), folder / "second")
        refused += ended is None and second.is_refusal and IN_USE in second.last_line
        ended = ended or first.wait()
        unharmed += ended.code == 0 and program.left(run) == expected
    return {"program": program.name, "pairs": pairs, "refused": refused, "unharmed": unharmed}


def wait_until_working(first: ForkedProgram, run: Path):
    """Wait until a program has written something; how it ended if it did so before."""
    while (ended := first.ended()) is None:
        if run.is_dir() and any(path.is_file() for path in run.rglob("*")):
            return None
        time.sleep(0.002)
    return ended


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("second_processes", __doc__)
    bench = parser.section("bench", "what is started")
    number = "number of pairs of processes, shared among the programs"
    bench.add("--number", int, 20, low=len(WITH_FOLDERS), help=number)
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(output=options.json)
    programs = chosen_programs()
    with tempfile.TemporaryDirectory() as folder:
        inputs = prepare_inputs(Path(folder) / "inputs")
        rows = [
            measure(one, inputs, Path(folder) / str(place), options.number // len(programs))
            for place, one in enumerate(programs)
        ]
    harness.finish(rows, COLUMNS, options, report)


if __name__ == "__main__":
    run_script(main)
