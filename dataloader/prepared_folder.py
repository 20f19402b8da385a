"""The files of a folder of preprocessed structures, and what can be read without loading the data.

    train.npz      val.npz      test.npz         structures of each split (dataloader.structures)
    train_graphs/  val_graphs/  test_graphs/     their neighbour graphs (dataloader.graphs)
    split.npz                                    which structures of the source (dataloader.splits)
    statistics.json                              of the training split (dataloader.label_statistics)
    manifest.json                                settings, SHA-256 of the source and of the files

preprocess.structure_folder writes such a folder, dataloader.datasets.potential_data makes batches
from it. One LMDB file may take its place (dataloader.storage.structure_lmdb): its header has the
statistics and the cutoff.
"""

from __future__ import annotations

from pathlib import Path

from farfield.dataloader.commands import called_as
from farfield.dataloader.graphs import check_cutoff
from farfield.dataloader.label_statistics import Statistics
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.storage import files
from farfield.dataloader.storage.structure_lmdb import StructureLmdb, is_lmdb_name
from farfield.dataloader.structures import Structures
from farfield.models.choices import check_choice

MANIFEST = "manifest.json"  # of every preprocessed folder, also of molecules with properties
STATISTICS = "statistics.json"
SPLIT_FILE = "split.npz"
OF_FILES = called_as("preprocess.preprocess_structures")
OF_MD17 = called_as("preprocess.preprocess_md17")
HINT = (
    f"make the folder with `{OF_FILES} mine.xyz --out FOLDER`, or for MD17 with "
    f"`{OF_MD17} --molecule ethanol --out FOLDER` (--rebuild replaces what is there)"
)
LMDB_HINT = f"write the file again with `{OF_FILES} FILES --out x.lmdb --rebuild`"


def structures_file(folder: str | Path, split: str) -> Path:
    """File with the structures of a split; ``ValueError`` for an unknown split."""
    check_choice("split", split, SPLITS)
    return Path(folder) / f"{split}.npz"


def graphs_folder(folder: str | Path, split: str) -> Path:
    """Folder with the neighbour graphs of a split."""
    return structures_file(folder, split).with_name(f"{split}_graphs")


def finished_structures(folder: str | Path, split: str, hint: str = HINT) -> Structures:
    """Structures of a split.

    hint: what the user can do, the end of an error. ``FileNotFoundError`` or ``ValueError`` if the
    file is missing, damaged or not finished.
    """
    path = structures_file(folder, split)
    structures = Structures.load(path, hint)
    check_finished(folder, path.name, hint)
    return structures


def structures_of_split(path: str | Path, split: str) -> Structures:
    """Structures of a split of a folder or of an LMDB file; errors as the reader of either."""
    if not is_lmdb_name(path):
        return finished_structures(path, split)
    file = StructureLmdb.open(path, LMDB_HINT)
    return file.read(file.splits[split])


def load_statistics(folder: str | Path) -> Statistics:
    """Statistics of the training split.

    ``FileNotFoundError`` or ``ValueError`` if the file is missing, damaged or not finished.
    """
    if is_lmdb_name(folder):
        header = StructureLmdb.open(folder, LMDB_HINT).header
        return Statistics.from_words(header["statistics"], folder, LMDB_HINT)
    path = Path(folder) / STATISTICS
    statistics = Statistics.load(path, HINT)
    check_finished(folder, path.name)
    return statistics


def stored_cutoff(folder: str | Path) -> float:
    """Cutoff of the neighbour graphs, Angstrom.

    ``FileNotFoundError`` or ``ValueError`` if the manifest is missing, damaged or has no cutoff.
    """
    if is_lmdb_name(folder):
        return check_cutoff(StructureLmdb.open(folder, LMDB_HINT).header["cutoff"])
    path = Path(folder) / MANIFEST
    settings = files.read_json(path, HINT).get("settings")
    cutoff = settings.get("cutoff") if isinstance(settings, dict) else None
    try:
        return check_cutoff(cutoff)
    except (ValueError, TypeError):
        raise ValueError(f"{path} names no cutoff (it says {cutoff!r}); {HINT}") from None


def check_finished(
    folder: str | Path, name: str, hint: str = HINT, manifest: str = MANIFEST
) -> None:
    """``ValueError`` unless the file ``name`` is the one whose SHA-256 the manifest records.

    A file that is whole but comes from another folder, or is another split of this one, is refused
    as well. hint: what the user can do, the end of an error. manifest: name of the manifest.
    """
    path = Path(folder) / manifest
    finished = files.read_json(path, hint).get("files")
    if not isinstance(finished, dict) or name not in finished:
        raise ValueError(f"{path} does not list {name}: the folder is not finished; {hint}")
    if finished[name] != files.file_checksum(Path(folder) / name):
        raise ValueError(
            f"{Path(folder) / name} is damaged or copied from elsewhere (its checksum does not fit "
            f"{manifest}); {hint}"
        )
