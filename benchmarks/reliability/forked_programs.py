"""Programs of this project in child processes that are forked after the imports, to be killed.

A fresh interpreter spends seconds on imports before the first line of a program. Here one process
imports the programs, and what a first run of each has imported later, never computes with them, and
forks a child for every run: the child calls the ``main`` of a program as its script does, with an
exit code and streams of its own. A kill can hit the program at any moment but during its imports.
Cost: some 10 ms for a fork.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from farfield.common.script import run_script

HUNG = 120.0  # seconds after which a program counts as hung
LOOK_AGAIN = 0.002  # seconds
DEFECT = 70  # exit code of a program that ended with a traceback

Main = Callable[[list[str]], object]


class Ended(NamedTuple):
    """How a program ended: exit code (negative for a signal), what it said, seconds it took."""

    code: int
    text: str
    seconds: float

    @property
    def last_line(self) -> str:
        """The last line of what it said."""
        return (self.text.strip().splitlines() or ["(nothing)"])[-1]

    @property
    def is_refusal(self) -> bool:
        """Whether it ended as a user error does: exit code 2, a line ``error: ...``, no more."""
        return (
            self.code == 2 and self.last_line.startswith("error: ") and "Traceback" not in self.text
        )


class ForkedProgram:
    """``main(arguments)`` in a child process; all that it prints goes to the file ``output``."""

    def __init__(self, main: Main, arguments: Sequence[str], output: Path):
        self.output, self._start = output, time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(main, list(arguments), output)

    def ended(self) -> Ended | None:
        """How the program ended; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return self._ended(status) if pid else None

    def wait(self, seconds: float = HUNG) -> Ended:
        """Wait for the end; after so many seconds the program is killed."""
        while time.monotonic() - self._start < seconds:
            if (end := self.ended()) is not None:
                return end
            time.sleep(LOOK_AGAIN)
        return self.kill()

    def kill(self) -> Ended:
        """End the program by SIGKILL, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        return self._ended(status)

    def _ended(self, status: int) -> Ended:
        text = self.output.read_text(encoding="utf-8", errors="replace")
        spent = time.monotonic() - self._start
        return Ended(os.waitstatus_to_exitcode(status), text, spent)


def run_forked(main: Main, arguments: Sequence[str], output: Path) -> Ended:
    """A :class:`ForkedProgram` from its start to its end."""
    return ForkedProgram(main, arguments, output).wait()


def learn_imports(main: Main, arguments: Sequence[str], output: Path) -> Ended:
    """:func:`run_forked`, and import here whatever the program has imported while it ran."""
    listed, known = output.with_suffix(".modules"), set(sys.modules)

    def run_and_list(arguments: list[str]) -> None:
        """The child: runs the program and names its modules in the order of their imports."""
        main(arguments)
        new = [name for name in sys.modules if name not in known]
        listed.write_text("\n".join(new), encoding="utf-8")

    ended = run_forked(run_and_list, arguments, output)
    for name in listed.read_text(encoding="utf-8").split() if ended.code == 0 else ():
        with contextlib.suppress(Exception):  # names that only their own package can import
            importlib.import_module(name)
    return ended


def call_forked(function: Callable[[], bytes], output: Path) -> bytes:
    """What a function of the project returns, computed in a child.

    RuntimeError with what the child said where it failed.
    """
    result = output.with_suffix(".result")

    def compute(_: list[str]) -> None:
        """The child: leaves its answer in a file."""
        result.write_bytes(function())

    ended = run_forked(compute, [], output)
    if ended.code:
        raise RuntimeError(f"a child ended with code {ended.code}: {ended.text.strip()[-2000:]}")
    return result.read_bytes()


def _become(main: Main, arguments: list[str], output: Path) -> None:
    """What the child does; never returns."""
    code = DEFECT
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for number in (1, 2):
            os.dup2(handle, number)
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - until the end
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115

        # as the script does, with the exit code of what happened
        try:
            run_script(partial(main, arguments))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
