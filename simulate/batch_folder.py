"""Finished batches of a run that makes one file of molecules, so that an interruption loses little.

    molecules.xyz.unfinished/          while the run lasts
        settings.json                  what decides the molecules
        batch_00000.part, ...          finished batches, each whole or not there: extended xyz and,
                                       in the last line, its SHA-256
    molecules.xyz                      all batches, at the end; then the folder goes

A run that goes on must have the settings of the run that began. Text is joined as it stands, so
the file is the same, byte for byte, with and without an interruption; a batch that is not as it was
written is refused.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from farfield.dataloader.storage import files

SETTINGS = "settings.json"
SUFFIX = ".unfinished"
LAST_LINE_BYTES = 2 * hashlib.sha256().digest_size  # of a batch


class BatchFolder:
    """Batches of the file ``out``.

    Arguments
        out        file that the run makes
        settings   what decides its content; values that json has
        resume     go on with the batches that are there
        overwrite  replace ``out``, and start from the first batch

    ``ValueError`` in one line where ``out`` or batches of it exist and neither is asked, and for a
    resumed run with other settings. Nothing is written before :meth:`begin`.
    """

    def __init__(self, out: str | Path, settings: Mapping, resume: bool, overwrite: bool):
        self.out, self.settings = Path(out), dict(settings)
        self.folder = self.out.with_name(self.out.name + SUFFIX)
        self.resume, self.overwrite = resume, overwrite
        self._check()

    def _check(self) -> None:
        if self.resume and self.overwrite:
            raise ValueError(
                f"--resume continues {self.out}, --overwrite replaces it; give one of them"
            )
        if self.out.is_dir() or not self.out.parent.is_dir():
            raise ValueError(f"--out {self.out}: give a file in a folder that exists")
        if self.overwrite:
            return

        # the folder goes when a run ends, so what is still there was interrupted
        begun = (self.folder / SETTINGS).exists()
        if begun and self.resume:
            self._check_settings()
        elif begun:
            raise ValueError(
                f"--out {self.out}: {self.folder} holds a run that is not finished; add --resume "
                "to continue it, or --overwrite to start again"
            )
        elif self.out.exists():
            what = "is finished" if self.resume else "exists"
            raise ValueError(
                f"--out {self.out} {what}; give another file, or --overwrite to replace it"
            )

    def _check_settings(self) -> None:
        """Raise ValueError for the first setting that differs from the run that began."""
        saved = files.read_json(self.folder / SETTINGS, "start again with --overwrite")
        for name in sorted(saved.keys() | self.settings.keys()):
            before, now = saved.get(name), self.settings.get(name)
            if before != now:
                raise ValueError(
                    f"cannot resume {self.out}: {name} is {_short(before)} there and "
                    f"{_short(now)} here; give what the run was begun with, or --overwrite"
                )

    def begin(self) -> None:
        """Make the folder, without the batches of another run."""
        files.make_folder(self.folder)
        if not (self.resume and (self.folder / SETTINGS).exists()):
            for left in self.folder.iterdir():
                left.unlink()
        files.write_json(self.folder / SETTINGS, self.settings)

    def path(self, batch: int) -> Path:
        """File of a batch; it is finished when the file is there."""
        return self.folder / f"batch_{batch:05d}.part"

    def has(self, batch: int) -> bool:
        """Whether a batch is finished."""
        return self.path(batch).exists()

    def add(self, batch: int, text: str) -> None:
        """Write a finished batch, extended xyz, atomically."""
        content = text.encode("utf-8")
        with files.atomic_write(self.path(batch)) as temporary:
            temporary.write_bytes(content + _last_line(content))

    def join(self, batches: int) -> None:
        """Write ``out``, atomically, from all batches; ``ValueError`` for a damaged batch."""
        with files.atomic_write(self.out) as temporary, open(temporary, "wb") as whole:
            for batch in range(batches):
                whole.write(self._content(batch))

    def _content(self, batch: int) -> bytes:
        found = self.path(batch).read_bytes()
        content, last = found[:-LAST_LINE_BYTES], found[-LAST_LINE_BYTES:]
        if last != _last_line(content):
            raise ValueError(
                f"{self.path(batch)} is damaged (its checksum does not fit); remove it and "
                "continue with --resume"
            )
        return content

    def close(self) -> None:
        """Remove the batches, once nobody needs them any more."""
        shutil.rmtree(self.folder)


def _last_line(content: bytes) -> bytes:
    """SHA-256 of a batch."""
    return hashlib.sha256(content).hexdigest().encode()


def _short(value: object) -> str:
    """A value as a message shows it; of a checksum the first letters."""
    text = repr(value)
    return text if len(text) < 40 else f"{text[:10]}...'"
