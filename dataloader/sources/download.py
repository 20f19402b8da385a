"""Public files over https: with resume, checksum, mirrors and a way out without a network.

A file arrives as ``.NAME.part`` in its folder and is renamed when it is whole. A broken transfer
continues where it stopped (HTTP Range, under the condition that the server still has the same
file); a server that cannot continue sends the file again. A whole file is compared with its SHA-256
where it is known, and with the announced size where it is not; the checksum is recorded in
``NAME.sha256``, so that later damage is found. What does not begin like a file of its suffix (a
page of a server that has moved) is not taken. Every address is tried in turn.

Nothing travels over plain http, redirected or not. An answer ends at its announced size, at the
largest size of the file, or where the disk would be full; what came of it is removed. A file that
is downloaded again must have the checksum that its first download noted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.client
import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from farfield.dataloader.storage import files

RAW_FOLDER = "data/raw"
RAW_FOLDER_HELP = "folder with the published files; missing files are downloaded into it"
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 4  # at one address, as long as each brings something
CHUNK_BYTES = 1 << 18
REFUSED_RANGE = 416
LARGEST_FILE = 32 << 30  # bytes, unless a file says its own limit
KEPT_FREE = 256 << 20  # bytes of the disk that a download leaves
# hosts that tests reach over plain http
PLAIN_HTTP_HOSTS: frozenset[str] = frozenset()

# URLError, timeouts and broken connections are OSErrors
FAILURES = (OSError, http.client.HTTPException)

# suffix -> first bytes of such a file
BEGINNINGS = {".npz": b"PK", ".bz2": b"BZh", ".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\x00"}


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A public file: its name here, addresses in order of preference, SHA-256 where it is known,
    and the number of bytes that it never exceeds.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None
    largest: int = LARGEST_FILE

    @property
    def beginning(self) -> bytes:
        """First bytes of any file with this suffix; empty where they are not known."""
        return BEGINNINGS.get(Path(self.name).suffix, b"")


def fetch(
    remote: RemoteFile,
    folder: str | Path,
    open_bar: Callable | None = None,
    timeout: float = TIMEOUT,
) -> Path:
    """The file in ``folder``, downloaded if it is missing.

    open_bar: ``open_bar(name, bytes in all or None, bytes that are there)`` gives a progress bar
    like tqdm's. timeout: seconds without a byte. ``ValueError`` for a file with the wrong checksum;
    ``OSError`` that says where to put the file by hand if no address can be reached.
    """
    target = Path(folder) / remote.name
    if target.exists():
        check_file(remote, target)
        return target

    files.make_folder(target.parent)
    bar = functools.partial(open_bar or _NoBar, remote.name)
    reasons = []
    for url in remote.urls:
        try:
            _fetch_from(url, remote, target, bar, timeout)
            return target
        except (*FAILURES, ValueError) as error:
            reasons.append(f"{url}: {_reason(error)}")
    by_hand = f"put the file here: {target} (from {remote.urls[0]})"
    raise OSError(f"{remote.name} could not be downloaded ({'; '.join(reasons)}); {by_hand}")


def check_file(remote: RemoteFile, path: Path):
    """``ValueError`` unless the file has the checksum that is known, or that its download noted."""
    expected = remote.sha256
    record = _record_of(path)
    if expected is None and record.exists():
        expected = record.read_text(encoding="utf-8").split()[0]
    if expected is None:
        return
    found = files.file_checksum(path)
    if found != expected:
        raise ValueError(
            f"{path} is damaged or another file (SHA-256 {found[:12]}..., expected "
            f"{expected[:12]}...); remove it to have it downloaded again"
        )


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


class _NoBar:
    """A progress bar that shows nothing."""

    def __init__(self, name: str, total: int | None, done: int):
        pass

    def update(self, count: int):
        """As tqdm's."""

    def close(self):
        """As tqdm's."""


def _fetch_from(
    url: str, remote: RemoteFile, target: Path, open_bar: Callable, timeout: float
) -> None:
    """Bring the whole file from one address, or raise what went wrong."""
    _check_address(url)
    part = target.with_name(f".{target.name}.part")
    _transfer_with_retries(url, part, open_bar, timeout, remote.largest)
    checksum = files.file_checksum(part)
    _check_part(part, remote, checksum, _noted_checksum(target))

    # the record of the checksum comes first: a file without one would never be checked again
    files.sync(part)
    with files.atomic_write(_record_of(target)) as temporary:
        temporary.write_text(f"{checksum}  {target.name}\n", encoding="utf-8")
    part.rename(target)
    files.sync(target.parent)
    _discard(part)


def _noted_checksum(target: Path) -> str | None:
    """Checksum of the first download of a file that has gone since, None for a first one."""
    record = _record_of(target)
    return record.read_text(encoding="utf-8").split()[0] if record.exists() else None


