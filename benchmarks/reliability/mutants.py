"""How many small faults in the code do the tests near them notice?

    python -m benchmarks.reliability.mutants --count 60 --seed 1 --json mutants.json

A fault is drawn from all that could be written into the files of some folders
(``mutation_sites.py`` lists the kinds). It is written into a copy of the checkout, and the tests
near the file run there until one fails: those named after the file, then those that import it,
nearest and cheapest first (``near_tests.py``). The fault is

killed     if a test fails
late       if a test takes longer than ``--limit``; counts as killed
survived   if all pass, or all that begin within the budget

A test counts only if it passes in the copy without the fault, and within half the limit; one that
does not is left out, and the tests run again. Tests run one after the other on one thread.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/reliability/mutants.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import compileall
import contextlib
import dataclasses
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.reliability.mutation_sites import Mutant, find_mutants
from benchmarks.reliability.near_tests import NearTests
from benchmarks.worker import Worker
from farfield.common.command_line import OptionParser, run_script
from farfield.common.log import format_table
from farfield.dataloader.storage.files import write_json

# what the tests import besides the checkout
LIBRARIES = ["pytest", "torch", "scipy.special", "scipy.optimize", "scipy.spatial", "dgl"]
LIBRARIES += ["e3nn.o3", "ase.io", "ase.md.verlet", "vesin", "tqdm", "yaml", "easydict"]
LIBRARIES += ["hypothesis", "torch.utils.tensorboard", "mpmath", "lmdb", "h5py"]
LEFT_OUT = (".*", "__pycache__", "site", "runs", "data", "build", "*.egg-info")
MAX_RERUNS = 3  # of the tests of one fault, each time without those that fail by themselves
NO_BUDGET = 3600.0  # CPU seconds
KILLED = ("killed", "late")


@dataclasses.dataclass(frozen=True)
class Fault:
    """A mutant and the ``file`` it belongs to, a path in the checkout."""

    file: Path
    mutant: Mutant

    def __str__(self) -> str:
        before, after = (
            " ".join(text.split())[:60] for text in (self.mutant.before, self.mutant.after)
        )
        return f"{self.file}:{self.mutant.line} {self.mutant.kind}: {before} -> {after}"


def all_faults(root: Path, folders: Sequence[str]) -> list[Fault]:
    """Every fault of the Python files below some folders; ValueError if there is no such folder."""
    faults = []
    for folder in folders:
        if not (root / folder).is_dir():
            raise ValueError(f"no folder {folder} in {root}; give folders of the checkout")
        for path in sorted((root / folder).rglob("*.py")):
            file = path.relative_to(root)
            mutants = find_mutants(path.read_text(encoding="utf-8"), path.name)
            faults += [Fault(file, mutant) for mutant in mutants]
    return faults


def draw(faults: list[Fault], count: int, seed: int, places: Sequence[str]) -> list[Fault]:
    """``count`` faults in random order, or all at ``places`` (FILE:LINE).

    The first ones of a draw are a smaller draw.
    """
    if any(places):
        return [fault for fault in faults if f"{fault.file}:{fault.mutant.line}" in places]
    return random.Random(seed).sample(faults, min(count, len(faults)))


def copy_checkout(root: Path, folder: Path) -> Path:
    """A copy of the checkout at ``folder`` with the bytecode of its files."""
    shutil.copytree(root, folder, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    compileall.compile_dir(folder, quiet=1)
    return folder


def start_worker(copy: Path, libraries: Sequence[str]) -> Worker:
    """Runs the tests of a copy; ``libraries`` are imported once for all runs."""
    script = str(Path(__file__).with_name("mutant_worker.py"))
    return Worker(
        [sys.executable, script, str(copy), *libraries],
        hint=f"{sys.executable} {script} {copy} by itself says why",
        folder=copy,
        environment={
            "PYTHONPATH": str(copy),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "DGLBACKEND": "pytorch",
        },
    )


class Trials:
    """Runs the tests near faults in a copy of the checkout.

    copy: the copy. worker: answers as ``mutant_worker.py``. files: number of test files per fault.
    budget: CPU seconds after which no further test begins. limit: CPU seconds of one test.
    """

    def __init__(self, copy: Path, worker: Worker, files: int, budget: float, limit: float):
        self.copy, self.worker = copy, worker
        self.files, self.budget, self.limit = files, budget, limit
        self._near = NearTests(copy)
        self._seconds: dict[str, float] = {}
        self._left_out: set[str] = set()

    def run(self, faults: Sequence[Fault]) -> dict[Fault, tuple[str, str]]:
        """What becomes of each fault (killed, late, survived), and the test that decides it."""
        outcomes = {}
        pending = list(faults)
        for _ in range(MAX_RERUNS):
            for fault in pending:
                outcomes[fault] = outcome, test = self._outcome(fault)
                print(f"{outcome:9} {fault} [{test}]", flush=True)

            # a test that fails without a fault says nothing: leave it out and ask again
            deciding = {outcomes[fault] for fault in pending}
            unsound = self._unsound(deciding)
            self._left_out |= unsound
            pending = [fault for fault in pending if outcomes[fault][1] in unsound]
            for test in sorted(unsound):
                print(f"left out, it fails without a fault: {test}", flush=True)

        return outcomes | {fault: ("survived", "its tests fail by themselves") for fault in pending}

    def _outcome(self, fault: Fault) -> tuple[str, str]:
        tests = self._near.of(fault.file, self._seconds)[: self.files]
        tests = [test for test in tests if test not in self._left_out]
        if not tests:
            return "survived", "no test reaches the file"

        left_out = [f"--deselect={test}" for test in self._left_out]
        with written(self.copy / fault.file, fault.mutant):
            answer = self._ask([*tests, *left_out], self.budget, self.limit)
        for file, seconds in answer["seconds"].items():
            self._seconds[file] = max(seconds, self._seconds.get(file, 0.0))

        if answer["outcome"] == "passed":
            return "survived", f"{len(tests)} files of tests, {tests[0]}, ..."
        return "late" if answer["outcome"] == "timeout" else "killed", answer["test"]

    def _unsound(self, deciding: set[tuple[str, str]]) -> set[str]:
        """Tests that fail in the unchanged copy, or take more than half the limit there."""
        killers = {test for outcome, test in deciding if outcome == "killed"}
        # a file that could not be imported is no test: read it, run nothing
        files = {test for test in killers if "::" not in test}
        unsound = {test for test in files if self._fails(test, 0.0, self.limit)}
        for outcome, test in sorted(deciding):
            if outcome == "late" and self._fails(test, self.budget, self.limit / 2):
                unsound.add(test)

        if tests := sorted(killers - files):
            answer = self._ask(tests, NO_BUDGET, NO_BUDGET, every=True)
            unsound |= set(answer["failed"])
        return unsound

    def _fails(self, test: str, budget: float, limit: float) -> bool:
        return self._ask([test], budget, limit)["outcome"] != "passed"

    def _ask(self, tests: list[str], budget: float, limit: float, every: bool = False) -> dict:
        request = {"tests": tests, "budget": budget, "limit": limit, "every": every}
        answer = self.worker.ask(json.dumps(request))
        house = answer.get("house")
        if house and not Path(house).is_relative_to(self.copy):
            raise RuntimeError(f"the tests import {house}, not the copy at {self.copy}")
        return answer


@contextlib.contextmanager
def written(path: Path, mutant: Mutant) -> Iterator[None]:
    """The file holds the fault inside, and is as before afterwards, with its time."""
    source, times = path.read_text(encoding="utf-8"), path.stat()
    path.write_text(mutant.applied(source), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(source, encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def table(outcomes: Mapping[Fault, tuple[str, str]]) -> list[dict]:
    """A row for each folder, and one for all of them."""
    groups: dict[str, list[str]] = {}
    for fault, (outcome, _) in outcomes.items():
        groups.setdefault(fault.file.parts[0], []).append(outcome)
    groups["all"] = [outcome for outcome, _ in outcomes.values()]

    rows = []
    for folder, found in groups.items():
        row: dict[str, object] = {"folder": folder, "faults": len(found)}
        row |= {name: found.count(name) for name in (*KILLED, "survived")}
        killed = sum(found.count(name) for name in KILLED)
        rows.append({**row, "killed %": 100 * killed / len(found)})
    return rows


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("mutants", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--count", int, 60, low=1, help="faults to draw")
    bench.add("--seed", int, 0, help="seed of the draw")
    bench.add("--folders", str, "train,common,dataloader", help="folders with the faults")
    bench.add("--at", str, None, help="FILE:LINE,...: every fault there instead of a draw")
    bench.add("--root", str, ".", help="checkout of Farfield, a folder")
    bench.add("--files", int, 8, low=1, help="test files per fault, the nearest ones")
    bench.add("--budget", float, 90.0, help="CPU seconds per fault; no test begins after them")
    bench.add("--limit", float, 90.0, help="CPU seconds of one test; more is late")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    root = Path(options.root).resolve()
    faults = all_faults(root, options.folders.split(","))
    drawn = draw(faults, options.count, options.seed, (options.at or "").split(","))
    if not drawn:
        raise ValueError("there is no such fault; give --folders or --at with Python files")
    print(f"{len(drawn)} of {len(faults)} faults, seed {options.seed}", flush=True)

    with tempfile.TemporaryDirectory(prefix="mutants_") as place:
        copy = copy_checkout(root, Path(place).resolve() / "checkout")
        with start_worker(copy, LIBRARIES) as worker:
            trials = Trials(copy, worker, options.files, options.budget, options.limit)
            outcomes = trials.run(drawn)

    rows = table(outcomes)
    print(format_table(rows))
    if options.json:
        found = [
            {"fault": str(fault), "outcome": outcome, "test": test}
            for fault, (outcome, test) in outcomes.items()
        ]
        write_json(options.json, {"options": dict(options), "rows": rows, "faults": found})


if __name__ == "__main__":
    run_script(main)
