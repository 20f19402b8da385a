"""A ragged set of structures with labels, in fixed units: eV, Angstrom, e, and what they make.

Atoms of all structures lie end to end in flat arrays, so that a subset is one gather (a slice: no
copy) and a batch of any structures costs the same per atom whatever their sizes. Everything is
float64: energies of whole molecules need it (float32 resolves 1e-3 eV at 1e4 eV), and what a
network reads is made smaller when batches are made. Sign conventions: forces = -dE/dx, stress =
(dE/dstrain) / volume, dipole = sum of charge x position (from minus to plus).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from ase.geometry import wrap_positions

from farfield.dataloader import structure_checks
from farfield.dataloader.storage import files

UNITS = {
    "energy": "eV",
    "forces": "eV/Angstrom",
    "stress": "eV/Angstrom^3",
    "charges": "e",
    "dipole": "e Angstrom",
}
ATOM_ARRAYS = ("atomic_numbers", "positions", "forces", "charges")
STRUCTURE_ARRAYS = ("counts", "energy", "cell", "periodic", "stress", "names", "dipole")
LABELS_OF_CHARGE = ("charges", "dipole")  # sets without them keep the hash that they always had
EXTRA = "extra_"  # prefix of the extra labels in a file

# what a set gets where other sets have the array, for one structure
MISSING = {
    "cell": np.zeros((1, 3, 3)),
    "periodic": np.zeros((1, 3), bool),
    "names": np.array([""]),
}


@dataclasses.dataclass
class Structures:
    """Structures laid end to end, checked.

    ``ValueError`` that quotes structure and value for whatever cannot be right.

    Attributes
        atomic_numbers  (atoms,) int64, 1 .. 118
        positions       (atoms, 3) float64, Angstrom
        counts          (structures,) int64, atoms of each structure
        energy          (structures,) float64, eV, or None: the labels are in ``extra``
        forces          (atoms, 3) float64, eV/Angstrom, or None
        cell            (structures, 3, 3) float64, rows are lattice vectors, Angstrom, or None: all
                        are open
        periodic        (structures, 3) bool, which lattice vectors repeat; given exactly if cell is
        stress          (structures, 3, 3) float64, eV/Angstrom^3, or None
        names           (structures,) text, or None
        charges         (atoms,) float64, e, partial charges of the atoms, or None
        dipole          (structures, 3) float64, e Angstrom, about the mean position of the atoms,
                        or None; of open structures alone
        extra           name -> (structures, ...) further labels, in the units of their file; NaN
                        where a structure has none
        theory          what made the labels, for the reader
        remarks         what of a file was read and what was not, for the reader; not kept in files
        check           verify the arrays (not needed for a subset of verified ones)
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    counts: np.ndarray
    energy: np.ndarray | None = None
    forces: np.ndarray | None = None
    cell: np.ndarray | None = None
    periodic: np.ndarray | None = None
    stress: np.ndarray | None = None
    names: np.ndarray | None = None
    charges: np.ndarray | None = None
    dipole: np.ndarray | None = None
    extra: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    theory: str = ""
    remarks: tuple[str, ...] = ()
    check: dataclasses.InitVar[bool] = True

    def __post_init__(self, check: bool):
        if check:
            structure_checks.convert(self)
            structure_checks.check(self)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def num_atoms(self) -> int:
        return len(self.positions)

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """First atom of every structure, and the end (structures + 1,)."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    @functools.cached_property
    def structure_of_atom(self) -> np.ndarray:
        """(atoms,)"""
        return np.repeat(np.arange(len(self)), self.counts)

    @functools.cached_property
    def elements(self) -> np.ndarray:
        """Atomic numbers that occur, in order."""
        return np.unique(self.atomic_numbers)

    @property
    def data_hash(self) -> str:
        """SHA-256 of geometry and labels, not of names and other words.

        The labels of a set without energies are its extra ones.
        """
        unnamed = [
            name
            for name in (*ATOM_ARRAYS, *STRUCTURE_ARRAYS)
            if name not in ("names", *LABELS_OF_CHARGE)
        ]
        arrays = [getattr(self, name) for name in unnamed]

        # these count where they are, each with its name in front
        named = {name: getattr(self, name) for name in LABELS_OF_CHARGE}
        named = {name: values for name, values in named.items() if values is not None}
        if self.energy is None:
            named |= {name: self.extra[name] for name in sorted(self.extra)}
        for name, values in named.items():
            arrays += [np.frombuffer(name.encode(), np.uint8), values]
        return files.array_checksum(*(np.zeros(0) if array is None else array for array in arrays))

    def energy_for(self, purpose: str) -> np.ndarray:
        """The energies (structures,); ``ValueError`` that names the purpose if there are none."""
        if self.energy is None:
            held = f"only {', '.join(sorted(self.extra))}" if self.extra else "no labels"
            raise ValueError(
                f"{purpose} need energies, the {len(self)} structures have none ({held}); give "
                "data with energies"
            )
        return self.energy

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> Structures:
        """The chosen structures, in the order of ``index`` (number, slice, list, or mask)."""
        chosen = np.atleast_1d(np.arange(len(self))[index])
        rows = rows_of(self.offsets[chosen], self.counts[chosen])

        # neighbours in memory: views, no copies
        if isinstance(index, slice) and index.step in (None, 1):
            first = self.offsets[chosen[0]] if len(chosen) else 0
            rows, chosen = slice(first, first + len(rows)), index
        return self._select(rows, chosen)

    def _select(self, rows, chosen) -> Structures:
        places = dict.fromkeys(ATOM_ARRAYS, rows) | dict.fromkeys(STRUCTURE_ARRAYS, chosen)
        arrays = {
            name: None if getattr(self, name) is None else getattr(self, name)[place]
            for name, place in places.items()
        }
        extra = {name: values[chosen] for name, values in self.extra.items()}
        return Structures(**arrays, extra=extra, theory=self.theory, check=False)

    @classmethod
    def concatenate(cls, sets: Sequence[Structures]) -> Structures:
        """All structures of several sets, in order.

        Open structures get a cell of zeros where others are periodic. Charges, dipoles and extra
        labels that not all sets have are left out. ``ValueError`` for no set at all, and for
        another label that only some sets have or that has several shapes.
        """
        if not sets:
            raise ValueError("no sets of structures were given to concatenate")
        left_out = [
            name for name in LABELS_OF_CHARGE if any(getattr(part, name) is None for part in sets)
        ]
        joined = {
            name: _concatenated(name, sets, MISSING.get(name))
            for name in ATOM_ARRAYS + STRUCTURE_ARRAYS
            if name not in left_out
        }

        # labels without a fixed name, as far as all sets have them
        extra = {}
        for name in sets[0].extra:
            parts = [part.extra[name] for part in sets if name in part.extra]
            if len(parts) == len(sets):
                _check_one_shape(name, parts)
                extra[name] = np.concatenate(parts)
        theory = "; ".join(sorted({part.theory for part in sets if part.theory}))
        return cls(**joined, extra=extra, theory=theory, check=False)

    def wrapped(self) -> Structures:
        """The same structures with the atoms of periodic ones inside their cells.

        There float32 resolves most. Open structures stay as they are.
        """
        if self.periodic is None or not self.periodic.any():
            return self
        positions = self.positions.copy()
        for index in np.flatnonzero(self.periodic.any(1)):
            rows = slice(self.offsets[index], self.offsets[index + 1])
            positions[rows] = wrap_positions(
                positions[rows], self.cell[index], self.periodic[index]
            )
        return dataclasses.replace(self, positions=positions, check=False)

    def summary(self) -> str:
        """Lines for the reader: count, sizes and elements, then the labels.

        Every label comes with its number of values, unit, mean and standard deviation.
        """
        if not len(self):
            return "0 structures"

        # structures and atoms
        symbols = " ".join(chemical_symbols[number] for number in self.elements)
        kind = "open" if self.periodic is None else f"{int(self.periodic.any(1).sum())} periodic"
        theory = f", labels: {self.theory}" if self.theory else ""
        least, most = self.counts.min(), self.counts.max()
        sizes = f"{least} atoms" if least == most else f"{least} to {most} atoms"
        lines = [f"{len(self)} structures of {sizes}, {symbols}, {kind}{theory}"]

        # labels
        for name, unit in UNITS.items():
            values = getattr(self, name)
            if values is not None:
                unit_text = f"{name} ({unit})"
                lines.append(
                    f"  {unit_text:<24}{values.size:>10} values  mean {values.mean():14.6f}  "
                    f"std {values.std():12.6f}"
                )
        further = []
        for name, values in self.extra.items():
            shape = "x".join(map(str, values.shape[1:]))
            further.append(f"{name} ({shape})" if shape else name)
        if further:
            lines.append(f"  further labels: {', '.join(further)}")
        return "\n".join(lines)

    def save(self, path: str | Path):
        """Write an npz file, atomically."""
        names = [name for name in ATOM_ARRAYS + STRUCTURE_ARRAYS if getattr(self, name) is not None]
        content = {name: getattr(self, name) for name in names} | {
            EXTRA + name: values for name, values in self.extra.items()
        }
        with files.atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, arrays=np.array(list(content)), theory=np.array(self.theory), **content)

    @classmethod
    def load(cls, path: str | Path, hint: str = files.REBUILD_HINT) -> Structures:
        """Read what :meth:`save` wrote.

        hint: what the user can do, the end of an error. ``FileNotFoundError`` or ``ValueError``
        with the file.
        """
        head = files.read_npz(path, ("arrays", "theory"), hint)
        content = files.read_npz(path, head["arrays"].tolist(), hint)

        # further labels have a prefix, so that no name of theirs is taken for an array
        prefixed = [name for name in content if name.startswith(EXTRA)]
        extra = {name.removeprefix(EXTRA): content.pop(name) for name in prefixed}
        try:
            return cls(**content, extra=extra, theory=str(head["theory"]))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}; {hint}") from None


def rows_of(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``first[k], first[k] + 1, ... first[k] + counts[k] - 1`` for every k, one after the other."""
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(first - before, counts)


def _concatenated(
    name: str, sets: Sequence[Structures], missing: np.ndarray | None
) -> np.ndarray | None:
    """One array of several sets, or None if no set has it; missing: of a structure without it."""
    parts = [getattr(part, name) for part in sets]
    lacking = [place for place, values in enumerate(parts) if values is None]
    if len(lacking) == len(sets):
        return None
    if lacking and missing is None:
        raise ValueError(
            f"set {lacking[0]} of {len(sets)} has no {name}, others have; leave it out, "
            f"or read all without {name}"
        )
    for place in lacking:
        parts[place] = np.repeat(missing, len(sets[place]), 0)
    return np.concatenate(parts)


def _check_one_shape(name: str, parts: Sequence[np.ndarray]) -> None:
    shapes = sorted({part.shape[1:] for part in parts})
    if len(shapes) > 1:
        raise ValueError(
            f"extra[{name!r}] has the shapes {' and '.join(map(str, shapes))} per structure; leave "
            "it out of one set"
        )
