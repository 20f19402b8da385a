"""A SHA-256 over a whole zip file, kept in the comment at its end.

The checksums of a zip file cover the bytes of its members, not its directory: one wrong bit there
can make a reader take other bytes for a member. The seal covers everything before it.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

MARK = b"sha256:"
SEAL_BYTES = len(MARK) + 2 * hashlib.sha256().digest_size
END_OF_DIRECTORY = b"PK\x05\x06"
END_BYTES = 22  # of the end of a directory without a comment


def seal(path: str | Path) -> None:
    """Write the seal into a zip file without a comment; ``ValueError`` for another file."""
    content = bytearray(Path(path).read_bytes())
    if content[-END_BYTES:][: len(END_OF_DIRECTORY)] != END_OF_DIRECTORY:
        raise ValueError(f"{path} is not a zip file without a comment")

    # the last two bytes say how long the comment is
    content[-2:] = struct.pack("<H", SEAL_BYTES)
    with open(path, "wb") as file:
        file.write(content + MARK + hashlib.sha256(content).hexdigest().encode())


def check_seal(path: str | Path) -> bool:
    """Whether a file has a seal; ``ValueError`` if it has one that its content does not fit."""
    content = Path(path).read_bytes()
    body, found = content[:-SEAL_BYTES], content[-SEAL_BYTES:]
    if not found.startswith(MARK):
        return False
    if hashlib.sha256(body).hexdigest().encode() != found[len(MARK) :]:
        raise ValueError("its content does not fit its checksum")
    return True
