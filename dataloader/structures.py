"""A ragged set of structures with labels, in fixed units: eV, Angstrom, eV/Angstrom, eV/Angstrom^3.

Atoms of all structures lie end to end in flat arrays, so that a subset is one gather (a slice: no
copy) and a batch of any structures costs the same per atom whatever their sizes. Everything is
float64: energies of whole molecules need it (float32 resolves 1e-3 eV at 1e4 eV), and what a
network reads is made smaller when batches are made. Sign conventions: forces = -dE/dx, stress =
(dE/dstrain) / volume.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from ase.geometry import wrap_positions

from farfield.dataloader.storage import files
from farfield.models.elements import MAX_ATOMIC_NUMBER

UNITS = {"energy": "eV", "forces": "eV/Angstrom", "stress": "eV/Angstrom^3"}
ATOM_ARRAYS = ("atomic_numbers", "positions", "forces")
STRUCTURE_ARRAYS = ("counts", "energy", "cell", "periodic", "stress", "names")
EXTRA = "extra_"  # prefix of the extra numbers in a file


@dataclasses.dataclass
class Structures:
    """Structures laid end to end; ``ValueError`` that quotes structure and value for whatever
    cannot be right.

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
        extra           name -> (structures, ...) further numbers, in the units of their file; NaN
                        where there is none
        theory          what made the labels, for the reader
        check           verify the arrays (a subset of verified ones need not be)
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
    extra: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    theory: str = ""
    check: dataclasses.InitVar[bool] = True

    def __post_init__(self, check: bool):
        if check:
            _convert(self)
            _check(self)

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
        """SHA-256 of geometry and labels (not of names and other words); the labels of a set
        without energies are its extra numbers.
        """
        arrays = [
            getattr(self, name) for name in (*ATOM_ARRAYS, *STRUCTURE_ARRAYS) if name != "names"
        ]
        if self.energy is None:
            arrays += [
                part
                for name in sorted(self.extra)
                for part in (np.frombuffer(name.encode(), np.uint8), self.extra[name])
            ]
        return files.array_checksum(*(np.zeros(0) if array is None else array for array in arrays))

    def energy_for(self, purpose: str) -> np.ndarray:
        """The energies (structures,), or one ``ValueError`` that says what needs them if there are
        none.
        """
        if self.energy is None:
            held = f"only {', '.join(sorted(self.extra))}" if self.extra else "no labels"
            raise ValueError(
                f"{purpose} need energies, the {len(self)} structures have none ({held}); give "
                "data with energies"
            )
        return self.energy

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> Structures:
        """A set of the chosen structures in the order of ``index`` (number, slice, list of numbers,
        or mask).
        """
        chosen = np.atleast_1d(np.arange(len(self))[index])
        rows = rows_of(self.offsets[chosen], self.counts[chosen])
        if isinstance(index, slice) and index.step in (None, 1):
            first = self.offsets[chosen[0]] if len(chosen) else 0
            rows, chosen = slice(first, first + len(rows)), index  # views, no copies
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
        """All structures of several sets, in order. Open structures get a cell of zeros beside
        periodic ones; extra numbers that not all sets have are left out; a label that only some
        have, or of another shape, is a ``ValueError``.
        """
        if not sets:
            raise ValueError("no sets of structures were given to concatenate")
        arrays = {
            name: [getattr(part, name) for part in sets] for name in ATOM_ARRAYS + STRUCTURE_ARRAYS
        }
        for name, missing in (
            ("cell", np.zeros((1, 3, 3))),
            ("periodic", np.zeros((1, 3), bool)),
            ("names", np.array([""])),
        ):
            if any(values is not None for values in arrays[name]):
                pairs = zip(arrays[name], sets, strict=True)
                arrays[name] = [
                    np.repeat(missing, len(part), 0) if values is None else values
                    for values, part in pairs
                ]
        for name, values in arrays.items():
            lacking = [place for place, value in enumerate(values) if value is None]
            if 0 < len(lacking) < len(sets):
                raise ValueError(
                    f"set {lacking[0]} of {len(sets)} has no {name}, others have; leave it out, "
                    f"or read all without {name}"
                )
        joined = {
            name: None if values[0] is None else np.concatenate(values)
            for name, values in arrays.items()
        }
        common = [name for name in sets[0].extra if all(name in part.extra for part in sets)]
        for name in common:
            shapes = sorted({part.extra[name].shape[1:] for part in sets})
            if len(shapes) > 1:
                raise ValueError(
                    f"extra[{name!r}] has the shapes {' and '.join(map(str, shapes))} per "
                    "structure; leave it out of one set"
                )
        extra = {name: np.concatenate([part.extra[name] for part in sets]) for name in common}
        return cls(
            **joined,
            extra=extra,
            theory="; ".join(sorted({part.theory for part in sets if part.theory})),
            check=False,
        )

    def wrapped(self) -> Structures:
        """The same structures with the atoms of periodic ones inside their cells, where float32
        resolves most; open ones as they are.
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
        """Count, sizes, elements, for every label its number, unit, mean and standard deviation,
        and what else there is, as lines.
        """
        if not len(self):
            return "0 structures"
        symbols = " ".join(chemical_symbols[number] for number in self.elements)
        kind = "open" if self.periodic is None else f"{int(self.periodic.any(1).sum())} periodic"
        theory = f", labels: {self.theory}" if self.theory else ""
        lines = [
            f"{len(self)} structures of {self.counts.min()}-{self.counts.max()} atoms, "
            f"{symbols}, {kind}{theory}"
        ]
        for name, unit in UNITS.items():
            values = getattr(self, name)
            if values is not None:
                unit_text = f"{name} ({unit})"
                lines.append(
                    f"  {unit_text:<24}{values.size:>10} numbers  mean {values.mean():14.6f}  "
                    f"std {values.std():12.6f}"
                )
        if self.extra:
            shapes = {
                name: "x".join(map(str, values.shape[1:])) for name, values in self.extra.items()
            }
            lines.append(
                "  further numbers: "
                + ", ".join(
                    name + (f" ({shape})" if shape else "") for name, shape in shapes.items()
                )
            )
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
        """Read what :meth:`save` wrote; ``FileNotFoundError`` or ``ValueError`` with file and
        ``hint`` if that cannot be had.
        """
        head = files.read_npz(path, ("arrays", "theory"), hint)
        content = files.read_npz(path, head["arrays"].tolist(), hint)
        extra = {
            name.removeprefix(EXTRA): content.pop(name)
            for name in list(content)
            if name.startswith(EXTRA)
        }
        try:
            return cls(**content, extra=extra, theory=str(head["theory"]))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}; {hint}") from None


def rows_of(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``first[k], first[k] + 1, ... first[k] + counts[k] - 1`` for every k, one after the other."""
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(first - before, counts)


