"""MD17 and its revision: molecular dynamics of small molecules at 500 K.

    MD17     Chmiela et al. 2017, PBE+TS, kcal/mol:
             md17_MOLECULE.npz with z (atoms,), R, F (frames, atoms, 3), E (frames, 1)
    rMD17    Christensen & von Lilienfeld 2020, PBE/def2-SVP, kcal/mol:
             rmd17.tar.bz2 with npz_data/rmd17_MOLECULE.npz (nuclear_charges, coords, energies,
             forces) and splits/index_{train,test}_0{1..5}.csv
    sample   1000 frames of MD17's ethanol, bundled (dataloader/samples/README.md), eV

rMD17 orders its frames differently from MD17, and only 1000 of its 100000 should train a model
(Christensen & von Lilienfeld 2020).
"""

from __future__ import annotations

import dataclasses
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from farfield.dataloader.sources.download import RAW_FOLDER, RAW_FOLDER_HELP, RemoteFile, fetch
from farfield.dataloader.sources.npz import read_npz
from farfield.dataloader.sources.source_registry import SOURCES, Progress, Source
from farfield.dataloader.storage import files
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import Units
from farfield.models.choices import check_choice

FILE_UNITS = Units("kcal/mol", "Angstrom")
ADDRESSES = (
    "https://www.quantum-machine.org/gdml/data/npz/",
    "https://www.quantum-machine.org/gdml/repo/datasets/",
)
REVISED_ARCHIVE = RemoteFile(
    "rmd17.tar.bz2",
    (
        "https://figshare.com/ndownloader/files/23950376",  # of article 12672038
        "https://archive.materialscloud.org/records/pfffs-fff86/files/rmd17.tar.bz2",
    ),
)
# molecule -> file; paracetamol and azobenzene keep the names of their first publication
MOLECULES = {
    "aspirin": "md17_aspirin.npz",
    "azobenzene": "azobenzene_dft.npz",
    "benzene": "md17_benzene2017.npz",
    "ethanol": "md17_ethanol.npz",
    "malonaldehyde": "md17_malonaldehyde.npz",
    "naphthalene": "md17_naphthalene.npz",
    "paracetamol": "paracetamol_dft.npz",
    "salicylic": "md17_salicylic.npz",
    "toluene": "md17_toluene.npz",
    "uracil": "md17_uracil.npz",
}
INDEX_FILES = tuple(
    f"index_{part}_{number:02d}.csv" for part in ("train", "test") for number in range(1, 6)
)
THEORY = {False: "PBE+TS (MD17)", True: "PBE/def2-SVP (rMD17)"}
SAMPLE_FILE = Path(__file__).parents[1] / "samples" / "ethanol.npz"
SAMPLE_MOLECULE = "ethanol"
SAMPLE_SIZES = {"train": 750, "val": 50, "test": 200}


@SOURCES.register("md17")
@dataclasses.dataclass(frozen=True)
class MD17(Source):
    """A molecule of MD17."""

    molecule: Annotated[str, "molecule of MD17", MOLECULES] = "ethanol"
    data_path: Annotated[str, RAW_FOLDER_HELP] = RAW_FOLDER

    def __post_init__(self):
        check_choice("molecule", self.molecule, MOLECULES)

    @property
    def paths(self) -> tuple[Path, ...]:
        return (Path(self.data_path) / official_file(self.molecule).name,)

    @property
    def units(self) -> Units:
        return FILE_UNITS

    @property
    def words(self) -> dict:
        return {"units": str(FILE_UNITS), "molecule": self.molecule, "revised": False}

    @property
    def protocol(self) -> str:
        return "md17"

    def split_defaults(self, protocol: str) -> dict:
        if protocol == "rmd17":
            raise ValueError(
                "--split rmd17 divides rMD17; give --revised (preprocess_md17) or --source rmd17"
            )
        return {}

    def obtain(self, open_bar: Callable) -> None:
        fetch(official_file(self.molecule), self.data_path, open_bar)

    def read(self, path: Path, progress: Progress) -> Structures:
        return read_md17(path)


