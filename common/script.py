"""The frame of every script: errors of the user are one line, and the exit code says what happened.

| code | meaning |
|---|---|
| 0 | finished, or paused as asked |
| 2 | an option, a file or the data cannot be used: one line on stderr says why |
| 130 | interrupted; a training says how to continue |

``FARFIELD_TRACEBACK=1`` in the environment shows the whole traceback of code 2. Where several ranks
train together, one of them says why all of them end.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence

from farfield.common import ranks
from farfield.common.memory_errors import is_out_of_memory
from farfield.common.plugins import FLAG
from farfield.common.session import Interrupted
from farfield.common.terminal import printable
from farfield.dataloader.commands import called_as

WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.")
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT  # 130


def run_script(main: Callable[[], None], several_ranks: bool = False) -> None:
    """Run ``main``, and leave the process with the exit code of what happened.

    several_ranks: torchrun may start several processes of this script.
    """
    try:
        if not several_ranks:
            ranks.refuse()
        main()
    except Interrupted as stop:
        _say(str(stop))
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        # any other exception is a defect of the program, and keeps its traceback
        if os.environ.get("FARFIELD_TRACEBACK") or not _is_user_error(error):
            raise
        _say(f"error: {user_message(error)}")
        sys.exit(EXIT_BAD_INPUT)


def _say(text: str) -> None:
    if ranks.speaks():
        print(printable(text), file=sys.stderr)


def resume_command(
    module: str, run_dir: str, imports: Sequence[str] = (), arguments: Sequence[str] = ()
) -> str:
    """What to type to continue the run in ``run_dir`` of the script ``module``.

    imports: files of ``--import``. arguments: what the script needs besides.
    """
    words = [*arguments, "--run-dir", run_dir, "--resume"]
    for file in imports:
        words += [FLAG, file]
    return f"{called_as(module)} {shlex.join(words)}"


def user_message(error: Exception) -> str:
    """An error as one line for the user."""
    text = " ".join(_without_worker(str(error)).split())
    if is_out_of_memory(error):
        # what was computed stands in notes, see memory_errors.naming
        reason = ", ".join([text.split(". ")[0], *getattr(error, "__notes__", [])])
        return (
            f"out of memory ({reason}); lower --batch-size, or --max-atoms-per-batch and "
            "--max-edges-per-batch, or take a smaller network (--preset small)"
        )
    return text


def _without_worker(text: str) -> str:
    """The message of an error in a process that loads data, without the traceback around it.

    torch wraps it in "Caught ValueError in DataLoader worker process 0." and a whole traceback.
    """
    if not WORKER.match(text):
        return text
    # the last line without indent: "ValueError: what is wrong"
    lines = [line for line in text.splitlines() if line and not line[0].isspace()]
    return lines[-1].partition(": ")[2] or lines[-1]


def _is_user_error(error: Exception) -> bool:
    return isinstance(error, (ValueError, OSError)) or is_out_of_memory(error)