def _convert(structures: Structures):
    kinds = dict.fromkeys(("positions", "energy", "forces", "cell", "stress"), np.float64)
    kinds |= {"atomic_numbers": np.int64, "counts": np.int64, "periodic": bool, "names": str}
    for name, kind in kinds.items():
        values = getattr(structures, name)
        if values is not None:
            values = np.asarray(values)
            if kind is np.int64 and not np.issubdtype(values.dtype, np.integer):
                raise ValueError(f"{name} must be whole numbers, got {values.dtype}")
            setattr(structures, name, np.ascontiguousarray(values, dtype=kind))
    structures.extra = {name: np.asarray(values) for name, values in structures.extra.items()}


def _check(structures: Structures):
    if structures.counts.ndim != 1 or (structures.counts < 1).any():
        smallest = structures.counts.min(initial=0)
        raise ValueError(
            f"counts must be a list of numbers >= 1, got the shape {structures.counts.shape} and "
            f"the smallest {smallest}"
        )
    count, atoms = len(structures.counts), int(structures.counts.sum())
    wanted = {
        "atomic_numbers": (atoms,),
        "positions": (atoms, 3),
        "forces": (atoms, 3),
        "energy": (count,),
        "cell": (count, 3, 3),
        "periodic": (count, 3),
        "stress": (count, 3, 3),
        "names": (count,),
    }
    arrays = {name: getattr(structures, name) for name in wanted}
    for name, values in structures.extra.items():
        arrays[f"extra[{name!r}]"], wanted[f"extra[{name!r}]"] = values, (count, *values.shape[1:])
        if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
            raise ValueError(
                f"extra[{name!r}] must be numbers, got {values.dtype}; keep words in names"
            )
    for name, values in arrays.items():
        if values is None:
            continue
        if values.shape != wanted[name]:
            raise ValueError(
                f"{name} must have the shape {wanted[name]} for {count} structures of {atoms} "
                f"atoms, got {values.shape}"
            )
        if np.issubdtype(values.dtype, np.floating) and not name.startswith("extra"):
            _check_finite(structures, name, values)
    numbers = structures.atomic_numbers
    wrong = np.flatnonzero((numbers < 1) | (numbers > MAX_ATOMIC_NUMBER))
    if len(wrong):
        where = structures.structure_of_atom[wrong[0]]
        raise ValueError(
            f"atomic numbers must lie in 1 .. {MAX_ATOMIC_NUMBER}, got {numbers[wrong[0]]} in "
            f"structure {where}"
        )
    _check_cells(structures)


def _check_finite(structures: Structures, name: str, values: np.ndarray):
    finite = np.isfinite(values.reshape(len(values), -1)).all(1)
    if not finite.all():
        place = int(np.argmin(finite))
        where = int(structures.structure_of_atom[place]) if name in ATOM_ARRAYS else place
        raise ValueError(
            f"{name} of structure {where} are not finite ({np.ravel(values[place]).tolist()}); "
            "leave that structure out"
        )


def _check_cells(structures: Structures):
    if (structures.cell is None) != (structures.periodic is None):
        there, missing = (
            ("cell", "periodic") if structures.periodic is None else ("periodic", "cell")
        )
        raise ValueError(
            f"{there} was given without {missing}: give both, or neither for open structures"
        )
    if structures.cell is None:
        return
    repeating = np.where(structures.periodic[..., None], structures.cell, 0.0)
    wrong = (
        np.flatnonzero(np.linalg.matrix_rank(repeating) < structures.periodic.sum(1))
        if len(structures)
        else ()
    )
    if len(wrong):
        cell = structures.cell[wrong[0]].tolist()
        directions = structures.periodic[wrong[0]].tolist()
        raise ValueError(
            f"structure {wrong[0]} is periodic along {directions} but its vectors {cell} do not "
            "span that"
        )
