"""One structure as bytes: raw little-endian arrays one after the other, behind a checksum.

    crc32 of the rest (4)   number of atoms (4)   array   array   ...

The arrays stand in the order of the layout; an array of atoms has a row for each atom, an array of
structures one row. Numbers are stored as they are in memory: float64, elements as one byte. Cost:
1 microsecond for an array.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

HEAD = struct.Struct("<II")  # checksum, atoms
PER_ATOM, PER_STRUCTURE = "atom", "structure"


class Field(NamedTuple):
    """An array of a record.

    name: in ``Structures``, or ``extra_`` and the name of a further label. per: "atom" or
    "structure". dtype: its code for NumPy, little-endian. shape: of one row.
    """

    name: str
    per: str
    dtype: str
    shape: tuple[int, ...]

    def rows(self, atoms: int) -> int:
        """Rows of a structure of ``atoms`` atoms."""
        return atoms if self.per == PER_ATOM else 1


def pack(fields: Sequence[Field], rows: dict[str, np.ndarray], atoms: int) -> bytes:
    """The record of a structure; rows: name -> (rows, ...) of every field."""
    parts = [
        np.ascontiguousarray(rows[field.name], np.dtype(field.dtype)).tobytes() for field in fields
    ]
    body = struct.pack("<I", atoms) + b"".join(parts)
    return struct.pack("<I", zlib.crc32(body)) + body


def unpack(fields: Sequence[Field], record: memoryview) -> dict[str, np.ndarray]:
    """Name -> (rows, ...) of a record, views of it; ``ValueError`` for a damaged one."""
    if len(record) < HEAD.size:
        raise ValueError(f"it has {len(record)} bytes")
    checksum, atoms = HEAD.unpack_from(record)
    if zlib.crc32(record[4:]) != checksum:
        raise ValueError("its checksum does not fit")

    found, place = {}, HEAD.size
    for field in fields:
        kind, shape = np.dtype(field.dtype), (field.rows(atoms), *field.shape)
        count = int(np.prod(shape))
        found[field.name] = np.frombuffer(record, kind, count, place).reshape(shape)
        place += count * kind.itemsize
    if place != len(record):
        raise ValueError(f"it has {len(record)} bytes, its layout has {place}")
    return found
