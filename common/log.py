"""What a script says: lines, progress bars, tables, and results as json."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence

from tqdm import tqdm

from farfield.common.terminal import printable
from farfield.dataloader.storage import files


class RunLog:
    """Lines for the reader: on the terminal (above the progress bar) and, if ``path`` is given,
    appended to a file.
    """

    def __init__(self, path=None):
        self.path = path

    def __call__(self, text: str):
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(text + "\n")
        try:
            tqdm.write(printable(text), file=sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:  # who read along has gone (| head); the run goes on
            # open for as long as the process lives
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def progress_bar(total: int | None, **more) -> tqdm:
    """A bar on stderr; where that is a file, a line every 20 seconds."""
    return tqdm(
        total=total, mininterval=0.2 if sys.stderr.isatty() else 20.0, dynamic_ncols=True, **more
    )


def count_bar(total: int | None, what: str, noun: str, **more) -> tqdm:
    """A bar that counts things one by one; noun: their plural, ``structures``."""
    return progress_bar(total, desc=what, unit=f" {noun}", **more)


def write_json(path, content):
    """Write ``content`` atomically; nan and inf, which json does not know, become null."""
    files.write_json(path, _finite(content))


def _finite(value):
    if isinstance(value, Mapping):
        return {str(key): _finite(content) for key, content in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(content) for content in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def format_table(rows: Sequence[Mapping[str, object]], width: int = 120) -> str:
    """Rows of a table as aligned text of at most ``width`` characters where possible.

    Columns stand in the order of the first row. A table that is too wide is turned: one line a
    column, the first column on top.
    """
    columns = list(rows[0])
    cells = [columns] + [[_cell(row.get(column, "")) for column in columns] for row in rows]
    text = _aligned(cells)
    if max(map(len, text)) > width:
        text = _aligned([list(line) for line in zip(*cells, strict=True)])
    return "\n".join(text)


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equal columns: the first one left, the others right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        padded = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
    return lines


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
