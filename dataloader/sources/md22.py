"""MD22: molecular dynamics of seven molecules of 42 to 370 atoms (Chmiela et al. 2023, PBE+MBD).

``md22_MOLECULE.npz``: z (atoms,), R and F (frames, atoms, 3), E (frames, 1), kcal/mol and Angstrom,
with ``theory``, ``r_unit`` and ``e_unit`` in words, which are checked and shown: files of the same
format with labels of another method say so. Protocol (LSR-MP, Li et al. 2023): a random sample of
:data:`SAMPLE_SIZES` frames, 95 % train, 5 % validation, all others test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from farfield.dataloader.sources.download import RAW_FOLDER, RAW_FOLDER_HELP, RemoteFile, fetch
from farfield.dataloader.sources.npz import read_npz
from farfield.dataloader.sources.source_registry import SOURCES, Progress, Source
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import Units
from farfield.models.choices import check_choice

FILE_UNITS = Units("kcal/mol", "Angstrom")
ADDRESSES = (
    "https://www.quantum-machine.org/gdml/repo/datasets/",
    "https://www.quantum-machine.org/gdml/data/npz/",
)
SPLIT_SEED = 48  # of the protocol
SAMPLE_SIZES = {
    "Ac-Ala3-NHMe": 6000,
    "DHA": 8000,
    "stachyose": 8000,
    "AT-AT": 3000,
    "AT-AT-CG-CG": 2000,
    "buckyball-catcher": 600,
    "double-walled_nanotube": 800,
}


@SOURCES.register("md22")
@dataclasses.dataclass(frozen=True)
class MD22(Source):
    """A molecule of MD22."""

    molecule: Annotated[str, "molecule of MD22", SAMPLE_SIZES] = "AT-AT"
    data_path: Annotated[str, RAW_FOLDER_HELP] = RAW_FOLDER

    def __post_init__(self):
        check_choice("molecule", self.molecule, SAMPLE_SIZES)

    @property
    def paths(self) -> tuple[Path, ...]:
        missing = Path(self.data_path) / official_file(self.molecule).name
        return (local_file(self.data_path, self.molecule) or missing,)

    @property
    def units(self) -> Units:
        return FILE_UNITS

    @property
    def words(self) -> dict:
        return {"units": str(FILE_UNITS), "molecule": self.molecule}

    @property
    def protocol(self) -> str:
        return "lsr-mp"

    def split_defaults(self, protocol: str) -> dict:
        return {"sample": SAMPLE_SIZES[self.molecule], "seed": SPLIT_SEED}

    def obtain(self, open_bar: Callable) -> None:
        if not self.paths[0].exists():
            fetch(official_file(self.molecule), self.data_path, open_bar)

    def read(self, path: Path, progress: Progress) -> Structures:
        return read_md22(path)


def official_file(molecule: str) -> RemoteFile:
    """Where a molecule is published; ``ValueError`` for an unknown one."""
    check_choice("molecule", molecule, SAMPLE_SIZES)
    name = f"md22_{molecule}.npz"
    return RemoteFile(name, tuple(address + name for address in ADDRESSES))


def local_file(folder: str | Path, molecule: str) -> Path | None:
    """The file of a molecule in ``folder``, in capital or small letters, or None."""
    name = official_file(molecule).name
    if not Path(folder).is_dir():
        return None
    for path in sorted(Path(folder).iterdir()):
        if path.name.lower() == name.lower():
            return path
    return None


def read_md22(path: str | Path) -> Structures:
    """Structures of a file in the format of MD22, in eV and Angstrom; errors as in `read_npz`."""
    structures = read_npz(path, FILE_UNITS)
    structures.theory = structures.theory or "PBE+MBD (MD22)"
    return structures
