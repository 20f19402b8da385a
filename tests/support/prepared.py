"""Folders of preprocessed data in tests."""

import shutil
from pathlib import Path


def copied(folder: Path, to: Path) -> Path:
    """A copy of a finished folder that a test may change."""
    return Path(shutil.copytree(folder, to / "copy"))


def content(folder: Path) -> dict[str, bytes]:
    """Relative name -> bytes of every file of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
