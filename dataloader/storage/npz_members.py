"""Members of an npz file, checked before their numbers are read.

The header of an array says its type and shape, and numpy makes room for that much before it reads
a byte. Here the room is compared with what the file holds first, so a header that promises
terabytes costs nothing.
"""

from __future__ import annotations

import math
import tokenize
import zipfile

import numpy as np
from numpy.lib import format as npy

NUMBERS_AND_WORDS = "biufcUS"  # kinds of arrays that a file of numbers may hold
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_member(archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """The array ``name`` of an open npz file.

    ValueError for headers that promise another size than the file has, and for arrays of records
    or objects.
    """
    _check_header(archive.zip, f"{name}.npy", name)
    return archive[name]


def _check_header(archive: zipfile.ZipFile, member: str, name: str) -> None:
    info = archive.getinfo(member)
    if info.flag_bits & 0x1:
        raise ValueError(f"the array {name!r} is encrypted")
    with archive.open(info) as file:
        try:
            version = npy.read_magic(file)
            if version not in HEADERS:
                raise ValueError(f"version {version}")
            shape, _, kind = HEADERS[version](file)
        except (tokenize.TokenError, SyntaxError, ValueError) as error:
            raise ValueError(f"the header of the array {name!r} is unreadable: {error}") from None
        begin = file.tell()

    if kind.hasobject:
        raise ValueError(f"the array {name!r} holds Python objects: see allow_pickle of numpy")
    if kind.kind not in NUMBERS_AND_WORDS:
        raise ValueError(f"the array {name!r} holds {kind}, not numbers")
    promised = math.prod(shape) * kind.itemsize
    if promised != info.file_size - begin:
        raise ValueError(
            f"the array {name!r} of shape {shape} needs {promised} bytes, the file has "
            f"{info.file_size - begin}"
        )
