"""The manifest of a preprocessed folder, and what happens when a script is interrupted.

The manifest is a json file with the settings of the folder and the SHA-256 of every finished file.
Every file is complete or missing: the same command makes what is missing, uses again what fits its
settings and checksums, and refuses the rest.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from farfield.common.folder_lock import only_process
from farfield.common.session import Interrupted
from farfield.dataloader.storage import files
from farfield.dataloader.storage.files import REBUILD_HINT

REPLACE_HINT = "give --rebuild to replace them, or another --out"
SHOWN_DIGITS = 12  # of a checksum in a message


@contextlib.contextmanager
def being_made(folder: Path) -> Iterator[None]:
    """A folder whose files the caller writes inside the block.

    ``ValueError`` if the folder cannot be made, and while another process is in it. Ctrl-C ends in
    one line that says how to continue.
    """
    with only_process(folder, "--out"):
        yield from _being_made(folder)


def _being_made(folder: Path) -> Iterator[None]:
    """The same, where no other process is in the folder."""
    try:
        files.make_folder(folder)
    except OSError as error:
        raise ValueError(
            f"--out {folder} cannot be written ({error.strerror}); give another --out"
        ) from None

    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; the same command, without --rebuild, makes what {folder} lacks"
        ) from None


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders that exist, in this order.

    The manifest goes first, so that an interruption leaves no mixture of old and new.
    """
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)


class Manifest:
    """The manifest of a folder that is made with ``settings``.

    path: of the manifest. names: files of the folder that it lists when they are finished. content:
    what is stored besides settings and files, e.g. the source. ``ValueError`` for a folder with
    other settings, a damaged file, and files without a manifest.
    """

    def __init__(self, path: Path, settings: dict, names: Iterable[str]):
        self.path, self.folder, self.settings = path, path.parent, settings
        self.finished: dict[str, str] = {}
        self.content: dict[str, object] = {}
        if path.exists():
            self._read()
        else:
            self._refuse_strangers(names)

    def _refuse_strangers(self, names: Iterable[str]) -> None:
        """No file of the user is overwritten."""
        for name in names:
            if (self.folder / name).exists():
                raise ValueError(
                    f"{self.folder / name} exists without {self.path.name}; give --rebuild to "
                    "replace it, or another --out"
                )

    def _read(self) -> None:
        """Take over what is finished; refuse other settings and damaged files."""
        self.content = files.read_json(self.path, REBUILD_HINT)
        found, finished = self.content.pop("settings", None), self.content.pop("files", None)
        if not isinstance(found, dict) or not isinstance(finished, dict):
            raise ValueError(f"{self.path} is damaged (no settings or no files); {REBUILD_HINT}")
        for name in {**self.settings, **found}:
            value = self.settings.get(name)
            if found.get(name) != value:
                raise ValueError(
                    f"{self.folder} holds data with {name} {found.get(name)}, but {value} is "
                    f"needed; {REPLACE_HINT}"
                )

        # a file that was lost is made again
        for name, checksum in finished.items():
            if (self.folder / name).exists():
                self.finished[name] = checksum
        for name, checksum in self.finished.items():
            if files.file_checksum(self.folder / name) != checksum:
                raise ValueError(
                    f"{self.folder / name} is damaged (its checksum does not fit "
                    f"{self.path.name}); {REBUILD_HINT}"
                )

    def check_source(self, groups: dict[str, Iterable[Path]]) -> None:
        """Note the checksums of the files that the data are made from, group by group.

        ``ValueError`` if other checksums are noted already.
        """
        now = [
            [group, path.name, files.file_checksum(path)]
            for group, paths in groups.items()
            for path in paths
        ]
        held = self.content.setdefault("source", now)
        if held != now:
            raise ValueError(
                f"{self.folder} was made from {_listed(held)}, given is {_listed(now)}; "
                f"{REBUILD_HINT}, or give another --out"
            )

    def add(self, name: str, save: Callable[[Path], object]) -> None:
        """Write a file with ``save(path)`` if it is not finished, then note its checksum.

        The manifest is written before the first file.
        """
        if name in self.finished:
            return
        if not self.path.exists():
            self.write()
        save(self.folder / name)
        self.finished[name] = files.file_checksum(self.folder / name)
        self.finished = dict(sorted(self.finished.items()))
        self.write()

    def write(self) -> None:
        """Write the manifest as it stands, atomically."""
        content = {"settings": self.settings, "files": self.finished, **self.content}
        files.write_json(self.path, content)


def _listed(entries: list[list[str]]) -> str:
    """Names and checksums of source files, for a message."""
    return ", ".join(f"{name} ({checksum[:SHOWN_DIGITS]}...)" for _, name, checksum in entries)
