"""Programs trained for equal CPU minutes: how they are started, what is shown of their learning.

Every program runs alone in a process of one thread whose allocator keeps its memory. A program with
results is not run again; a run of Farfield that was stopped goes on.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# CPU minutes after which a table shows the next validation.
MARKS = (1, 2, 3, 5, 7.5, 10, 15, 20, 25, 30, 45, 60)
KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


def environment() -> dict[str, str]:
    """Variables of all programs: one thread, and memory that stays with the process."""
    return {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def start(command: Sequence[str]):
    """Run a program to its end.

    Raises ValueError if it fails, FileNotFoundError if its python does not exist.
    """
    try:
        code = subprocess.run(command, env=environment()).returncode
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no python {command[0]}; the first lines of --help say how to make it"
        ) from None

    if code:
        raise ValueError(
            f"{shlex.join(command)} ended with code {code}; its last lines say why, and the same "
            "call goes on once that is corrected"
        )


def farfield_command(module: str, run: Path, options: Sequence[str]) -> list[str]:
    """The command line of a training script that starts a run, or goes on with it.

    run: its folder. options: of a new run; a run that was stopped keeps its own.
    """
    command = [sys.executable, "-m", module, "--run-dir", str(run)]
    if (run / "config.yaml").exists():
        return [*command, "--resume"]
    return [*command, *options]


def farfield_results(module: str, run: Path, minutes: float, options: Sequence[str]) -> dict:
    """Results of a run of ``minutes`` CPU minutes; it is trained first if it has none."""
    if not (run / "results.json").exists():
        budget = ["--max-cpu-minutes", f"{minutes:g}", "--epochs", "100000"]
        start(farfield_command(module, run, [*budget, *options]))
    return json.loads((run / "results.json").read_text())


def divide(argv: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Options of the comparison, and behind ``--`` further options for Farfield.

    argv: the command line; None takes the arguments of this process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    place = argv.index("--") if "--" in argv else len(argv)
    return argv[:place], argv[place + 1 :]


def curve_rows(common: dict, history: list[dict], minutes: float) -> list[dict]:
    """The first validation after each mark, and the last one.

    common: what all rows share. history: rows with "minutes", "steps" and errors.
    """
    chosen = [
        next((row for row in history if row["minutes"] >= mark), None)
        for mark in MARKS
        if mark < minutes
    ]

    # Marks may share a validation, and the last one may be among them.
    rows = []
    for row in (*chosen, *history[-1:]):
        if row is not None and (not rows or rows[-1]["steps"] != row["steps"]):
            rows.append({**common, "split": "validation", **row})
    return rows
