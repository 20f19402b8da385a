"""Checksums of the blocks of a file, at its end, for files that others lay out.

    content of the file    json: length of the content, SHA-256 of each block of 4 MB
    length of the json (8 bytes, little-endian)    mark (16 bytes)

LMDB does not look behind its last page, and does not check its pages: a wrong byte in its tree can
end the process. So all blocks are compared before LMDB reads one, of a file above 2 GB a sample of
them. A process compares a file once. Cost: 1.5 seconds a GB.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from farfield.dataloader.storage import files
from farfield.dataloader.storage.lmdb_files import file_identity

MARK = b"farfield-blocks\n"
TAIL = struct.Struct(f"<Q{len(MARK)}s")  # length of the json, mark
LARGEST_WHOLE = 2 << 30  # bytes; of larger files a sample of the blocks is compared
SAMPLED_BLOCKS = 128

_COMPARED: set[tuple] = set()  # files that this process has compared


def append_block_list(path: Path) -> None:
    """Append the checksums of all blocks to a file."""
    words = {"bytes": path.stat().st_size, "blocks": files.block_checksums(path)}
    content = json.dumps(words | {"checksum": files.json_checksum(words)}).encode()
    with open(path, "ab") as file:
        file.write(content + TAIL.pack(len(content), MARK))


def has_block_list(path: Path) -> bool:
    """Whether a file ends with a list of its blocks."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - len(MARK)))
        return file.read() == MARK


def check_blocks(path: Path, hint: str) -> None:
    """``ValueError`` for a block that is not as it was written; hint: the end of the error."""
    identity = (path.resolve(), *file_identity(path))
    if identity in _COMPARED:
        return
    size, expected = _block_list(path, hint)
    chosen = range(len(expected))
    if size > LARGEST_WHOLE:
        spread = np.linspace(0, len(expected) - 1, SAMPLED_BLOCKS)
        chosen = np.unique(spread.astype(np.int64)).tolist()

    found = files.block_checksums(path, chosen, end=size)
    for block, checksum in zip(chosen, found, strict=True):
        if checksum != expected[block]:
            raise ValueError(
                f"{path} is damaged: block {block} (bytes {block * files.BLOCK_BYTES} and on) has "
                f"another checksum; {hint}"
            )
    _COMPARED.add(identity)


def _block_list(path: Path, hint: str) -> tuple[int, list[str]]:
    """Bytes of the content, and the checksum of each block; ``ValueError`` for a damaged list."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(size - TAIL.size)
        length, _ = TAIL.unpack(file.read(TAIL.size))
        start = size - TAIL.size - length

        # nothing that the list says is believed before its own checksum fits
        try:
            file.seek(start)
            words = files.parse_json(file.read(length))
            checksum = words.pop("checksum")
            if files.json_checksum(words) != checksum or words["bytes"] != start:
                raise ValueError("another checksum")
        except (ValueError, OSError, KeyError, AttributeError, OverflowError, MemoryError):
            raise ValueError(f"{path} is damaged (the checksums at its end); {hint}") from None
    return start, words["blocks"]
