"""Sources of structures by name: which files, how they are read, how they are divided.

A new source is one file with one class, in this folder or in a file of your own:

    # my_source.py
    from pathlib import Path
    from farfield.dataloader.sources.source_registry import SOURCES, Source

    @SOURCES.register("dimers")
    class Dimers(Source):
        \"\"\"Argon dimers that I computed myself.\"\"\"

        paths = (Path("dimers.csv"),)

        def read(self, path, progress):
            ...
            return Structures(atomic_numbers, positions, counts, energy, forces)

    python -m preprocess.preprocess_structures --import my_source.py --source dimers --out data/ar

A source with options is a frozen dataclass; its fields become options of the script, with the text
of their annotation as the help:

    @SOURCES.register("dimers")
    @dataclasses.dataclass(frozen=True)
    class Dimers(Source):
        element: Annotated[str, "element of the dimers"] = "Ar"
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from farfield.dataloader.structures import Structures
from farfield.dataloader.units import Units
from farfield.models.choices import Registry

SOURCES: Registry[type[Source]] = Registry("source", package="farfield.dataloader.sources")
Progress = Callable[[int], object]  # called with the number of frames read since the last call


class Selection(NamedTuple):
    """What of the structures of a source is taken.

    kept (structures,) bool; remarks: lines for the user about what was left out.
    """

    kept: np.ndarray
    remarks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Source(abc.ABC):
    """Where structures come from. A subclass gives :attr:`paths` and :meth:`read`, and may change
    everything else.
    """

    @property
    @abc.abstractmethod
    def paths(self) -> tuple[Path, ...]:
        """Files whose structures are divided into splits."""

    @property
    def val_paths(self) -> tuple[Path, ...]:
        """Files that are the validation split (none: it is drawn from ``paths``)."""
        return ()

    @property
    def test_paths(self) -> tuple[Path, ...]:
        """Files that are the test split (none: it is drawn from ``paths``)."""
        return ()

    @property
    def units(self) -> Units:
        """Units of the files, shown to the user; :meth:`read` converts them to eV and Angstrom."""
        return Units()

    @property
    def words(self) -> dict:
        """What the structures depend on besides the files, stored with the data. A folder made with
        other words is not used again.
        """
        return {
            "units": str(self.units),
            "source": type(self).__name__,
            **dataclasses.asdict(self),
        }

    @property
    def protocol(self) -> str:
        """Split protocol when the user chooses none; a name in dataloader.split_protocols."""
        return "fractions"

    def split_defaults(self, protocol: str) -> dict:
        """Fields of ``SplitOptions`` that ``protocol`` takes for this source when the user does not
        give them; ``ValueError`` for a protocol that does not suit the source.
        """
        return {}

    def check(self) -> None:  # noqa: B027 - most sources have nothing to check
        """Refuse options that do not fit, before anything is downloaded or written.

        ``ValueError`` or ``FileNotFoundError`` with one line.
        """

    def obtain(self, open_bar: Callable) -> None:
        """Bring the files that are missing, e.g. by dataloader.sources.download.fetch.

        open_bar: ``open_bar(name of the file, bytes in all or None, bytes that are there)`` gives a
        progress bar. ``FileNotFoundError`` or ``OSError`` for a file that cannot be had.
        """
        for path in (*self.paths, *self.val_paths, *self.test_paths):
            if not path.is_file():
                raise FileNotFoundError(f"{path} does not exist; put the file there")

    @abc.abstractmethod
    def read(self, path: Path, progress: Progress) -> Structures:
        """Structures of one file, in eV and Angstrom.

        progress: may be called after each frame with 1. ``FileNotFoundError`` or ``ValueError``
        with one line that names the file.
        """

    def select(self, structures: Structures) -> Selection:
        """Which structures of all files together are taken; all of them unless a subclass says
        otherwise.
        """
        return Selection(np.ones(len(structures), bool))

    def groups(self, structures: Structures) -> np.ndarray | None:
        """Number of the group of each structure (structures,) where a split must not part groups:
        sizes of splits then count groups. None: every structure stands alone.
        """
        return None
