"""Which molecules of a set are taken by their number of atoms.

MoleculeSizes(atoms="9")              exactly nine atoms, hydrogen included
MoleculeSizes(heavy_atoms="5,9")      five to nine atoms that are not hydrogen
"""

from __future__ import annotations

import dataclasses

import numpy as np

from farfield.dataloader.structures import Structures


@dataclasses.dataclass(frozen=True)
class MoleculeSizes:
    """Ranges of sizes, both ends included; None: any.

    atoms: number of all atoms. heavy_atoms: number of atoms but hydrogen. A range is ``"5,9"``, or
    ``"9"`` for one size. ``ValueError`` in one line for anything else.
    """

    atoms: str | None = None
    heavy_atoms: str | None = None

    def __post_init__(self):
        for name, text in dataclasses.asdict(self).items():
            if text is not None:
                parse_range(name, text)

    def chosen(self, structures: Structures) -> np.ndarray:
        """Places of the molecules that fit (molecules,); ``ValueError`` where there is none."""
        heavy = structures.structure_of_atom[structures.atomic_numbers > 1]
        found = {
            "atoms": structures.counts,
            "heavy_atoms": np.bincount(heavy, minlength=len(structures)),
        }

        # a molecule must fit every range that is given; the error names the one that leaves none
        fits = np.ones(len(structures), bool)
        for name, sizes in found.items():
            text = getattr(self, name)
            if text is None:
                continue
            least, most = parse_range(name, text)
            fits &= (least <= sizes) & (sizes <= most)
            if not fits.any():
                held = f"{sizes.min()} to {sizes.max()}" if len(sizes) else "none"
                raise ValueError(
                    f"no molecule is left by {name} {text}; the molecules have {held}, give a "
                    "range that holds some of them"
                )

        return np.flatnonzero(fits)


def parse_range(name: str, text: str) -> tuple[int, int]:
    """Least and most of ``"5,9"``; of ``"9"`` both are 9.

    name: of what there is a range, for the error.
    """
    words = [word.strip() for word in str(text).split(",")]
    if len(words) <= 2 and all(word.isdecimal() for word in words):
        least, most = int(words[0]), int(words[-1])
        if 0 <= least <= most and most > 0:
            return least, most
    raise ValueError(f"{name} must be one number or a range such as 5,9, got {text!r}")
