"""QM7-X: molecules of up to seven C, N, O, S, Cl with hydrogen, relaxed and displaced.

Hoja et al. 2021 (doi 10.1038/s41597-021-00812-2), zenodo record 4288677: 6,950 molecules in their
isomers and conformers, each with 100 displaced structures; energies, forces, Hirshfeld charges and
dipoles by PBE0+MBD. Files and labels: ``qm7x_files.py``.

What occurs twice is left out, together with what is displaced from it: the structures of the
published list DupMols.dat, if that file is there, and relaxed structures with the geometry of one
that comes before. All structures of a molecule are on one side of a split; the published one has
4500 / 1250 / all other molecules (Kahouli et al. 2024, MoreRed).
"""

from __future__ import annotations

import dataclasses
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np

from farfield.dataloader.chemistry.same_geometry import first_alike
from farfield.dataloader.sources.download import RAW_FOLDER, RAW_FOLDER_HELP, RemoteFile, fetch
from farfield.dataloader.sources.qm7x_files import read_duplicates, read_qm7x
from farfield.dataloader.sources.source_registry import SOURCES, Progress, Selection, Source
from farfield.dataloader.storage import files
from farfield.dataloader.structures import Structures
from farfield.models.choices import check_choice

ADDRESS = "https://zenodo.org/records/4288677/files/"
SETS = tuple(str(1000 * number) for number in range(1, 9))
KINDS = {
    "equilibrium": "the relaxed structures",
    "displaced": "the structures displaced from them",
    "all": "both",
}
DISPLACED = 100  # structures displaced from each relaxed one
DUPLICATES = "DupMols.dat"

OptionalNumber = int | None


@SOURCES.register("qm7x")
@dataclasses.dataclass(frozen=True)
class QM7X(Source):
    """Molecules of QM7-X."""

    kind: Annotated[str, "structures of a molecule that are taken", KINDS] = "equilibrium"
    displaced: Annotated[
        OptionalNumber,
        f"displaced structures of each relaxed one, the first ones (default: all {DISPLACED})",
    ] = None
    sets: Annotated[str, "files that are read, joined by commas"] = ",".join(SETS)
    keep_duplicates: Annotated[bool, "keep structures that occur more than once"] = False
    data_path: Annotated[str, RAW_FOLDER_HELP] = RAW_FOLDER

    protocol = "qm7x"

    def __post_init__(self):
        check_choice("kind", self.kind, KINDS)
        names = self.set_names
        if not names or len(set(names)) < len(names) or not set(names) <= set(SETS):
            raise ValueError(
                f"--sets must be different ones of {','.join(SETS)}, got {self.sets!r}; write e.g. "
                "1000,2000"
            )

        # displaced structures are numbered 1 .. 100
        if self.displaced is None:
            return
        if self.kind == "equilibrium":
            raise ValueError(
                f"--displaced {self.displaced} is for displaced structures; give --kind all or "
                "displaced as well"
            )
        if not 1 <= self.displaced <= DISPLACED:
            raise ValueError(f"--displaced must be in 1 .. {DISPLACED}, got {self.displaced}")

    @property
    def set_names(self) -> list[str]:
        """Names of the files that are read, without their suffix."""
        return [word.strip() for word in self.sets.split(",") if word.strip()]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(Path(self.data_path) / f"{name}.hdf5" for name in self.set_names)

    @property
    def words(self) -> dict:
        names = ("kind", "displaced", "keep_duplicates")
        words = {name: getattr(self, name) for name in names}
        return {"units": str(self.units), "source": "QM7-X", "sets": self.set_names, **words}

    def obtain(self, open_bar: Callable) -> None:
        """Download and unpack the files that are missing, and the list of duplicates with them."""
        missing = [path for path in self.paths if not path.exists()]
        if missing and not self.keep_duplicates:
            fetch(remote_file(DUPLICATES), self.data_path, open_bar)
        for path in missing:
            packed = fetch(remote_file(f"{path.stem}.xz"), self.data_path, open_bar)
            unpack_xz(packed, path)

    def read(self, path: Path, progress: Progress) -> Structures:
        """Structures of a file; the relaxed ones too, which say what occurs twice."""
        most = 0 if self.kind == "equilibrium" else self.displaced or DISPLACED
        return read_qm7x(path, lambda number: number <= most, progress)

    def select(self, structures: Structures) -> Selection:
        """Neither what occurs twice nor, if displaced structures are asked for, the others."""
        relaxed = structures.extra["displaced"] == 0
        kept = ~relaxed if self.kind == "displaced" else np.ones(len(structures), bool)
        if self.keep_duplicates:
            return Selection(kept)

        published = Path(self.data_path) / DUPLICATES
        listed = read_duplicates(published) if published.exists() else set()
        conformers = conformer_names(structures)
        in_list = np.array([name in listed for name in conformers])

        # the first structure of a geometry stays, and what is displaced from it
        candidates = np.flatnonzero(relaxed & ~in_list)
        found = first_alike(structures[candidates])
        again = {conformers[place] for place in candidates[found != np.arange(len(found))]}
        by_geometry = np.array([name in again for name in conformers])

        remarks = [
            f"left out, with what is displaced from them: {int((in_list & relaxed).sum())} relaxed "
            f"structures of {DUPLICATES}, {len(again)} with the geometry of another"
        ]
        if not published.exists():
            remarks.append(
                f"note: {published} is not there; duplicates are known by geometry alone"
            )
        return Selection(kept & ~in_list & ~by_geometry, tuple(remarks))

    def groups(self, structures: Structures) -> np.ndarray:
        """Number of the molecule of each structure."""
        return structures.extra["molecule"]


def conformer_names(structures: Structures) -> list[tuple[int, int, int]]:
    """Molecule, isomer and conformer of each structure."""
    columns = (structures.extra[name].tolist() for name in ("molecule", "isomer", "conformer"))
    return list(zip(*columns, strict=True))


def remote_file(name: str) -> RemoteFile:
    """A file of the zenodo record."""
    return RemoteFile(name, (f"{ADDRESS}{name}?download=1",))


def unpack_xz(packed: Path, target: Path) -> None:
    """Write the content of an xz file to ``target``, whole or not at all; ``ValueError`` for a
    damaged one.
    """
    with files.atomic_write(target) as temporary:
        try:
            with lzma.open(packed) as source, open(temporary, "wb") as file:
                shutil.copyfileobj(source, file)
        except (lzma.LZMAError, EOFError) as error:
            raise ValueError(
                f"{packed} is damaged ({error}); remove it to have it downloaded again"
            ) from None
