"""Programs that are killed at random moments and started again: the same files, bit for bit.

    python -m benchmarks.reliability.kill_programs --number 50

A training, two kinds of preprocessing, dynamics, an evaluation and a sampling get SIGKILL at a
moment drawn evenly over an undisturbed run, and the same command (with --resume where a program
knows it) goes on to the end. What is left is compared with the undisturbed run: weights, averages,
moments, random states and history of a training, every byte of the others, but for clocks. A kill
that comes after the end is drawn again. Processes are forked after their imports, so no kill hits
an import. Cost: about one and a half runs of a second for each kill.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.reliability.forked_programs import ForkedProgram, learn_imports, run_forked
from benchmarks.reliability.small_programs import PROGRAMS, SmallProgram, prepare_inputs
from farfield.common.command_line import OptionParser, run_script

COLUMNS = {
    "program": "program",
    "seconds": "undisturbed (s)",
    "kills": "kills",
    "identical": "bit-identical",
    "other": "other",
}
MOST_DRAWS = 4  # for each kill, where many come too late


def measure(
    program: SmallProgram, inputs: Path, folder: Path, kills: int, generator: np.random.Generator
) -> dict:
    """Kill a program ``kills`` times; a row of the table, and what went wrong."""
    output = folder / "output"
    (folder / "whole").mkdir(parents=True)
    learned = learn_imports(program.main, program.start(inputs, folder / "learn"), output)
    if learned.code:
        raise RuntimeError(f"{program.name} fails undisturbed: {learned.text.strip()[-2000:]}")
    whole = folder / "whole" / "run"
    seconds = run_forked(program.main, program.start(inputs, whole), output).seconds
    expected = program.left(whole)

    hits, faults = 0, []
    for _ in range(MOST_DRAWS * kills):
        if hits == kills:
            break
        run = folder / "killed" / "run"
        run.parent.mkdir()
        killed = ForkedProgram(program.main, program.start(inputs, run), output)
        moment = float(generator.uniform(0, seconds))
        time.sleep(moment)
        if killed.ended() is None:
            killed.kill()
            hits += 1
            fault = continued(program, inputs, run, output, expected)
            faults += [f"killed after {moment:.3f} s: {fault}"] if fault else []
        shutil.rmtree(run.parent)

    identical = hits - len(faults)
    row = {"program": program.name, "seconds": seconds, "kills": hits, "identical": identical}
    return row | {"other": len(faults), "faults": faults}


def continued(program: SmallProgram, inputs: Path, run: Path, output: Path, expected: str) -> str:
    """Start a killed program again; what is wrong with its end, "" if nothing is."""
    ended = run_forked(program.main, program.again(inputs, run), output)
    if ended.code:
        return f"the second start ends with code {ended.code}: {ended.last_line}"
    return "" if program.left(run) == expected else "other results"


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("kill_programs", __doc__)
    bench = parser.section("bench", "what is killed")
    bench.add("--number", int, 50, low=1, help="number of kills of each program")
    bench.add("--seed", int, 0, low=0, help="seed of the moments")
    bench.add("--json", str, None, help="file for the rows, with what went wrong")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(output=options.json)

    # inputs are made once for all programs
    with tempfile.TemporaryDirectory() as folder:
        inputs, rows = prepare_inputs(Path(folder) / "inputs"), []
        for place, program in enumerate(PROGRAMS):
            generator = np.random.default_rng((options.seed, place))
            where = Path(folder) / str(place)
            rows.append(measure(program, inputs, where, options.number, generator))
            print(f"{program.name}: {rows[-1]['identical']} of {rows[-1]['kills']}", flush=True)
            print(*rows[-1]["faults"], sep="\n", end="", flush=True)
    harness.finish(rows, COLUMNS, options, report)


if __name__ == "__main__":
    run_script(main)
