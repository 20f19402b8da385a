"""A SHA-256 over a whole zip file, kept in the comment at its end.

The checksums of a zip file cover the bytes of its members, not its directory: one wrong bit there
can make a reader take other bytes for a member, or miss one. The seal covers everything before it.
An npz that is written with a seal says so in an array, so that a lost seal is noticed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from farfield.dataloader.storage.files import atomic_write

MARK = b"sha256:"
SEAL_BYTES = len(MARK) + 2 * hashlib.sha256().digest_size
END_OF_DIRECTORY = b"PK\x05\x06"
END_BYTES = 22  # of the end of a directory without a comment
SEALED = "sealed"  # array of an npz that has a seal


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


def write_sealed_npz(path: str | Path, arrays: Mapping[str, object]) -> None:
    """Write the arrays as an npz with a seal, atomically."""
    content = {SEALED: np.array(True)} | {name: np.asarray(one) for name, one in arrays.items()}
    with atomic_write(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez(file, **content)
        seal(temporary)


def check_sealed_npz(path: str | Path, names: Collection[str], hint: str) -> None:
    """``ValueError`` for an npz that is not as :func:`write_sealed_npz` left it.

    names: of its arrays; a file of an earlier version, without the array SEALED, has no seal.
    hint: what the user can do, the end of an error.
    """
    try:
        sealed = check_seal(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {hint}") from None
    if SEALED in names and not sealed:
        raise ValueError(f"{path} is damaged (its checksum is missing); {hint}")
