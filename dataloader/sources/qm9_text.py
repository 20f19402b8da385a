"""The text formats of QM9: an xyz file with properties, and molecules of an sdf (V2000).

A molecule gives an entry, or the reason why it cannot be read.

xyz, columns separated by blanks and tabs; numbers may be written 1.2*^-6 (Mathematica), which is
1.2e-6:

    number of atoms n
    gdb  number  A B C mu alpha homo lumo gap r2 zpve U0 U H G Cv        (see qm9_targets.LINE)
    element  x  y  z  Mulliken charge                                    (n lines, Angstrom)
    frequencies
    SMILES of GDB-17   SMILES of the relaxed geometry
    InChI twice

sdf: title, two lines, a line that starts with the numbers of atoms and bonds (3 columns each),
atoms (x, y, z in 10 columns each, element), bonds (two atoms and the order, 3 columns each),
properties up to ``M  END``, data, and ``$$$$``.

Cost: 35 us an xyz file, 90 us an sdf entry of 18 atoms.
"""

from __future__ import annotations

import dataclasses
import math
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from farfield.dataloader.sources.qm9_targets import ELEMENTS, LINE

TAIL = 3  # lines of an xyz file after the atoms
MOST_ATOMS = 999


@dataclasses.dataclass(slots=True)
class Entry:
    """A molecule of a file.

    numbers: atomic numbers (n). positions: (3 n), flat. index: gdb number (None: not said). values:
    properties in the units of the file. bonds: (atom, atom, order).
    """

    numbers: list[int]
    positions: list[float]
    index: int | None
    values: list[float]
    smiles: str = ""
    bonds: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)


def parse_xyz(text: str) -> Entry:
    """One file of the archive; ``ValueError`` with the reason if it is broken."""
    lines = text.replace("*^", "e").splitlines()
    count = _whole(lines[0] if lines else "", "number of atoms", 1, MOST_ATOMS)
    if len(lines) < count + 2 + TAIL - 1:  # the last line, of InChI, is not needed
        raise ValueError(f"{len(lines)} lines, {count} atoms need {count + 2 + TAIL}")
    head = lines[1].split()
    if len(head) != len(LINE) + 2:
        raise ValueError(f"{len(head)} words in the line of properties, not {len(LINE) + 2}")

    # element x y z charge, and no atom after the last
    words = [line.split() for line in lines[2 : 2 + count]]
    if any(len(row) != 5 for row in words) or _is_atom(lines[2 + count]):
        raise ValueError(f"not {count} lines of atoms")
    numbers = [_element(row[0]) for row in words]
    positions = _numbers((word for row in words for word in row[1:4]), "positions")

    smiles = lines[3 + count].split()
    return Entry(
        numbers,
        positions,
        _whole(head[1], "number", 1),
        _numbers(head[2:], "properties"),
        smiles[-1] if smiles else "",
    )


def parse_mol(lines: list[str]) -> Entry:
    """One molecule of an sdf, without its properties.

    ``ValueError`` with the reason if it is broken.
    """
    if len(lines) < 4:
        raise ValueError(f"{len(lines)} lines, a molecule has at least 4")
    count = _whole(lines[3][:3], "number of atoms", 1, MOST_ATOMS)
    bonds = _whole(lines[3][3:6], "number of bonds", 0, MOST_ATOMS)
    if len(lines) < 4 + count + bonds:
        raise ValueError(
            f"{len(lines)} lines, {count} atoms and {bonds} bonds need {4 + count + bonds}"
        )

    # columns of fixed width: x, y, z, element
    atoms = lines[4 : 4 + count]
    numbers = [_element(line[31:34].strip()) for line in atoms]
    words = (line[start : start + 10] for line in atoms for start in (0, 10, 20))
    positions = _numbers(words, "positions")

    found = [_bond(line, count) for line in lines[4 + count : 4 + count + bonds]]
    if len({frozenset(bond[:2]) for bond in found}) < len(found):
        raise ValueError("a bond is given twice")
    title = lines[0].strip().removeprefix("gdb_")
    return Entry(numbers, positions, int(title) if title.isdecimal() else None, [], bonds=found)


def _bond(line: str, count: int) -> tuple[int, int, int]:
    """Two atoms, counted from 0, and the order of their bond."""
    a = _whole(line[:3], "atom of a bond", 1, count) - 1
    b = _whole(line[3:6], "atom of a bond", 1, count) - 1
    if a == b:
        raise ValueError(f"atom {a + 1} is bonded to itself")
    return a, b, _whole(line[6:9], "order of a bond", 1, 4)


def _whole(word: str, what: str, low: int, high: int | None = None) -> int:
    if not word.strip().isdecimal() or int(word) < low or (high is not None and int(word) > high):
        raise ValueError(f"the {what} is {word.strip()[:20]!r}")
    return int(word)


def _element(symbol: str) -> int:
    if symbol not in ELEMENTS:
        raise ValueError(f"{symbol[:20]!r} is not an element of QM9 ({' '.join(ELEMENTS)})")
    return ELEMENTS[symbol]


def _is_atom(line: str) -> bool:
    words = line.split(maxsplit=1)
    return bool(words) and words[0] in ELEMENTS


def _numbers(words: Iterable[str], what: str) -> list[float]:
    words = list(words)
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{what} are not numbers ({' '.join(words)[:40]})") from None
    if not math.isfinite(sum(values)) and not all(map(math.isfinite, values)):
        raise ValueError(f"{what} are not finite ({' '.join(words)[:40]})")
    return values


def xyz_texts(path: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of all xyz files in a tar archive or a folder.

    ``ValueError`` for a damaged archive.
    """
    if path.is_dir():
        for file in sorted(path.rglob("*.xyz")):
            yield file.name, file.read_text(encoding="ascii", errors="replace")
        return

    # read from front to end: whoever seeks in a bz2 file decompresses it again
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".xyz"):
                    text = archive.extractfile(member).read().decode("ascii", errors="replace")
                    yield Path(member.name).name, text
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is damaged or not a tar archive ({error}); remove it to have it "
            "downloaded again"
        ) from None


def mol_blocks(file: IO[bytes]) -> Iterator[list[str]]:
    """Lines of one molecule after the other of an sdf."""
    lines: list[str] = []
    for line in file:
        text = line.decode("ascii", errors="replace").rstrip("\r\n")
        if text == "$$$$":
            yield lines
            lines = []
        else:
            lines.append(text)
    if any(line.strip() for line in lines):
        yield lines
