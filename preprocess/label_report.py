"""What the check of labels found in the files of a source: refused, or said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from farfield.dataloader.label_checks import check_labels
from farfield.dataloader.sources.source_registry import Source
from farfield.dataloader.structures import Structures


class FrameNames:
    """Names of frames for the reader: ``names(12)`` is "frame 12 of train.xyz".

    parts: structures of each file of the source, in the order of its files.
    """

    def __init__(self, source: Source, parts: Sequence[Structures]):
        self.paths = [*source.paths, *source.val_paths, *source.test_paths]
        self.ends = np.cumsum([len(part) for part in parts])

    def __call__(self, index: int) -> str:
        file = int(np.searchsorted(self.ends, index, side="right"))
        first = self.ends[file - 1] if file else 0
        return f"frame {index - first} of {self.paths[file].name}"


def report_labels(structures: Structures, names: FrameNames, mode: str) -> None:
    """Print what is known of the labels; ``ValueError`` for labels that cannot be right.

    mode: of dataloader.label_checks.
    """
    found = check_labels(structures, mode, names)
    for fact in found.facts:
        print(f"labels: {fact}")
    for note in found.notes:
        print(f"note: {note}")
    if found.wrong:
        raise ValueError(
            f"the labels cannot be right: {'; '.join(found.wrong)}. Correct the files or name "
            "their units, or read them as they are with --check-labels off"
        )
