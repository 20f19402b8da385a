"""Reader of the HDF5 files of QM7-X: 1000.hdf5, 2000.hdf5, ... 8000.hdf5.

    /MOLECULE/Geom-m17-i1-c2-opt/atXYZ     m: molecule (its SMILES), i: stereoisomer, c: conformer;
    /MOLECULE/Geom-m17-i1-c2-d45/atXYZ     opt: relaxed by DFTB3+MBD, d1 ... d100: displaced

with the data sets atNUM (atoms,), atXYZ (atoms, 3) Angstrom, ePBE0+MBD (1,) eV, totFOR (atoms, 3)
eV/Angstrom, hCHG (atoms,) Hirshfeld charges in e and vDIP (3,) e Angstrom. Molecules are neutral,
so a dipole has no origin. Of a file whose first structure lacks hCHG or vDIP they are not read.

A file is trusted in nothing: sizes, types and elements of a data set are looked at before its
values are read, and what QM7-X cannot hold is one line with the name of the structure. HDF5 is read
by h5py (licence BSD-3-Clause). Cost: h5py opens some data sets for each structure.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols

from farfield.dataloader.structures import Structures

THEORY = "PBE0+MBD (QM7-X)"
ELEMENTS = (1, 6, 7, 8, 16, 17)
LARGEST_MOLECULE = 23  # atoms
INSTALL_HINT = "the HDF5 files of QM7-X need h5py, which is missing; type: pip install h5py"
NAME = re.compile(r"Geom-m(\d{1,9})-i(\d{1,9})-c(\d{1,9})-(?:opt|d([1-9]\d{0,8}))")

# label of a file -> shape for n atoms; those that a file may lack come last
SHAPES: dict[str, Callable[[int], tuple[int, ...]]] = {
    "atXYZ": lambda atoms: (atoms, 3),
    "ePBE0+MBD": lambda atoms: (1,),
    "totFOR": lambda atoms: (atoms, 3),
    "hCHG": lambda atoms: (atoms,),
    "vDIP": lambda atoms: (3,),
}
MAY_LACK = ("hCHG", "vDIP")

# what h5py raises for a file that is not as it was written
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)


class GeometryName(NamedTuple):
    """Which structure it is. displaced: 0 for the relaxed one, else 1 .. 100."""

    molecule: int
    isomer: int
    conformer: int
    displaced: int


class _Refused(ValueError):
    """What is wrong with a structure, in one line."""


def geometry_name(text: str) -> GeometryName | None:
    """The parts of ``Geom-m17-i1-c2-d45``; None for another name."""
    found = NAME.fullmatch(text)
    return None if found is None else GeometryName(*(int(part or 0) for part in found.groups()))


def read_qm7x(
    path: Path, takes: Callable[[int], bool], progress: Callable[[int], object]
) -> Structures:
    """Structures of a file in the order of their names, with energies, forces and, where the file
    has them, charges and dipoles; ``extra`` has the parts of :class:`GeometryName`.

    takes: number of a displaced structure (0: relaxed) -> whether it is read. progress: called with
    1 for each. ``ValueError`` in one line for a file that is damaged or not of QM7-X, and where
    h5py is missing.
    """
    names: list[str] = []
    columns: dict[str, list[np.ndarray]] = {}
    with _opened(path) as file:
        # what the first structure has, all of them must have
        labels = [name for name in SHAPES if name not in MAY_LACK]
        for name, group in _chosen(file, takes):
            if not names:
                labels += [label for label in MAY_LACK if label in group]
            for label, values in _read_structure(name, group, labels).items():
                columns.setdefault(label, []).append(values)
            names.append(name)
            progress(1)
        if not names:
            raise _Refused("it holds no structure that was asked for")

    try:
        return _laid_end_to_end(names, columns)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator:
    """The file, for reading; whatever is wrong with it is one line with its name."""
    try:
        import h5py  # other sources do not wait for it
    except ModuleNotFoundError:
        raise ValueError(INSTALL_HINT) from None

    # what this module refuses has its own words, the rest is damage
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except _Refused as error:
        raise ValueError(f"{path}: {error}; take the file from QM7-X again") from None
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{path} is damaged or no HDF5 file ({reason}); remove it to have it downloaded again"
        ) from None


def _chosen(file, takes: Callable[[int], bool]) -> Iterator[tuple[str, object]]:
    """Name and group of every structure that is read, molecule by molecule."""
    for molecule in file:
        held = file[molecule]
        if not hasattr(held, "keys"):
            raise _Refused(f"/{molecule} is not the group of a molecule")
        parts = {}
        for name in held:
            parts[name] = geometry_name(name)
            if parts[name] is None:
                raise _Refused(f"/{molecule}/{name} must be named like Geom-m1-i1-c1-opt or ...-d1")

        for name in sorted(parts, key=parts.__getitem__):
            if takes(parts[name].displaced):
                yield name, held[name]


def _read_structure(name: str, group, labels: list[str]) -> dict[str, np.ndarray]:
    """Atomic numbers and labels of one structure."""
    numbers = _values(name, group, "atNUM", None)
    wrong = numbers[~np.isin(numbers, ELEMENTS)]
    if len(wrong):
        known = ", ".join(chemical_symbols[number] for number in ELEMENTS)
        symbol = dict(enumerate(chemical_symbols)).get(wrong[0], "without a name")
        raise _Refused(
            f"{name}: unknown element {symbol} (Z = {wrong[0]}), QM7-X has {known} alone"
        )
    found = {"atNUM": numbers.astype(np.int64)}
    return found | {label: _values(name, group, label, len(numbers)) for label in labels}


def _values(name: str, group, label: str, atoms: int | None) -> np.ndarray:
    """A data set of a structure; atoms: of the structure, None while they are not known."""
    data = group.get(label) if hasattr(group, "keys") else None
    if data is None:
        raise _Refused(f"{name} has no data set {label}")
    shape, kind = getattr(data, "shape", None), getattr(getattr(data, "dtype", None), "kind", "")
    if kind not in ("i", "u", "f"):
        raise _Refused(f"{name}: {label} must be numbers")

    # before anything is read: a damaged header may promise any size
    if atoms is None:
        fits = shape is not None and len(shape) == 1 and 1 <= shape[0] <= LARGEST_MOLECULE
        expected = f"(atoms,) for 1 .. {LARGEST_MOLECULE} atoms"
    else:
        expected = SHAPES[label](atoms)
        fits = shape == expected
    if not fits:
        raise _Refused(f"{name}: {label} has the shape {shape}, it must be {expected}")
    return data[()]


def _laid_end_to_end(names: list[str], columns: dict[str, list[np.ndarray]]) -> Structures:
    """Structures of the values of each, by label."""
    # (atoms,) or (atoms, 3) of all structures, (structures, 4) of their names
    counts = np.array([len(numbers) for numbers in columns["atNUM"]])
    joined = {label: np.concatenate(parts) for label, parts in columns.items()}
    parts = np.array([geometry_name(name) for name in names], np.int64)

    return Structures(
        joined["atNUM"],
        joined["atXYZ"],
        counts,
        energy=joined["ePBE0+MBD"],
        forces=joined["totFOR"],
        names=np.array(names),
        charges=joined.get("hCHG"),
        dipole=joined["vDIP"].reshape(-1, 3) if "vDIP" in joined else None,
        extra=dict(zip(GeometryName._fields, parts.T, strict=True)),
        theory=THEORY,
    )


def read_duplicates(path: Path) -> set[tuple[int, int, int]]:
    """Molecule, isomer and conformer of every structure of ``DupMols.dat``, a name in each line;
    ``ValueError`` for a line that is none.
    """
    found = set()
    for line in path.read_text(encoding="utf-8", errors="replace").split():
        name = geometry_name(line)
        if name is None:
            raise ValueError(
                f"{path} must hold names like Geom-m1-i1-c1-opt, got {line[:40]!r}; remove it to "
                "have it downloaded again"
            )
        found.add(tuple(name[:3]))
    return found
