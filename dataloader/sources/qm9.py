"""QM9: 134 thousand molecules of up to nine C, N, O, F with their properties; its forms by name.

    archive   dsgdb9nsd.xyz.tar.bz2 of figshare: an xyz file for each molecule (see
              dataloader.sources.qm9_text), ~1e-10 Angstrom, 1e-6 hartree
    sdf       gdb9.tar.gz of MoleculeNet: gdb9.sdf (positions to 1e-4 Angstrom, Kekulé bonds) and
              gdb9.sdf.csv (properties), in one order
    edge      qm9_edge.npz of DGL: 130,831 molecules, bonds by RDKit, eV, without the numbers of the
              molecules
    npz       a file of your own with n_atoms (molecules,), Z (atoms,), R (atoms, 3) and any of
              gdb_id, smiles and the properties, in QM9's own units

Every reader gives (structures, bonds or None, report). Labels are ``structures.extra``: "gdb_id"
and the names of dataloader.sources.qm9_targets.TARGETS, in their units, float64;
``structures.energy`` is None. Molecules come in the order of their numbers, which the published
splits refer to. Left out and counted: entries that cannot be read or hold values that are not
finite, and the 3,054 whose SMILES change in the relaxation (uncharacterized.txt), if their list is
given. Cost: archive 0.3 ms a molecule, most of it decompression (whole QM9: 45 s); sdf 0.2 ms; npz
1 s in all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from farfield.dataloader.chemistry.bonds import BondTable
from farfield.dataloader.sources.download import RemoteFile
from farfield.dataloader.sources.qm9_assembly import Report
from farfield.dataloader.structures import Structures
from farfield.models.choices import Registry

FIGSHARE = (
    "https://ndownloader.figshare.com/files/",
    "https://springernature.figshare.com/ndownloader/files/",
)
UNCHARACTERISED = RemoteFile(
    "uncharacterized.txt", tuple(address + "3195404" for address in FIGSHARE)
)
WHOLE_COUNT = 133_885
UNCHARACTERISED_COUNT = 3_054
RANDOM_SIZES = {"train": 110_000, "val": 10_000}  # of the split `random`; the rest is the test set

Read = tuple[Structures, BondTable | None, Report]


@dataclasses.dataclass(frozen=True)
class QM9Form:
    """One form of the data.

    remote: the published file (None: a file of the user). read: (path, numbers that are left out or
    None, progress) -> structures, bonds or None, report; progress is called with the number of
    molecules read since the last call.
    """

    remote: RemoteFile | None
    read: Callable[[Path, np.ndarray | None, Callable[[int], object]], Read]


QM9_FORMS: Registry[QM9Form] = Registry("form of QM9", package="farfield.dataloader.sources")


def nothing(count: int) -> None:
    """Progress that nobody looks at."""


def read_uncharacterised(path: str | Path) -> np.ndarray:
    """Numbers of the molecules whose geometry does not fit their SMILES, sorted.

    They are the first words of those lines that start with a whole number.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; put {UNCHARACTERISED.name} of QM9 there")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    words = [line.split(maxsplit=1)[0] for line in lines if line.strip()]
    numbers = np.array([int(word) for word in words if word.isdecimal()], np.int64)

    # a list of another length would shift the numbers of the molecules
    found = len(np.unique(numbers))
    if found != UNCHARACTERISED_COUNT or numbers.min() < 1 or numbers.max() > WHOLE_COUNT:
        raise ValueError(
            f"{path} must list {UNCHARACTERISED_COUNT} numbers of 1 .. {WHOLE_COUNT}, it lists "
            f"{found}; download it again"
        )
    return np.sort(numbers)
