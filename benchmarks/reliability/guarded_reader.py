"""Readers in a child process with limits of time and memory, and what became of each input.

    read        the reader gave a value
    refused     ValueError or OSError: a script says it in one line, which names the file
    unnamed     the same, but the line does not name the file
    traceback   any other exception
    hang        no answer in time
    memory      more memory than allowed
    crash       the process ended by a signal
    code        the input made the process start a program, or call the canary

The child is forked and answers for one input after the other; the parent kills it where it hangs,
and forks another. Cost: some 50 microseconds for an input above what the reader takes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.reliability.digests import digest
from farfield.common.script import user_message

SECONDS = 10.0  # for one input
MORE_MEMORY = 1 << 30  # bytes of address space above what the process has after the imports
FAULTS = ("unnamed", "traceback", "hang", "memory", "crash", "code")
OUTCOMES = ("read", "refused", *FAULTS)
STARTS_PROGRAMS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pty.spawn")
KEPT_CHARACTERS = 400  # of what an exception said

_sung: list[str] = []  # what inputs have called in this process


class Outcome(NamedTuple):
    """What became of an input: one of OUTCOMES, checksum of the value, words of the exception."""

    kind: str
    value: str
    words: str


def sing(*unused: Any) -> None:
    """The canary: called by hostile inputs alone."""
    _sung.append("the canary was called")


class GuardedReader:
    """``read(path)`` for one path after the other; a context manager that ends the child.

    seconds, memory: limits for one input.
    """

    def __init__(
        self,
        read: Callable[[Path], Any],
        seconds: float = SECONDS,
        memory: int = MORE_MEMORY,
    ):
        self.read, self.seconds, self.memory = read, seconds, memory
        self._pid = 0

    def __enter__(self) -> GuardedReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def outcome(self, path: Path) -> Outcome:
        """Read one input in the child."""
        if not self._pid:
            self._begin()
        os.write(self._requests, f"{path}\n".encode())
        ready, _, _ = select.select([self._answers], [], [], self.seconds)
        line = self._answers.readline() if ready else ""
        if line:
            return Outcome(**json.loads(line))

        # no answer: it hangs, or a signal has ended it
        kind = "crash" if ready else "hang"
        status = self._end()
        return Outcome(kind, "", f"wait status {status}" if ready else f"{self.seconds:g} seconds")

    def cpu_seconds(self) -> float:
        """CPU time of the present child."""
        if not self._pid:
            return 0.0
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _begin(self) -> None:
        to_child, self._requests = os.pipe()
        from_child, answers = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._requests)
            os.close(from_child)
            self._answer_all(os.fdopen(to_child), os.fdopen(answers, "w", buffering=1))
        os.close(to_child)
        os.close(answers)
        self._answers = os.fdopen(from_child)

    def _end(self) -> int:
        if not self._pid:
            return 0
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        os.close(self._requests)
        self._answers.close()
        self._pid = 0
        return status

    def _answer_all(self, requests: Any, answers: Any) -> None:
        """What the child does; never returns."""
        try:
            silent = os.open(os.devnull, os.O_RDWR)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            warnings.simplefilter("ignore")
            faulthandler.disable()  # a crash is told by the parent

            # what readers start is heard, what they take is limited
            sys.addaudithook(_listen)
            limit = _address_space() + self.memory
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for line in requests:
                found = outcome_of(self.read, Path(line.rstrip("\n")))
                answers.write(json.dumps(found._asdict()) + "\n")
        finally:
            os._exit(0)


def _listen(event: str, arguments: tuple) -> None:
    """Note every program that this process starts."""
    if event in STARTS_PROGRAMS:
        _sung.append(event)


def _address_space() -> int:
    """Bytes of address space of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def outcome_of(read: Callable[[Path], Any], path: Path) -> Outcome:
    """Read one input in this process."""
    _sung.clear()
    try:
        value, kind, words = digest(read(path)), "read", ""
    except MemoryError as error:
        value, kind, words = "", "memory", str(error)
    except (ValueError, OSError) as error:
        words = user_message(error)
        value, kind = "", "refused" if _names(words, path) else "unnamed"
    except BaseException:
        value, kind, words = "", "traceback", traceback.format_exc()[-KEPT_CHARACTERS:]

    # worse than any exception
    if _sung:
        return Outcome("code", value, f"{_sung[0]}; {words}"[:KEPT_CHARACTERS])
    return Outcome(kind, value, words[:KEPT_CHARACTERS])


def _names(words: str, path: Path) -> bool:
    """Whether a message names the input, or a file inside it."""
    names = [path.name]
    if path.is_dir():
        names += [one.name for one in path.rglob("*")]
    return any(name in words for name in names)
