"""LMDB files, opened to read: sorted pairs of a key and a value in one memory-mapped file.

A file that is shorter than its own directory says is refused before anything is read from it:
reading memory that a truncated file does not have ends a process without a word. An environment is
opened once in a process, whatever the number of data sets that read it, and goes on working in
processes that are forked from it. LMDB is read and written by the package lmdb (OLDAP-2.8).

Cost: opening reads two pages; a value is found in some microseconds, whatever the size of the file.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

INSTALL_HINT = "LMDB files need the package lmdb, which is missing; type: pip install lmdb"
SUFFIX = ".lmdb"
DATA_FILE = "data.mdb"  # of an LMDB that is a folder


def lmdb_package():
    """The package lmdb; ``ValueError`` in one line where it is missing."""
    try:
        import lmdb
    except ImportError:
        raise ValueError(INSTALL_HINT) from None
    return lmdb


class LmdbFile:
    """One file, opened to read; :func:`open_lmdb` makes it.

    path: the file, or the folder that holds ``data.mdb``. ``FileNotFoundError`` or ``ValueError``
    in one line for a file that is missing, truncated or something else.
    """

    def __init__(self, path: Path, hint: str):
        self.path, self.hint = path, hint
        lmdb = lmdb_package()
        self._errors = lmdb.Error

        # no lock file beside it: the file may lie where nobody can write
        try:
            self._environment = lmdb.open(
                str(path),
                subdir=path.is_dir(),
                readonly=True,
                lock=False,
                readahead=False,
                create=False,
            )
        except lmdb.Error as error:
            raise ValueError(f"{path} is damaged or not an LMDB file ({error}); {hint}") from None
        self._check_size()

    def _check_size(self) -> None:
        """``ValueError`` for a file without all the pages that it says it has."""
        file = self.path / DATA_FILE if self.path.is_dir() else self.path
        size = file.stat().st_size
        needed = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
        if size < needed:
            self._environment.close()
            raise ValueError(
                f"{self.path} is truncated: {size} bytes, {needed} were written; {self.hint}"
            )

    @contextlib.contextmanager
    def reading(self) -> Iterator:
        """``with file.reading() as get:`` ``get(key)`` is the value as a view, None without one.

        A view is good to the end of the block. ``ValueError`` for pages that cannot be read.
        """
        try:
            with self._environment.begin(buffers=True) as transaction:
                yield transaction.get
        except self._errors as error:
            raise ValueError(f"{self.path} is damaged ({error}); {self.hint}") from None

    def all_keys(self) -> list[bytes]:
        """All keys in their order."""
        try:
            with self._environment.begin() as transaction:
                return list(transaction.cursor().iternext(keys=True, values=False))
        except self._errors as error:
            raise ValueError(f"{self.path} is damaged ({error}); {self.hint}") from None

    def close(self) -> None:
        """Close the file; nothing can be read after it."""
        self._environment.close()


_OPEN: weakref.WeakValueDictionary[tuple, LmdbFile] = weakref.WeakValueDictionary()


def file_identity(path: Path) -> tuple[int, int, int, int]:
    """What tells one file from another that took its place: device, number, size, time."""
    found = os.stat(path / DATA_FILE if path.is_dir() else path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def open_lmdb(path: str | Path, hint: str) -> LmdbFile:
    """The LMDB file ``path``, opened once in this process.

    hint: what the user can do, the end of an error. Errors: see :class:`LmdbFile`.
    """
    path = Path(path).resolve()
    if not (path.is_file() or (path / DATA_FILE).is_file()):
        raise FileNotFoundError(f"{path} does not exist; {hint}")
    identity = (path, *file_identity(path))
    found = _OPEN.get(identity)
    if found is None:
        # LMDB refuses the name of a file that was replaced while it was open
        for other, file in list(_OPEN.items()):
            if other[0] == path:
                file.close()
        found = LmdbFile(path, hint)
        _OPEN[identity] = found
    return found
