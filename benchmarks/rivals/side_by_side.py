"""Programs trained for equal CPU minutes: how Farfield's scripts and those of others are started,
what is told of their learning.

Every program runs alone in a process of one thread whose allocator keeps its memory. A program with
results is not run again, one of ours that was stopped goes on.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MARKS = (1, 2, 3, 5, 7.5, 10, 15, 20, 25, 30, 45, 60)
KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


def environment() -> dict[str, str]:
    """Of all programs: one thread, and memory that stays with the process."""
    return {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def start(command: Sequence[str]):
    """Run a program to its end; ``ValueError`` if it fails, ``FileNotFoundError`` if its python is
    not there.
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
            "call goes on after the mend"
        )


def farfield_command(module: str, run: Path, options: Sequence[str]) -> list[str]:
    """The command line of a training script that starts the run ``run`` with ``options``, or goes
    on with what is in the folder.
    """
    command = [sys.executable, "-m", module, "--run-dir", str(run)]
    return [*command, "--resume"] if (run / "config.yaml").exists() else [*command, *options]


def farfield_results(module: str, run: Path, minutes: float, options: Sequence[str]) -> dict:
    """What stands in ``results.json`` of a run of ``minutes`` CPU minutes, which is trained before
    if it is not there.
    """
    if not (run / "results.json").exists():
        start(
            farfield_command(
                module, run, ["--max-cpu-minutes", f"{minutes:g}", "--epochs", "100000", *options]
            )
        )
    return json.loads((run / "results.json").read_text())


def divide(argv: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Command line (that of the process for None) -> options of the comparison, and those behind
    ``--`` for Farfield.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    place = argv.index("--") if "--" in argv else len(argv)
    return argv[:place], argv[place + 1 :]


def curve_rows(common: dict, history: list[dict], minutes: float) -> list[dict]:
    """The first validation after each mark, and the last one; ``history``: rows with "minutes",
    "steps" and errors.
    """
    chosen = [
        next((row for row in history if row["minutes"] >= mark), None)
        for mark in MARKS
        if mark < minutes
    ]
    rows = []
    for row in (*chosen, *history[-1:]):
        if row is not None and (not rows or rows[-1]["steps"] != row["steps"]):
            rows.append({**common, "split": "validation", **row})
    return rows
