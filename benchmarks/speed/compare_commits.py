"""The speed of two checkouts of Farfield, step by step against each other.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.speed.compare_commits --before /tmp/before --json before_and_now.json

Two steps of the default network (near and far field) on ethanol:

train    8 molecules: the batch, energies, forces and the gradient of all weights
md       1 molecule: velocity Verlet with the ASE calculator

Each checkout has a process of its own (``commit_worker.py``), both with the same python, and the
two take turns in every round. Times are medians of CPU milliseconds of one thread; "now / before"
is the ratio of the medians, with the smallest and the largest ratio within one round.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/compare_commits.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import contextlib
import dataclasses
import statistics

from benchmarks import harness
from benchmarks.worker import Worker
from farfield.common.command_line import OptionParser, run_script

STEPS_OF_A_ROUND = {"train": 5, "md": 20}
COLUMNS = {"step": "step", "before": "before ms", "now": "now ms", "ratio": "now / before"}


def check_checkout(folder: str) -> Path:
    """The folder as a path; ValueError unless it is a checkout of Farfield."""
    path = Path(folder).resolve()
    missing = [name for name in ("models", "dataloader", "train") if not (path / name).is_dir()]
    if missing:
        raise ValueError(
            f"{folder} is no checkout of Farfield: it has no folder {missing[0]}; make one with "
            "git worktree add FOLDER COMMIT"
        )
    return path


def start_worker(python: str, folder: Path) -> Worker:
    """The worker of one checkout, busy with its preparation."""
    script = str(Path(__file__).with_name("commit_worker.py"))
    return Worker(
        [python, script, str(folder)],
        hint=f"{python} {script} {folder} by itself says why",
        folder=folder,
        environment={"PYTHONPATH": str(folder), "DGLBACKEND": "pytorch"},
    )


def measure(workers: dict[str, Worker], rounds: int) -> list[dict]:
    """A row for every kind of step; ``workers``: "before" and "now"."""
    weights = {name: worker.start["weights"] for name, worker in workers.items()}
    if len(set(weights.values())) > 1:
        raise ValueError(
            f"the checkouts train different networks: {weights['before']} and {weights['now']} "
            "weights; choose commits with the same default model"
        )

    rows = []
    for step, count in STEPS_OF_A_ROUND.items():
        times: dict[str, list[float]] = {name: [] for name in workers}
        for turn in range(rounds + 1):
            for name, worker in workers.items():
                seconds = worker.ask(f"{step} {count}")["seconds"]
                if turn:  # the first round warms up
                    times[name].append(1e3 * seconds)
        ratio = harness.ratio(times["now"], times["before"])
        medians = {name: statistics.median(each) for name, each in times.items()}
        rows.append({"step": step, **medians, "ratio": ratio, "milliseconds": times})
    return rows


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("compare_commits", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--before", str, None, help="checkout of Farfield to compare with, a folder")
    bench.add("--now", str, ".", help="checkout of Farfield in question, a folder")
    bench.add("--python", str, sys.executable, help="python that runs both checkouts")
    bench.add("--rounds", int, 20, low=1, help="timed rounds of 5 training and 20 MD steps")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    if options.before is None:
        raise ValueError("--before is missing; give the folder of a checkout to compare with")
    folders = {name: check_checkout(options[name]) for name in ("before", "now")}
    report = harness.start(("torch", "dgl", "e3nn", "numpy", "ase"), options.json)

    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(start_worker(options.python, folder))
            for name, folder in folders.items()
        }
        rows = measure(workers, options.rounds)

    print(harness.table(rows, COLUMNS))
    rows = [{**row, "ratio": dataclasses.asdict(row["ratio"])} for row in rows]
    harness.keep(options, report, rows=rows)


if __name__ == "__main__":
    run_script(main)
