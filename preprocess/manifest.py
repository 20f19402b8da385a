"""What preprocessing scripts share about the folder they write: its manifest, and what happens when
it cannot be made or is interrupted.

The manifest is a json file with the settings of the folder and the SHA-256 of every finished file.
Every piece is whole or absent: the same command makes what is missing, uses again what fits its
settings and checksums, and refuses the rest.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from farfield.common.session import Interrupted
from farfield.dataloader.storage import files
from farfield.dataloader.storage.files import REBUILD_HINT


@contextlib.contextmanager
def being_made(folder: Path):
    """A folder whose pieces the caller writes: ``ValueError`` if it cannot be made; Ctrl-C ends in
    one line that says how to go on.
    """
    new = not folder.exists()
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
    finally:
        if new and not any(folder.iterdir()):
            folder.rmdir()  # refused before anything was written


def remove(paths: Iterable[Path]):
    """Remove files and folders, those that are there, in this order; the manifest goes first, so
    that an interruption leaves no mixture.
    """
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)


class Manifest:
    """The manifest of a folder that is made with ``settings``, and its finished ones of the files
    ``names``.

    path: of the manifest. ``ValueError`` for a folder of other settings, a damaged file, and files
    without a manifest. content: what is stored besides settings and files, e.g. the source.
    """

    def __init__(self, path: Path, settings: dict, names: Iterable[str]):
        self.path, self.folder, self.settings = path, path.parent, settings
        self.finished: dict[str, str] = {}
        self.content: dict[str, object] = {}
        if not path.exists():
            strangers = [name for name in names if (self.folder / name).exists()]
            if strangers:
                stranger = self.folder / strangers[0]
                raise ValueError(
                    f"{stranger} stands there without {path.name}; give --rebuild to replace it, "
                    "or another --out"
                )
            return
        self.content = files.read_json(path, REBUILD_HINT)
        found, finished = self.content.pop("settings", None), self.content.pop("files", None)
        if not isinstance(found, dict) or not isinstance(finished, dict):
            raise ValueError(f"{path} is damaged (no settings or no files); {REBUILD_HINT}")
        for name, value in settings.items():
            if found.get(name) != value:
                held = f"{self.folder} holds data with {name} {found.get(name)}, wanted is {value}"
                raise ValueError(f"{held}; give --rebuild to replace them, or another --out")
        self.finished = {
            name: checksum for name, checksum in finished.items() if (self.folder / name).exists()
        }
        for name, checksum in self.finished.items():
            if files.file_checksum(self.folder / name) != checksum:
                raise ValueError(
                    f"{self.folder / name} is damaged (its checksum does not fit {path.name}); "
                    f"{REBUILD_HINT}"
                )

    def check_source(self, groups: dict[str, Iterable[Path]]):
        """Note the checksums of the files that the data are made from, group by group;
        ``ValueError`` if others are noted already.
        """
        now = [
            [group, path.name, files.file_checksum(path)]
            for group, paths in groups.items()
            for path in paths
        ]
        held = self.content.setdefault("source", now)
        if held != now:
            before, given = (
                ", ".join(f"{name} ({checksum[:12]}...)" for _, name, checksum in entries)
                for entries in (held, now)
            )
            raise ValueError(
                f"{self.folder} was made from {before}, given is {given}; {REBUILD_HINT}, or "
                "another --out"
            )

    def add(self, name: str, save: Callable[[Path], object]):
        """Write a file with ``save(path)`` if it is not finished, then its checksum; the manifest
        is there before the first file.
        """
        if name not in self.finished:
            if not self.path.exists():
                self.write()
            save(self.folder / name)
            self.finished = dict(
                sorted({**self.finished, name: files.file_checksum(self.folder / name)}.items())
            )
            self.write()

    def write(self):
        """Write the manifest as it stands, atomically."""
        files.write_json(
            self.path, {"settings": self.settings, "files": self.finished, **self.content}
        )
