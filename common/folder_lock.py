"""One process at a time in the folder of a run.

    with only_process(folder):
        ...

The lock is the operating system's own, on the folder itself: no file stays behind, and it ends with
its process, however that ends. Where a file system knows no locks (some network drives), nothing is
refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def only_process(folder: str | Path, given: str = "--run-dir") -> Iterator[None]:
    """Context in which no other process enters ``folder``; it is made, and goes if it stays empty.

    given: option that names the folder, for messages. ValueError in one line while another process
    is inside. A folder that cannot be made or opened is left to those who write into it.
    """
    folder = Path(folder)
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    handle = _opened(folder)
    try:
        if handle is not None:
            _lock(handle, folder, given)
        yield
    finally:
        if handle is not None:
            os.close(handle)
        for one in made:
            with contextlib.suppress(OSError):  # not empty: something was written
                one.rmdir()


def _opened(folder: Path) -> int | None:
    """The folder, made where it is missing; None where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None


def _lock(handle: int, folder: Path, given: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"{folder} is in use by another process; wait for its end, or give another {given}"
        ) from None
    except OSError:
        pass  # no locks on this file system
