"""Progress bars of downloads and of files that are read."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from farfield.common.log import count_bar, progress_bar

DELAY = 1.0  # seconds; a file that is read faster shows no bar


def download_bar(name: str, total: int | None, done: int) -> tqdm:
    """Bytes of the file ``name``: in all (None: not known) and already there."""
    return progress_bar(total, initial=done, desc=name, unit="B", unit_scale=True)


def reading_bar(path: Path, unit: str) -> tqdm:
    """Frames or molecules (``unit``) of a file, as many as there are."""
    return count_bar(None, f"read {path.name}", f"{unit}s", delay=DELAY)
