"""Runs tests of one checkout on request, each time in a fresh process; started by ``mutants.py``.

    python benchmarks/reliability/mutant_worker.py FOLDER LIBRARY ...

The libraries are imported once. Each request forks, so that a run of tests imports nothing but the
checkout and costs no start of Python. A request is a line of JSON:

tests    arguments of pytest, files or single tests
budget   CPU seconds after which no further test begins
limit    CPU seconds of one test; one that waits ends after minutes
every    true: run on after a failure

The answer: ``outcome`` (passed, failed, timeout), the ``test`` that failed first or took too long,
all tests that ``failed``, and the ``seconds`` of every file of tests.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import sys
from pathlib import Path

WALL_SECONDS = 6  # of a process that says nothing, for each CPU second that it may take
IMPORT_SECONDS = 60  # of CPU time, besides the limit, until the first test begins
PLAIN = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=line", "--durations=0"]


class Watcher:
    """A plugin of pytest that writes a line for each event: ``tell("start", test)``."""

    def __init__(self, tell, budget: float, limit: float):
        self.tell, self.budget, self.limit = tell, budget, limit
        self.began = self.last = cpu_seconds()
        signal.setitimer(signal.ITIMER_PROF, limit + IMPORT_SECONDS)

    def pytest_runtest_logstart(self, nodeid):
        """A test begins."""
        self.tell("start", nodeid)
        signal.setitimer(signal.ITIMER_PROF, self.limit)  # its end ends the process

    def pytest_runtest_logreport(self, report):
        """A part of a test has ended."""
        if report.failed:
            self.tell("failed", report.nodeid)

    def pytest_collectreport(self, report):
        """A file was read; with an error in it, it counts as failed."""
        if report.failed:
            self.tell("failed", report.nodeid)

    def pytest_runtest_protocol(self, item):
        """No test begins beyond the budget."""
        if cpu_seconds() - self.began > self.budget:
            item.session.shouldstop = "budget"

    def pytest_runtest_logfinish(self, nodeid):
        """A test has ended: its CPU seconds."""
        signal.setitimer(signal.ITIMER_PROF, self.limit + IMPORT_SECONDS)
        now = cpu_seconds()
        self.tell("seconds", nodeid, now - self.last)
        self.last = now


def cpu_seconds() -> float:
    """CPU seconds of this process and of those that it waited for."""
    return sum(os.times()[:4])


def run_child(folder: Path, request: dict, pipe: int) -> int:
    """Run pytest in this process; events go to ``pipe``."""
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)

    def tell(*event):
        os.write(pipe, (json.dumps(event) + "\n").encode())

    import pytest

    place = folder.with_name(folder.name + "_tmp")
    watcher = Watcher(tell, request["budget"], request["limit"])
    words = [*PLAIN, *([] if request["every"] else ["-x"]), f"--basetemp={place}"]
    code = int(pytest.main([*words, *request["tests"]], plugins=[watcher]))
    house = getattr(sys.modules.get("farfield"), "__file__", None)
    tell("end", code, house)
    return code


def events(pipe: int, wall: float):
    """Events of a child until its end; the last one is ("late",) if it says nothing for long."""
    rest = b""
    while select.select([pipe], [], [], wall)[0]:
        content = os.read(pipe, 65536)
        if not content:
            return
        *lines, rest = (rest + content).split(b"\n")
        yield from map(json.loads, lines)
    yield ["late"]


def serve(folder: Path, request: dict) -> dict:
    """Run the tests of a request in a child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            code = run_child(folder, request, writer)
        finally:
            os._exit(code)
    os.close(writer)

    answer = {"outcome": "", "test": request["tests"][0], "failed": [], "seconds": {}}
    wall = WALL_SECONDS * (request["limit"] + IMPORT_SECONDS)
    for event in events(reader, wall):
        take(event, answer)
        if event[0] == "end":
            break

    # what a test may have left behind ends with its group
    os.close(reader)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not answer["outcome"]:  # the process ended in the middle of a test
        late = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF
        answer["outcome"] = "timeout" if late else "failed"
    return answer


def take(event: list, answer: dict) -> None:
    """Put one event of a child into the answer."""
    match event:
        case ["start", test] if not answer["failed"]:
            answer["test"] = test
        case ["failed", test]:
            answer["failed"].append(test)
            answer |= {"outcome": "failed", "test": answer["failed"][0]}
        case ["seconds", test, seconds]:
            file = test.split("::")[0]
            answer["seconds"][file] = answer["seconds"].get(file, 0) + seconds
        case ["late"]:
            answer["outcome"] = "timeout"
        case ["end", code, house]:
            # 0: all passed, 2: out of budget, 5: no test in the files
            passed = code in (0, 2, 5) and not answer["failed"]
            answer |= {"outcome": "passed" if passed else "failed", "house": house}


def main():
    """Import the libraries, then answer."""
    folder = Path(sys.argv[1]).resolve()
    os.chdir(folder)
    sys.path[0] = str(folder)  # Python puts the folder of this file first
    # a shell lets programs in the background ignore it, and tests send it to themselves
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.dont_write_bytecode = True  # bytecode of a mutant must not outlive it
    for name in sys.argv[2:]:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # the tests import it, or skip what needs it

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(folder, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
