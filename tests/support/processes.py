"""Scripts in processes of their own, without a fresh interpreter for each.

A fresh interpreter spends a second on torch before the first line of the project. Here one server
(the forkserver of multiprocessing) imports the packages that the project needs, not the project
itself, and forks a child for every script. The child has a process id, streams, a working folder,
an environment and an exit code of its own, and imports the project from where a fresh interpreter
would: an installed copy is hidden from it.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "numpy", "ase.data", "ase.stress", "easydict", "tqdm", "vesin", "yaml")
SECONDS = 120.0  # after which a script counts as hung

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(list(PACKAGES))


class Done(NamedTuple):
    """How a script ended: exit code (negative for a signal), and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


class Script:
    """``python *command`` in ``folder``: ("-m", module, ...), ("-c", code) or (path, ...).

    ``environment`` has the variables that differ from the environment of the tests; None removes.
    """

    def __init__(self, *command: str, folder=ROOT, environment: dict | None = None):
        self._streams = tempfile.TemporaryDirectory()
        self.process = _server.Process(
            target=_run,
            args=(command, str(folder), environment or {}, self._streams.name),
            daemon=True,
        )
        self.process.start()

    def send_signal(self, number: int):
        """Send a signal to the script."""
        os.kill(self.process.pid, number)

    def wait(self) -> Done:
        """Wait for the end of the script."""
        self.process.join(SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()

        with self._streams as streams:
            written = [Path(streams, name).read_text() for name in ("stdout", "stderr")]
        return Done(self.process.exitcode, *written)


def run_script(*command: str, folder=ROOT, environment: dict | None = None) -> Done:
    """A :class:`Script` from its start to its end."""
    return Script(*command, folder=folder, environment=environment).wait()


def _run(command: tuple[str, ...], folder: str, environment: dict, streams: str):
    """What the child does: become ``python *command``."""
    os.chdir(folder)
    for name, value in environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    for name, number in (("stdout", 1), ("stderr", 2)):
        file = os.open(Path(streams, name), os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        setattr(sys, name, open(number, "w", buffering=1, closefd=False))  # noqa: SIM115

    _hide_the_project()
    kind, *rest = command
    if kind == "-m":
        sys.path.insert(0, folder)
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path.insert(0, str(Path(kind).resolve().parent))
        sys.argv = list(command)
        runpy.run_path(kind, run_name="__main__")


def _hide_the_project():
    """Take the checkout and an (editable) installation of it from the import path."""
    sys.path = [entry for entry in sys.path if entry and not Path(entry, "farfield").exists()]
    sys.meta_path = [
        finder
        for finder in sys.meta_path
        if not getattr(finder, "__module__", "").startswith("__editable__")
    ]
    for name in list(sys.modules):
        if name.partition(".")[0] in ("farfield", "tests"):
            del sys.modules[name]