@SOURCES.register("rmd17")
@dataclasses.dataclass(frozen=True)
class RevisedMD17(MD17):
    """A molecule of rMD17, in a folder where its archive is or was unpacked."""

    @property
    def paths(self) -> tuple[Path, ...]:
        return (revised_file(self.data_path, self.molecule),)

    @property
    def words(self) -> dict:
        return super().words | {"revised": True}

    def split_defaults(self, protocol: str) -> dict:
        return {"path": str(revised_splits(self.data_path))} if protocol == "rmd17" else {}

    def obtain(self, open_bar: Callable) -> None:
        """Download the archive of all molecules where needed, and unpack this one."""
        # an unpacking that was cut off left the archive but no index files
        archive_is_there = (Path(self.data_path) / REVISED_ARCHIVE.name).exists()
        unpacked = (revised_splits(self.data_path) / INDEX_FILES[0]).exists()
        if not self.paths[0].exists() or (archive_is_there and not unpacked):
            archive = fetch(REVISED_ARCHIVE, self.data_path, open_bar)
            unpack_revised(archive, self.molecule, self.data_path)

    def read(self, path: Path, progress: Progress) -> Structures:
        return read_md17(path, revised=True)


@SOURCES.register("md17_sample")
@dataclasses.dataclass(frozen=True)
class MD17Sample(Source):
    """The bundled 1000 frames of MD17's ethanol; needs no network."""

    paths = (SAMPLE_FILE,)
    protocol = "random"

    @property
    def words(self) -> dict:
        return {"units": str(self.units), "sample": SAMPLE_MOLECULE}

    def split_defaults(self, protocol: str) -> dict:
        return SAMPLE_SIZES if protocol == "random" else {}

    def read(self, path: Path, progress: Progress) -> Structures:
        return read_sample()


def official_file(molecule: str, revised: bool = False) -> RemoteFile:
    """Where a molecule is published: a file of its own (MD17), or the archive of all (rMD17).

    ``ValueError`` for an unknown molecule.
    """
    check_choice("molecule", molecule, MOLECULES)
    if revised:
        return REVISED_ARCHIVE
    return RemoteFile(
        MOLECULES[molecule], tuple(address + MOLECULES[molecule] for address in ADDRESSES)
    )


def find_file(
    folder: str | Path, name: str, below: tuple[str, ...] = ("", "npz_data", "rmd17/npz_data")
) -> Path:
    """``name`` in ``folder`` or where the unpacked archive of rMD17 puts it; the first place if
    there is no such file.
    """
    places = [Path(folder) / part / name for part in below]
    return next((path for path in places if path.is_file()), places[0])


def revised_splits(folder: str | Path) -> Path:
    """Folder of the index files of rMD17 in or below ``folder``."""
    return find_file(folder, INDEX_FILES[0], ("", "splits", "rmd17/splits")).parent


def revised_file(folder: str | Path, molecule: str) -> Path:
    """The file of a molecule of rMD17 in or below ``folder``."""
    return find_file(folder, f"rmd17_{molecule}.npz")


def unpack_revised(archive: str | Path, molecule: str, folder: str | Path) -> Path:
    """Take one molecule and the index files out of ``rmd17.tar.bz2`` into ``folder``; returns the
    npz file.

    Members are found by their last name and written under it. ``ValueError`` if the archive is
    damaged or lacks the molecule.
    """
    target = Path(folder) / f"rmd17_{molecule}.npz"
    names = {target.name, *INDEX_FILES}
    try:
        with tarfile.open(archive, "r:*") as content:
            for member in content:
                name = Path(member.name).name
                if member.isfile() and name in names:
                    with files.atomic_write(Path(folder) / name) as temporary:
                        temporary.write_bytes(content.extractfile(member).read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(
            f"{archive} is damaged or not a tar archive ({error}); remove it to have it "
            "downloaded again"
        ) from None
    if not target.exists():
        raise ValueError(
            f"{archive} has no member {target.name}; give the archive rmd17.tar.bz2 of figshare "
            "article 12672038"
        )
    return target


def read_md17(path: str | Path, revised: bool = False) -> Structures:
    """Structures of a file of MD17 or rMD17, in eV and Angstrom; errors as in `read_npz`."""
    structures = read_npz(path, FILE_UNITS)
    if structures.theory in ("", "unknown"):  # as early files have it
        structures.theory = THEORY[revised]
    return structures


def read_sample() -> Structures:
    """The bundled 1000 random frames of MD17's ethanol."""
    return read_npz(SAMPLE_FILE, Units())
