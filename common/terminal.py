"""Text of files on its way to the terminal: no control sequence of it may act there."""

from __future__ import annotations

import re

# all control characters but tab and line feed: escape starts sequences, carriage return overwrites
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""A text with its control characters, and those that turn its direction, spelled out.

    >>> printable("\x1b[2Jgone\r") == r"\x1b[2Jgone\x0d"
    True
    """
    return CONTROLS.sub(_spelled, text)


def _spelled(found: re.Match) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
