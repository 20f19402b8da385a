"""Columns that the comment lines of an extended xyz file promise, looked at before ASE reads it.

``Properties=species:S:1:pos:R:3`` says how many columns a property has, and ASE makes a list of
that length before it reads one: a wrong digit can ask for all memory. Cost: 1 GB/s.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path

MANY_COLUMNS = re.compile(rb"Properties=[^\s]*?:(\d{5,})")


def check_columns(path: str | Path) -> None:
    """``ValueError`` for a file whose comment lines promise 10,000 columns or more."""
    if not Path(path).stat().st_size:
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        found = MANY_COLUMNS.search(text)
        if found is not None:
            digits = found.group(1)[:20].decode()
            raise ValueError(
                f"{path} promises {digits} columns of one property (at byte {found.start()}); "
                "correct the comment line"
            )