def _check_address(url: str) -> None:
    """``ValueError`` unless an address is https (tests name hosts that need not be)."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in PLAIN_HTTP_HOSTS):
        return
    raise ValueError(f"only https is safe, not {parts.scheme or 'no scheme'}")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to another address only over https."""

    def redirect_request(self, request, file, code, message, headers, url):
        """The next request; ``ValueError`` for an address that is not safe."""
        try:
            _check_address(url)
        except ValueError as error:
            raise ValueError(f"the server leads to {url}: {error}") from None
        return super().redirect_request(request, file, code, message, headers, url)


class _TooLargeError(ValueError):
    """More bytes than a file may have."""


def _transfer_with_retries(
    url: str, part: Path, open_bar: Callable, timeout: float, largest: int
) -> None:
    """Fill ``part`` in at most ATTEMPTS attempts, each of which must bring something."""
    for attempt in range(ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        try:
            _transfer(url, part, open_bar, timeout, largest)
            return
        except _TooLargeError:
            _discard(part)
            raise
        except urllib.error.HTTPError as error:
            if error.code != REFUSED_RANGE or not before:
                raise
            # whole already, or another file than the server's: once more from the start
            _discard(part)
        except FAILURES:
            if attempt + 1 == ATTEMPTS or not part.exists() or part.stat().st_size <= before:
                raise


def _check_part(part: Path, remote: RemoteFile, checksum: str, noted: str | None) -> None:
    """``ValueError`` for another checksum than the known one, or the one that was noted by the
    first download, and for a file of another kind.
    """
    if noted is not None and remote.sha256 is None and checksum != noted:
        _discard(part)
        raise ValueError(
            f"the server has another file than at the first download (SHA-256 {checksum[:12]}..., "
            f"then {noted[:12]}...); remove {remote.name}.sha256 to take the new one"
        )
    if remote.sha256 is not None and checksum != remote.sha256:
        _discard(part)
        raise ValueError(
            f"wrong checksum (SHA-256 {checksum[:12]}..., expected {remote.sha256[:12]}...)"
        )

    with open(part, "rb") as file:
        begins = file.read(len(remote.beginning))
    if begins != remote.beginning:
        _discard(part)
        raise ValueError(
            f"the server sent something that is not a {Path(remote.name).suffix} file (it begins "
            f"with {begins!r})"
        )


def _transfer(url: str, part: Path, open_bar: Callable, timeout: float, largest: int) -> None:
    """Append to ``part`` what is missing.

    ``OSError`` if the connection ends before the announced size, ``ValueError`` for more than
    ``largest`` bytes, and for more than the disk holds.
    """
    done, mark = _state_of(part, url)
    headers = {"User-Agent": "farfield", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    if done and mark:
        headers["If-Range"] = mark
    request = urllib.request.Request(url, headers=headers)
    opener = urllib.request.build_opener(_SafeRedirects)
    with opener.open(request, timeout=timeout) as response:
        # a server that cannot continue sends all of the file again
        place = response.headers.get("Content-Range", "")
        continued = response.status == 206 and place.startswith(f"bytes {done}-")
        if not continued:
            done = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        limit = min(largest, done + shutil.disk_usage(part.parent).free - KEPT_FREE)
        _check_size(total, limit, largest)
        _note(part, url, response.headers)

        with (
            open(part, "ab" if continued else "wb") as file,
            contextlib.closing(open_bar(total, done)) as bar,
        ):
            while chunk := response.read(CHUNK_BYTES):
                done += len(chunk)
                _check_size(done, limit, largest)
                file.write(chunk)
                bar.update(len(chunk))

    found = part.stat().st_size
    if total is not None and found != total:
        raise ConnectionError(f"the connection ended after {found} of {total} bytes")


def _check_size(size: int | None, limit: int, largest: int) -> None:
    """``ValueError`` for a size in bytes above ``limit``: ``largest``, or what the disk holds."""
    if size is not None and size > limit:
        why = "the file may have" if limit == largest else "the disk has room for"
        raise _TooLargeError(f"the server sends {size} bytes or more, {why} {max(limit, 0)}")


def _state_of(part: Path, url: str) -> tuple[int, str | None]:
    """Bytes that came from this address, and the mark of the server's file they belong to.

    A part without a mark is not continued.
    """
    note = part.with_name(part.name + ".json")
    with contextlib.suppress(OSError, ValueError, AttributeError):
        content = json.loads(note.read_text(encoding="utf-8"))
        if content.get("url") == url and content.get("mark"):
            return part.stat().st_size, content["mark"]
    _discard(part)
    return 0, None


def _note(part: Path, url: str, headers):
    """Remember which version of the file the part belongs to.

    A weak ETag does not prove that the bytes are equal.
    """
    tag = headers.get("ETag")
    mark = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
    part.with_name(part.name + ".json").write_text(
        json.dumps({"url": url, "mark": mark}), encoding="utf-8"
    )


def _discard(part: Path):
    part.unlink(missing_ok=True)
    part.with_name(part.name + ".json").unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "reason", None) or error or type(error).__name__).split())
