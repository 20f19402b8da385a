"""Programs in processes of their own that answer on request, so that they can take turns.

A worker reads one line for each request and answers with one line of JSON, an object. Whatever else
it prints, such as notes of libraries, is passed over.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Worker:
    """A running program; a context manager that ends it. ``start`` is its first answer.

    command: the program and its arguments. hint: what to try when it ends without an answer.
    folder, environment: where it runs, and variables that differ from those of this process.
    Raises FileNotFoundError if there is no such program.
    """

    def __init__(
        self,
        command: Sequence[str],
        hint: str,
        folder: str | Path | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        self.hint = hint

        # Errors would mix with the table; the hint says how to see them.
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=folder,
                env={**os.environ, **ONE_THREAD, **(environment or {})},
            )
        except FileNotFoundError:
            raise FileNotFoundError(f"no program {command[0]}; give the path of a python") from None
        self._start: dict | None = None

    @property
    def start(self) -> dict:
        """What the program says about itself once it is ready; waits for it."""
        if self._start is None:
            self._start = self._answer()
        return self._start

    def ask(self, request: str) -> dict:
        """Send one line and wait for the answer; RuntimeError if the program ends instead."""
        _ = self.start  # the first answer belongs to no request
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        """The next line that is a JSON object."""
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self._process.args[1]} ended without an answer; {self.hint}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
