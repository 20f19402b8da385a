"""QM9: 134 thousand molecules of up to nine C, N, O, F with their properties; where the files are,
their formats, what is wrong in them.

    archive   dsgdb9nsd.xyz.tar.bz2 of figshare: an xyz file a molecule (see
              dataloader.sources.qm9_text), ~1e-10 Angstrom, 1e-6 hartree
    sdf       gdb9.tar.gz of MoleculeNet: gdb9.sdf (positions to 1e-4 Angstrom, Kekulé bonds) and
              gdb9.sdf.csv (properties), in one order
    edge      qm9_edge.npz of DGL: 130,831 molecules, bonds by RDKit, eV, no numbers of the
              molecules
    ragged    npz with n_atoms (molecules,), Z (atoms,), R (atoms, 3) and any of gdb_id, smiles and
              the properties, in QM9's own units

Every reader gives (structures, bonds or None, report). Labels are ``structures.extra``: "gdb_id"
and the names of dataloader.sources.qm9_targets.TARGETS, in its units, float64;
``structures.energy`` is None. Molecules come in the order of their numbers, which the published
splits refer to. Left out and counted: entries that cannot be read or hold no finite numbers, and
the 3,054 whose SMILES do not survive the relaxation (uncharacterized.txt), if their list is given.
Cost: archive 0.3 ms a molecule, most of it decompression (whole QM9: 45 s); sdf 0.2 ms; npz 1 s in
all.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from farfield.dataloader.chemistry.bonds import BondTable, with_aromatic
from farfield.dataloader.sources.download import RemoteFile
from farfield.dataloader.sources.qm9_targets import (
    ATOMISED,
    ELEMENTS,
    HARTREE,
    LINE,
    TABLE,
    TABLE_KCAL,
    TARGETS,
    free_atom_energy,
    with_atomisation,
)
from farfield.dataloader.sources.qm9_text import Entry, mol_blocks, parse_mol, parse_xyz, xyz_texts
from farfield.dataloader.storage import files
from farfield.dataloader.structures import Structures, rows_of

THEORY = "B3LYP/6-31G(2df,p) (QM9)"
FIGSHARE = (
    "https://ndownloader.figshare.com/files/",
    "https://springernature.figshare.com/ndownloader/files/",
)
MOLECULENET = (
    "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/",
    "http://deepchem.io.s3-website-us-west-1.amazonaws.com/datasets/",
)
SOURCES: dict[str, RemoteFile] = {
    "archive": RemoteFile(
        "dsgdb9nsd.xyz.tar.bz2", tuple(address + "3195389" for address in FIGSHARE)
    ),
    "sdf": RemoteFile("gdb9.tar.gz", tuple(address + "gdb9.tar.gz" for address in MOLECULENET)),
    "edge": RemoteFile("qm9_edge.npz", ("https://data.dgl.ai/dataset/qm9_edge.npz",)),
}
UNCHARACTERISED = RemoteFile(
    "uncharacterized.txt", tuple(address + "3195404" for address in FIGSHARE)
)
WHOLE_COUNT, UNCHARACTERISED_COUNT = 133_885, 3_054
RANDOM_SIZES = {"train": 110_000, "val": 10_000}  # of the split `random`; the rest is the test set
COUNTS, NUMBERS, POSITIONS, IDS, SMILES = "n_atoms", "Z", "R", "gdb_id", "smiles"
DGL_HARTREE, DGL_KCAL = 27.2113825435, 0.04336414  # eV, what qm9_edge.npz was made with
MOST_SHIFT = 0.02  # eV by which U0 and U0_atom of a file in single precision may disagree
SHOWN = 3


@dataclasses.dataclass
class Report:
    """What a file held. broken: (entry, what is wrong with it)."""

    source: str
    read: int
    kept: int
    uncharacterised: int
    broken: list[tuple[str, str]]

    def __str__(self) -> str:
        left_out = f"{self.uncharacterised} uncharacterised, {len(self.broken)} broken"
        text = f"{self.source}: {self.kept} of {self.read} molecules, left out: {left_out}"
        shown = "; ".join(f"{name}: {reason}" for name, reason in self.broken[:SHOWN])
        return text + (f" ({shown}{'; ...' if len(self.broken) > SHOWN else ''})" if shown else "")


@dataclasses.dataclass
class Molecules:
    """What a reader hands to :func:`assemble`: arrays in the order of the file.

    values: target -> (molecules, ...) in the project's units. extra: further numbers. ids: gdb
    numbers, or None. broken: found while reading, not among the molecules.
    """

    source: str
    atomic_numbers: np.ndarray
    positions: np.ndarray
    counts: np.ndarray
    values: dict[str, np.ndarray]
    ids: np.ndarray | None = None
    smiles: np.ndarray | None = None
    bonds: BondTable | None = None
    extra: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    theory: str = THEORY
    broken: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def assemble(
    molecules: Molecules, uncharacterised: np.ndarray | None
) -> tuple[Structures, BondTable | None, Report]:
    """Sort by number, leave out what is broken or uncharacterised, make atomisation energies,
    count. ``ValueError`` if none is left.
    """
    count, ids = len(molecules.counts), molecules.ids
    names = np.arange(count) if ids is None else ids
    broken = list(molecules.broken)
    good = np.ones(count, bool)

    def leave_out(wrong: np.ndarray, reason: str):
        broken.extend(
            (f"molecule {names[place]}", reason) for place in np.flatnonzero(wrong & good)
        )
        good[wrong] = False

    owner = np.repeat(np.arange(count), molecules.counts)
    leave_out(
        np.bincount(owner[~np.isfinite(molecules.positions).all(1)], minlength=count) > 0,
        "positions are not finite",
    )
    for name, values in molecules.values.items():
        leave_out(
            ~np.isfinite(values).all(axis=tuple(range(1, values.ndim))), f"{name} is not finite"
        )
    order = np.arange(count) if ids is None else np.argsort(ids, kind="stable")
    if ids is not None:
        again = np.zeros(count, bool)
        kept = order[good[order]]
        again[kept[1:][ids[kept][1:] == ids[kept][:-1]]] = True
        leave_out(again, "its number occurs twice")
    known = (
        np.ones(count, bool)
        if uncharacterised is None or ids is None
        else ~np.isin(ids, uncharacterised)
    )
    chosen = order[(good & known)[order]]
    report = Report(
        molecules.source,
        count + len(molecules.broken),
        len(chosen),
        int((good & ~known).sum()),
        broken,
    )
    if not len(chosen):
        raise ValueError(f"{report}; give a file with molecules of QM9")
    first = np.concatenate([[0], np.cumsum(molecules.counts)])[:-1]
    rows, counts = rows_of(first[chosen], molecules.counts[chosen]), molecules.counts[chosen]
    numbers = molecules.atomic_numbers[rows]
    values = with_atomisation(
        {name: values[chosen] for name, values in molecules.values.items()}, numbers, counts
    )
    extra = values | {name: array[chosen] for name, array in molecules.extra.items()}
    if ids is not None:
        extra[IDS] = ids[chosen].astype(np.int64)
    smiles = None if molecules.smiles is None else molecules.smiles[chosen]
    structures = Structures(
        numbers,
        molecules.positions[rows],
        counts,
        names=smiles,
        extra=extra,
        theory=molecules.theory,
    )
    return structures, None if molecules.bonds is None else molecules.bonds[chosen], report


def read_uncharacterised(path: str | Path) -> np.ndarray:
    """Numbers of the molecules whose geometry does not fit their SMILES: first words of the lines
    that are whole numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; put {UNCHARACTERISED.name} of QM9 there")
    words = [
        line.split(maxsplit=1)[0]
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    numbers = np.array([int(word) for word in words if word.isdecimal()], np.int64)
    if (
        len(np.unique(numbers)) != UNCHARACTERISED_COUNT
        or numbers.min() < 1
        or numbers.max() > WHOLE_COUNT
    ):
        wanted = f"{UNCHARACTERISED_COUNT} numbers of 1 .. {WHOLE_COUNT}"
        raise ValueError(
            f"{path} must list {wanted}, it lists {len(np.unique(numbers))}; download it again"
        )
    return np.sort(numbers)


def read_archive(
    path: str | Path,
    uncharacterised: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Structures, None, Report]:
    """Molecules of the archive of xyz files, or of a folder with them; names are the SMILES of the
    relaxed geometries.

    progress: called with 1 after each file. ``FileNotFoundError``, or ``ValueError`` for a damaged
    archive or one without molecules.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; put {SOURCES['archive'].name} of QM9 there"
        )
    entries, broken = [], []
    for name, text in xyz_texts(path):
        try:
            entries.append(parse_xyz(text))
        except ValueError as error:
            broken.append((name, str(error)))
        if progress is not None:
            progress(1)
    return assemble(_joined(str(path), entries, LINE, broken), uncharacterised)


def read_sdf(
    path: str | Path,
    uncharacterised: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Structures, BondTable, Report]:
    """Molecules and bonds of gdb9.tar.gz, or of a gdb9.sdf with gdb9.sdf.csv beside it; aromatic
    bonds are marked (dataloader.chemistry.bond_orders).

    progress: called with 1 after each molecule. ``FileNotFoundError``, or ``ValueError``: damaged,
    or not a row a molecule.
    """
    path, entries, broken, rows = Path(path), [], [], []
    with _sdf_and_table(path) as (sdf, table):
        lines = csv.DictReader(
            io.TextIOWrapper(table, encoding="ascii", errors="replace", newline="")
        )
        columns = {
            name: [key for key in TARGETS[name].keys if key in (lines.fieldnames or ())]
            for name in TABLE
        }
        columns = {name: keys[0] for name, keys in columns.items() if keys}
        rows = [[row[key] for key in columns.values()] for row in lines]
        for place, block in enumerate(mol_blocks(sdf)):
            try:
                entry = parse_mol(block)
                entry.index = place + 1 if entry.index is None else entry.index
                entry.values = [float(word) for word in rows[place]] if place < len(rows) else []
                entries.append(entry)
            except (TypeError, ValueError) as error:
                broken.append((f"entry {place + 1}", str(error)))
            if progress is not None:
                progress(1)
    if len(rows) != len(entries) + len(broken) or not columns:
        raise ValueError(
            f"{path}: {len(rows)} rows of properties for {len(entries) + len(broken)} molecules; "
            "download it again"
        )
    structures, bonds, report = assemble(
        _joined(str(path), entries, tuple(columns), broken), uncharacterised
    )
    return structures, with_aromatic(structures, bonds), report


@contextlib.contextmanager
def _sdf_and_table(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The two files, opened."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; put {SOURCES['sdf'].name} of QM9 there")
    if path.suffix == ".sdf":
        table = path.with_name(path.name + ".csv")
        if not table.is_file():
            raise FileNotFoundError(
                f"{table} does not exist; put the table of {path.name} beside it"
            )
        with open(path, "rb") as first, open(table, "rb") as second:
            yield first, second
        return
    try:
        with tarfile.open(path, "r:*") as archive:
            members = {Path(member.name).name: member for member in archive if member.isfile()}
            missing = [name for name in ("gdb9.sdf", "gdb9.sdf.csv") if name not in members]
            if missing:
                raise ValueError(
                    f"{path} has no member {missing[0]}; give the archive {SOURCES['sdf'].name}"
                )
            yield (
                archive.extractfile(members["gdb9.sdf"]),
                archive.extractfile(members["gdb9.sdf.csv"]),
            )
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is damaged or no tar archive ({error}); remove it to have it downloaded again"
        ) from None


def _joined(
    source: str, entries: list[Entry], names: tuple[str, ...], broken: list[tuple[str, str]]
) -> Molecules:
    """Entries end to end; ``names``: of their values."""
    counts = np.array([len(entry.numbers) for entry in entries], np.int64)
    table = np.array([entry.values for entry in entries], np.float64).reshape(-1, len(names))
    bonded = [bond for entry in entries for bond in entry.bonds]
    structure = np.repeat(np.arange(len(entries)), [len(entry.bonds) for entry in entries])
    flat = np.array(bonded, np.int64).reshape(-1, 3)
    return Molecules(
        source=source,
        atomic_numbers=np.array(
            [number for entry in entries for number in entry.numbers], np.int64
        ),
        positions=np.array([x for entry in entries for x in entry.positions], np.float64).reshape(
            -1, 3
        ),
        counts=counts,
        values={name: TARGETS[name].factor * table[:, column] for column, name in enumerate(names)},
        ids=np.array([entry.index for entry in entries], np.int64),
        smiles=np.array([entry.smiles for entry in entries])
        if any(entry.smiles for entry in entries)
        else None,
        bonds=BondTable.sorted(structure, flat[:, :2], flat[:, 2], len(entries))
        if bonded
        else None,
        broken=broken,
    )


def read_ragged(
    path: str | Path, uncharacterised: np.ndarray | None = None
) -> tuple[Structures, BondTable | None, Report]:
    """Molecules of a ragged npz file (see the file); arrays of other names with a number a molecule
    are kept as they are.

    ``FileNotFoundError`` or ``ValueError`` with the file: damaged, an array that is missing or does
    not fit.
    """
    hint = f"give an npz file with {COUNTS}, {NUMBERS}, {POSITIONS} and properties in QM9's units"
    files.read_npz(path, (COUNTS, NUMBERS, POSITIONS), hint)
    with np.load(path, allow_pickle=False) as archive:
        content = files.read_npz(path, archive.files, hint)
    counts, numbers, positions = (content.pop(name) for name in (COUNTS, NUMBERS, POSITIONS))
    ids, smiles = content.pop(IDS, None), content.pop(SMILES, None)
    theory = str(content.pop("theory", ""))
    values, extra = {}, {}
    for name, target in TARGETS.items():
        held = [key for key in target.keys if key in content]
        if len(held) > 1:
            raise ValueError(f"{path} has {' and '.join(held)} for {name}; keep one of them")
        if held:
            values[name] = target.factor * content.pop(held[0]).astype(np.float64)
    wanted = {
        "counts": (counts, (len(counts),)),
        NUMBERS: (numbers, (int(counts.sum()),)),
        POSITIONS: (positions, (int(counts.sum()), 3)),
    }
    wanted |= {name: (array, (len(counts), *TARGETS[name].shape)) for name, array in values.items()}
    wanted |= {
        name: (array, (len(counts),))
        for name, array in ((IDS, ids), (SMILES, smiles))
        if array is not None
    }
    for name, (array, shape) in wanted.items():
        if array.shape != shape:
            raise ValueError(
                f"{path}: {name} must have the shape {shape} for {len(counts)} molecules, got "
                f"{array.shape}; {hint}"
            )
    for name, array in content.items():
        if array.shape[:1] == counts.shape and np.issubdtype(array.dtype, np.number):
            extra[name] = array
    molecules = Molecules(
        str(path),
        numbers.astype(np.int64),
        positions.astype(np.float64),
        counts.astype(np.int64),
        values,
        ids,
        smiles,
    )
    try:
        return assemble(dataclasses.replace(molecules, extra=extra, theory=theory), uncharacterised)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_edge_npz(
    path: str | Path, uncharacterised: np.ndarray | None = None
) -> tuple[Structures, BondTable, Report]:
    """Molecules and bonds of DGL's qm9_edge.npz; with ``uncharacterised`` they get their numbers,
    which the file does not hold.

    Total energies of a file in single precision are made from its atomisation energies: 1e4 eV have
    steps of 1e-3 eV there. ``FileNotFoundError`` or ``ValueError`` with the file: damaged, arrays
    that do not fit, other units.
    """
    hint = f"download {SOURCES['edge'].name} again"
    names = ("n_node", "n_edge", "node_attr", "node_pos", "edge_attr", "src", "dst", "targets")
    content = files.read_npz(path, names, hint)
    counts, edges = (
        content["n_node"].astype(np.int64).reshape(-1),
        content["n_edge"].astype(np.int64).reshape(-1),
    )
    atoms, total = int(counts.sum()), int(edges.sum())
    wanted = {
        "node_pos": (atoms, 3),
        "src": (total,),
        "dst": (total,),
        "targets": (len(counts), len(TABLE)),
        "n_edge": counts.shape,
    }
    for name, shape in wanted.items():
        if content[name].shape != shape:
            raise ValueError(
                f"{path}: {name} must have the shape {shape} for {len(counts)} molecules, got "
                f"{content[name].shape}; {hint}"
            )
    one_hot = content["node_attr"][:, : len(ELEMENTS)]
    kinds = content["edge_attr"].astype(bool)
    if (
        one_hot.shape != (atoms, len(ELEMENTS))
        or kinds.shape != (total, 4)
        or (one_hot.sum(1) != 1).any()
        or (kinds.sum(1) > 1).any()
    ):
        raise ValueError(
            f"{path}: node_attr must start with one of {', '.join(ELEMENTS)} an atom, edge_attr "
            f"name one of 4 kinds; {hint}"
        )
    numbers = np.array(list(ELEMENTS.values()))[one_hot.argmax(1)]
    structure = np.repeat(np.arange(len(counts)), edges)
    ends = np.stack([content["src"], content["dst"]], 1).astype(np.int64)
    if total and not (ends.min() >= 0 and (ends < counts[structure][:, None]).all()):
        raise ValueError(f"{path}: src and dst must be atoms inside their molecule; {hint}")
    bonds = BondTable.sorted(
        structure, ends, np.where(kinds.any(1), kinds.argmax(1) + 1, 0), len(counts)
    )
    values = _edge_values(path, content["targets"], numbers, counts)
    ids = None
    if uncharacterised is not None and len(counts) == WHOLE_COUNT - UNCHARACTERISED_COUNT:
        ids = np.setdiff1d(np.arange(1, WHOLE_COUNT + 1), uncharacterised)
    positions = content["node_pos"].astype(np.float64)
    return assemble(
        Molecules(str(path), numbers, positions, counts, values, ids, bonds=bonds), uncharacterised
    )


def _edge_values(
    path, table: np.ndarray, numbers: np.ndarray, counts: np.ndarray
) -> dict[str, np.ndarray]:
    """Columns of the table in eV of today's constants."""
    steps = {"hartree": HARTREE / DGL_HARTREE, "kcal/mol": TABLE_KCAL / DGL_KCAL}
    values = {
        name: steps.get(TARGETS[name].file_unit, 1.0) * table[:, column].astype(np.float64)
        for column, name in enumerate(TABLE)
    }
    for name, atomised in ATOMISED.items():
        whole = values[atomised] + free_atom_energy(name, numbers, counts)
        shift = np.abs(whole - values[name])
        if np.nanmax(shift, initial=0.0) > MOST_SHIFT:
            raise ValueError(
                f"{path}: {name} and {atomised} disagree by {np.nanmax(shift):.3g} eV (at most "
                f"{MOST_SHIFT}): not in eV?"
            )
        if table.dtype != np.float64:
            values[name] = whole
    return values
