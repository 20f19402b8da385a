"""A training in the background: a process of its own that goes on when the terminal is closed.

The process that the user calls checks the options, starts the same script again in a new session
(its own process group, no terminal), and waits until that run has begun or has been refused. The
run folder then holds

    output.txt    all that the run prints, errors included
    pid           number of the process, while it runs

``kill $(cat FOLDER/pid)`` sends SIGTERM: the run writes its checkpoint and ends. Two runs in one
folder are refused by the lock of the folder (``folder_lock.py``).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from farfield.common import ranks
from farfield.common.folder_lock import only_process
from farfield.dataloader.storage.files import atomic_write, make_folder

OUTPUT, PID = "output.txt", "pid"
FOLDER_VARIABLE = "FARFIELD_BACKGROUND"  # tells a process that it is the one in the background
LOOK_AGAIN = 0.05  # seconds
STAMP = "%Y%m%dT%H%M%SZ"  # 20261201T105642Z


def stamped(folder: str) -> str:
    """``folder`` with the present time (UTC) behind its name: ``runs/md17_20261201T105642Z``.

    ValueError where several ranks start together: each would see another second.
    """
    if ranks.count() > 1:
        raise ValueError(
            "--timestamp-id asks every rank for the time; give all ranks one --run-dir instead"
        )
    return f"{folder.rstrip('/')}_{datetime.now(UTC).strftime(STAMP)}"


def start(module: str, arguments: Sequence[str], folder: Path) -> int:
    """Start ``python -m farfield.MODULE arguments`` in the background; returns its process id.

    Comes back once the run in ``folder`` has begun. ValueError in one line for what the run
    refused, for a folder in use, and where several ranks start together.
    """
    if ranks.count() > 1:
        raise ValueError(
            "--detach starts one process; start torchrun itself in the background: "
            "nohup torchrun ... &"
        )
    with only_process(folder):
        pass  # refused while another process is in the folder

    made = [one for one in (folder, *folder.parents) if not one.exists()]
    make_folder(folder)
    output = folder / OUTPUT
    begin = output.stat().st_size if output.exists() else 0
    with output.open("ab") as stream:
        process = subprocess.Popen(
            _command(module, arguments),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=_environment(folder),
            start_new_session=True,
        )
    while process.poll() is None and _written(folder) != process.pid:
        time.sleep(LOOK_AGAIN)

    if process.returncode:
        raise ValueError(_refusal(output, begin, made))
    return process.pid


def _command(module: str, arguments: Sequence[str]) -> list[str]:
    """The script as it was called: hints of the run in the background name it so."""
    if Path(sys.argv[0]).name.startswith("farfield "):
        _, *words = sys.argv[0].split()
        return [sys.executable, "-u", "-m", "farfield", *words, *arguments]
    return [sys.executable, "-u", "-m", f"farfield.{module}", *arguments]


def _environment(folder: Path) -> dict[str, str]:
    """Variables of the process: it imports the same farfield, and knows that it is in the back."""
    import farfield

    home = str(Path(farfield.__file__).parents[1])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    named = {"PYTHONPATH": os.pathsep.join(paths), FOLDER_VARIABLE: str(folder.resolve())}
    return {**os.environ, **named}


def _refusal(output: Path, begin: int, made: Sequence[Path]) -> str:
    """What a run said that never began; its words and empty folders are taken away."""
    text = output.read_text(encoding="utf-8", errors="replace")[begin:]
    os.truncate(output, begin)
    if not begin:
        output.unlink()
    for folder in made:
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()
    lines = text.strip().splitlines() or ["the run ended before it began, without a word"]
    return lines[-1].removeprefix("error: ")


def announce(folder: Path) -> None:
    """Write the process id into ``folder``, if this is its process in the background."""
    if _is_here(folder):
        with atomic_write(folder / PID) as temporary:
            temporary.write_text(f"{os.getpid()}\n", encoding="utf-8")


def retire(folder: Path) -> None:
    """Take the process id out of ``folder`` at the end of the process in the background."""
    if _is_here(folder) and _written(folder) == os.getpid():
        (folder / PID).unlink()


def _is_here(folder: Path) -> bool:
    return os.environ.get(FOLDER_VARIABLE) == str(folder.resolve())


def _written(folder: Path) -> int | None:
    """The process id in ``folder``."""
    try:
        return int((folder / PID).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def words(pid: int, folder: Path, again: str) -> str:
    """What a user can do with a run in the background. again: the command that continues it."""
    return "\n".join(
        [
            f"started in the background: process {pid}, run folder {folder}",
            f"watch:    tail -f {folder / OUTPUT}",
            f"stop:     kill $(cat {folder / PID})",
            f"continue: {again}",
        ]
    )
