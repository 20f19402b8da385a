"""Counts and sizes in words."""

from __future__ import annotations

UNITS_OF_BYTES = ("B", "kB", "MB", "GB")


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun, in the singular where it is one.

    plural: where it is not the noun and an s.

    >>> counted(1, "batch", "batches"), counted(3, "edge")
    ('1 batch', '3 edges')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def file_size(count: int) -> str:
    """A number of bytes in the unit that suits it, powers of 1000.

    >>> file_size(34_567), file_size(2_000_000)
    ('34.6 kB', '2.0 MB')
    """
    size = float(count)
    for unit in UNITS_OF_BYTES:
        if size < 999.95 or unit == UNITS_OF_BYTES[-1]:
            break
        size /= 1000
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
