"""QM9 as published (an archive of xyz files), and as MoleculeNet has it (an sdf with a table).

The formats are described in dataloader.sources.qm9 and dataloader.sources.qm9_text.
"""

from __future__ import annotations

import contextlib
import csv
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from farfield.dataloader.chemistry.bonds import BondTable, with_aromatic
from farfield.dataloader.sources.download import RemoteFile
from farfield.dataloader.sources.qm9 import FIGSHARE, QM9_FORMS, QM9Form, nothing
from farfield.dataloader.sources.qm9_assembly import Molecules, Report, assemble
from farfield.dataloader.sources.qm9_targets import LINE, TABLE, TARGETS
from farfield.dataloader.sources.qm9_text import Entry, mol_blocks, parse_mol, parse_xyz, xyz_texts
from farfield.dataloader.structures import Structures

MOLECULENET = ("https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/",)
ARCHIVE = RemoteFile("dsgdb9nsd.xyz.tar.bz2", tuple(address + "3195389" for address in FIGSHARE))
SDF = RemoteFile("gdb9.tar.gz", tuple(address + "gdb9.tar.gz" for address in MOLECULENET))
OWNER = "mol_id"  # column that names the molecule of a row
Fault = tuple[str, str]  # entry, what is wrong with it


def read_archive(
    path: str | Path,
    uncharacterised: np.ndarray | None = None,
    progress: Callable[[int], object] = nothing,
) -> tuple[Structures, None, Report]:
    """Molecules of the archive of xyz files, or of a folder with such files.

    Names are the SMILES of the relaxed geometries. progress: called with 1 after each file.
    ``FileNotFoundError``, or ``ValueError`` for a damaged archive or one without molecules.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; put {ARCHIVE.name} of QM9 there")
    entries: list[Entry] = []
    broken: list[Fault] = []
    for name, text in xyz_texts(path):
        try:
            entries.append(parse_xyz(text))
        except ValueError as error:
            broken.append((name, str(error)))
        progress(1)
    return assemble(_joined(str(path), entries, LINE, broken), uncharacterised)


def read_sdf(
    path: str | Path,
    uncharacterised: np.ndarray | None = None,
    progress: Callable[[int], object] = nothing,
) -> tuple[Structures, BondTable, Report]:
    """Molecules and bonds of gdb9.tar.gz, or of gdb9.sdf in one folder with gdb9.sdf.csv.

    Aromatic bonds are marked (dataloader.chemistry.bond_orders). progress: called with 1 after each
    molecule. ``FileNotFoundError``, or ``ValueError`` for a damaged file and for a table that does
    not have one row for each molecule, in the same order where both name them.
    """
    path = Path(path)
    entries: list[Entry] = []
    broken: list[Fault] = []
    with _sdf_and_table(path) as (sdf, table):
        names, rows, owners = _read_table(table)
        for place, block in enumerate(mol_blocks(sdf)):
            try:
                entry = parse_mol(block)
                _check_owner(path, place, entry.index, owners)
                entry.index = place + 1 if entry.index is None else entry.index
                entry.values = [float(word) for word in rows[place]] if place < len(rows) else []
                entries.append(entry)
            except WrongRow:
                raise
            except (TypeError, ValueError) as error:
                broken.append((f"entry {place + 1}", str(error)))
            progress(1)

    found = len(entries) + len(broken)
    if len(rows) != found or not names:
        raise ValueError(
            f"{path}: {len(rows)} rows of properties for {found} molecules; download it again"
        )
    structures, bonds, report = assemble(
        _joined(str(path), entries, names, broken), uncharacterised
    )
    return structures, with_aromatic(structures, bonds), report


class WrongRow(ValueError):
    """A row of the table names another molecule than the entry at its place."""


def _check_owner(path: Path, place: int, index: int | None, owners: list[str]) -> None:
    """Raise WrongRow unless a row belongs to the molecule, as far as both have names."""
    owner = owners[place] if place < len(owners) else ""
    number = owner.removeprefix("gdb_")
    if index is not None and number.isdecimal() and int(number) != index:
        raise WrongRow(
            f"{path}: entry {place + 1} is gdb_{index}, row {place + 1} of its table is of "
            f"{owner}; bring both into one order, or download them again"
        )


def _read_table(table: IO[bytes]) -> tuple[tuple[str, ...], list[list[str]], list[str]]:
    """Names of the known properties of a csv file, their words in each row, and the molecule that
    each row names ("" where it names none).
    """
    text = io.TextIOWrapper(table, encoding="ascii", errors="replace", newline="")
    lines = csv.DictReader(text)
    columns = {}
    for name in TABLE:
        held = [key for key in TARGETS[name].keys if key in (lines.fieldnames or ())]
        if held:
            columns[name] = held[0]
    found = list(lines)
    rows = [[row[key] for key in columns.values()] for row in found]
    return tuple(columns), rows, [row.get(OWNER) or "" for row in found]


@contextlib.contextmanager
def _sdf_and_table(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The molecules and the table of their properties, opened."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; put {SDF.name} of QM9 there")
    if path.suffix == ".sdf":
        table = path.with_name(path.name + ".csv")
        if not table.is_file():
            raise FileNotFoundError(
                f"{table} does not exist; put the table of {path.name} into its folder"
            )
        with open(path, "rb") as first, open(table, "rb") as second:
            yield first, second
        return

    try:
        with tarfile.open(path, "r:*") as archive:
            members = {Path(member.name).name: member for member in archive if member.isfile()}
            missing = [name for name in ("gdb9.sdf", "gdb9.sdf.csv") if name not in members]
            if missing:
                raise ValueError(f"{path} has no member {missing[0]}; give the archive {SDF.name}")
            yield (
                archive.extractfile(members["gdb9.sdf"]),
                archive.extractfile(members["gdb9.sdf.csv"]),
            )
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is damaged or not a tar archive ({error}); remove it to have it "
            "downloaded again"
        ) from None


def _joined(
    source: str, entries: list[Entry], names: tuple[str, ...], broken: list[Fault]
) -> Molecules:
    """Entries laid end to end; names: of their values."""
    table = np.array([entry.values for entry in entries], np.float64).reshape(-1, len(names))
    numbers = [number for entry in entries for number in entry.numbers]
    positions = [x for entry in entries for x in entry.positions]

    # bonds (bonds, 3): two atoms of their structure, order
    bonded = [bond for entry in entries for bond in entry.bonds]
    structure = np.repeat(np.arange(len(entries)), [len(entry.bonds) for entry in entries])
    flat = np.array(bonded, np.int64).reshape(-1, 3)
    bonds = BondTable.sorted(structure, flat[:, :2], flat[:, 2], len(entries)) if bonded else None

    smiles = [entry.smiles for entry in entries]
    return Molecules(
        source=source,
        atomic_numbers=np.array(numbers, np.int64),
        positions=np.array(positions, np.float64).reshape(-1, 3),
        counts=np.array([len(entry.numbers) for entry in entries], np.int64),
        values={name: TARGETS[name].factor * table[:, column] for column, name in enumerate(names)},
        ids=np.array([entry.index for entry in entries], np.int64),
        smiles=np.array(smiles) if any(smiles) else None,
        bonds=bonds,
        broken=broken,
    )


QM9_FORMS.register("archive")(QM9Form(ARCHIVE, read_archive))
QM9_FORMS.register("sdf")(QM9Form(SDF, read_sdf))
