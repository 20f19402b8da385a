"""Files that are whole or absent: atomic writes, checksums, and readers whose errors are one line.

A write goes to a temporary name in the same folder, is flushed to the disk (fsync), and takes its
place by one rename. An interruption at any moment leaves the old file or the new one, never half of
either. Temporary names start with a dot and hold :data:`TEMPORARY`; what a killed process left
under such a name for the same target is cleared by the next write. Two processes may not write one
target at a time. Cost: one fsync of the file and one of its folder.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from farfield.dataloader.storage.npz_members import read_member

TEMPORARY = ".unfinished-"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BLOCK_BYTES = 4 << 20  # of blockwise checksums
REBUILD_HINT = "preprocess the data again with --rebuild"  # ends errors of damaged files
# what reading an npz raises when a byte of it is not as written
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    OSError,
    EOFError,
    KeyError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    TypeError,
)


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """``with atomic_write(path) as temporary:`` write the file ``temporary``; at the end of the
    block it becomes ``path``.

    On an error in the block it vanishes, and what stood at ``path`` stays. A full disk is an
    ``OSError`` that names ``path``.
    """
    path = Path(path)
    clear_leftovers(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}{TEMPORARY}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name_full_disk(error, path)
        raise
    sync(path.parent)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """``with atomic_folder(path) as temporary:`` fill the folder ``temporary``; at the end of the
    block it replaces ``path``.

    On an error in the block it vanishes, and what stood at ``path`` stays. A folder cannot be
    exchanged in one step: an interruption between the two renames leaves no folder ``path``, but
    never a mixed one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}{TEMPORARY}", dir=path.parent))
    retired = temporary.with_name(temporary.name + "-old")
    try:
        os.chmod(temporary, 0o777 & ~_umask())
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        if path.exists():
            os.replace(path, retired)
        os.replace(temporary, path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _name_full_disk(error, path)
        raise
    sync(path.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _name_full_disk(error: BaseException, path: Path):
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        raise OSError(
            f"{path} cannot be written ({error.strerror}); free some disk space, or write elsewhere"
        ) from None


def clear_leftovers(path: Path):
    """Remove what killed writers of ``path`` left behind."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}{TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def make_folder(path: Path):
    """Make a folder, with its parents, if it does not exist.

    ``OSError`` if it cannot be made or nothing can be written into it.
    """
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def sync(path: Path):
    """Flush a file or the entries of a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | Path, content) -> None:
    """Write ``content`` atomically as indented json."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def parse_json(text: str | bytes) -> Any:
    """The value of a json text; ``ValueError`` for a damaged one, and one nested too deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


@contextlib.contextmanager
def naming(source: str | Path | None, hint: str = "") -> Iterator[None]:
    """Begin the message of a ``ValueError`` that does not name ``source`` with it.

    source: a file or folder; None changes nothing. hint: what the user can do, the end of it.
    """
    try:
        yield
    except ValueError as error:
        if source is None or str(source) in str(error):
            raise
        words = [f"{source}: {error}", *([hint] if hint else [])]
        raise ValueError("; ".join(words)) from None


def read_json(path: str | Path, hint: str) -> dict:
    """The dictionary of a json file.

    hint: what the user can do, the end of an error. ``FileNotFoundError`` or ``ValueError`` with
    the file if it is missing, damaged or holds something else.
    """
    path = Path(path)
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; {hint}") from None
    except NotADirectoryError:
        raise ValueError(f"{path.parent} is a file, but a folder is needed; {hint}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); {hint}") from None
    except ValueError as error:  # bad json or bad utf-8
        raise ValueError(f"{path} is damaged ({_first_line(error)}); {hint}") from None

    if not isinstance(content, dict):
        raise ValueError(
            f"{path} is damaged (holds {type(content).__name__}, not a dictionary); {hint}"
        )
    return content


def read_npz(path: str | Path, names: Iterable[str], hint: str) -> dict[str, np.ndarray]:
    """Arrays of an npz file; every member is verified against the checksum the format keeps.

    names: of the arrays. hint: what the user can do, the end of an error. ``FileNotFoundError``
    for a missing file; ``ValueError`` for a damaged or foreign file and for arrays that are not in
    it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {hint}")
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise zipfile.BadZipFile("not a zip archive, or its end is missing")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                missing = [name for name in names if name not in archive.files]
                content = {} if missing else {name: read_member(archive, name) for name in names}
                found = archive.files
    except PermissionError as error:
        raise PermissionError(
            f"{path} cannot be read ({error.strerror}); change its permissions"
        ) from None
    except DAMAGE as error:
        raise ValueError(
            f"{path} is damaged or not an npz file ({_first_line(error)}); {hint}"
        ) from None
    if missing:
        raise ValueError(
            f"{path} has no array {missing[0]!r} (it holds {', '.join(found) or 'nothing'}); {hint}"
        )
    return content


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def block_count(size: int, block_bytes: int = BLOCK_BYTES) -> int:
    """Number of blocks of a file of ``size`` bytes."""
    return -(-size // block_bytes)


def block_checksums(
    path: str | Path,
    blocks: Iterable[int] | None = None,
    block_bytes: int = BLOCK_BYTES,
    end: int | None = None,
) -> list[str]:
    """SHA-256 of the given blocks (None: of all, in order) of the first ``end`` bytes of a file."""
    end = Path(path).stat().st_size if end is None else end
    if blocks is None:
        blocks = range(block_count(end, block_bytes))
    sums = []
    with open(path, "rb", buffering=0) as file:
        for block in blocks:
            first = block * block_bytes
            file.seek(first)
            content = _read_up_to(file, min(block_bytes, max(0, end - first)))
            sums.append(hashlib.sha256(content).hexdigest())
    return sums


def _read_up_to(file, size: int) -> bytes:
    parts = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def file_checksum(path: str | Path) -> str:
    """SHA-256 of a whole file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_checksum(*arrays: np.ndarray) -> str:
    """SHA-256 of the types, shapes and numbers of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.data.cast("B") if array.size else b"")
    return digest.hexdigest()


def json_checksum(content) -> str:
    """SHA-256 of a json-able value, independent of the order of its keys."""
    return hashlib.sha256(
        json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


class NpyWriter:
    """An ``.npy`` file that grows by rows; the number of rows need not be known before.

    Arguments
        path         file to write (use inside :func:`atomic_folder`)
        row_shape    shape of one row
        dtype        type of the stored numbers
    """

    def __init__(self, path: str | Path, row_shape: tuple[int, ...], dtype):
        self.path, self.row_shape, self.dtype = Path(path), tuple(row_shape), np.dtype(dtype)
        self.rows = 0
        self._file = open(self.path, "wb")  # noqa: SIM115 - closed by close()
        self._write_header()

    def append(self, rows: np.ndarray):
        """Append rows (any, *row_shape), converted to the type of the file."""
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        if rows.shape[1:] != self.row_shape:
            raise ValueError(
                f"rows of {self.path.name} must have the shape {self.row_shape}, got "
                f"{rows.shape[1:]}"
            )
        self._file.write(rows.data)
        self.rows += len(rows)

    def close(self):
        """Write the final number of rows and close."""
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self):
        # NumPy pads this header for a first axis of up to 21 digits, so the final one has the
        # length of the first
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.rows, *self.row_shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(self, *error):
        self.close()
