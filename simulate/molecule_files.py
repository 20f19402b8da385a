"""Files of molecules: extended xyz with what a run found, and sdf with bonds.

An sdf (MDL molfile V2000) has positions, bonds and charges of a rule of
:mod:`farfield.dataloader.chemistry.bond_rules`, and the values of a molecule as ``> <name>`` items.
Cost: linear in atoms.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from farfield.dataloader.chemistry.bond_rules import RuledBonds
from farfield.dataloader.storage import files
from farfield.dataloader.structures import Structures

MOST_IN_MOLFILE = 999  # atoms, and bonds: three digits each
CHARGES_PER_LINE = 8


def atoms_of(structures: Structures, info: Mapping[str, Sequence] | None = None) -> list[Atoms]:
    """Structures of ASE; info: name -> a value for each structure."""
    found = []
    for place in range(len(structures)):
        rows = slice(*structures.offsets[place : place + 2])
        values = {name: column[place] for name, column in (info or {}).items()}
        atoms = Atoms(structures.atomic_numbers[rows], structures.positions[rows], info=values)
        found.append(atoms)
    return found


def xyz_text(atoms: Sequence[Atoms]) -> str:
    """Structures as extended xyz."""
    from ase.io import write  # half a second that --help does not wait for

    text = io.StringIO()
    write(text, list(atoms), format="extxyz")
    return text.getvalue()


def write_xyz(path: str | Path, atoms: Sequence[Atoms]) -> None:
    """Write extended xyz, atomically."""
    text = xyz_text(atoms)
    with files.atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_sdf(
    path: str | Path,
    structures: Structures,
    bonds: RuledBonds,
    items: Mapping[str, Sequence] | None = None,
) -> None:
    """Write an sdf, atomically.

    items: name -> a value for each structure. ``ValueError`` for a structure with more than 999
    atoms or bonds, which the format does not know.
    """
    blocks = []
    for place in range(len(structures)):
        values = {name: column[place] for name, column in (items or {}).items()}
        blocks.append(mol_block(structures, bonds, place, values))
    with files.atomic_write(path) as temporary:
        temporary.write_text("".join(blocks), encoding="ascii")


def mol_block(
    structures: Structures, bonds: RuledBonds, place: int, items: Mapping[str, object]
) -> str:
    """Entry of one structure, from its name to the ``$$$$``."""
    atoms = slice(*structures.offsets[place : place + 2])
    mine = slice(*bonds.table.offsets[place : place + 2])
    numbers, points = structures.atomic_numbers[atoms], structures.positions[atoms]
    ends, orders = bonds.table.ends[mine], bonds.orders[mine]
    if max(len(numbers), len(ends)) > MOST_IN_MOLFILE:
        raise ValueError(
            f"structure {place} has {len(numbers)} atoms and {len(ends)} bonds, an sdf takes at "
            f"most {MOST_IN_MOLFILE} of each; leave --sdf out"
        )

    lines = [f"molecule {place}", "  Farfield", ""]
    lines.append(f"{len(numbers):3d}{len(ends):3d}  0  0  0  0  0  0  0  0999 V2000")
    for number, (x, y, z) in zip(numbers, points, strict=True):
        symbol = chemical_symbols[number]
        lines.append(f"{x:10.4f}{y:10.4f}{z:10.4f} {symbol:<3} 0" + "  0" * 11)
    for (first, second), order in zip(ends, orders, strict=True):
        lines.append(f"{first + 1:3d}{second + 1:3d}{order:3d}  0")

    # formal charges, eight on a line
    charges = bonds.charges[atoms]
    charged = np.flatnonzero(charges)
    for start in range(0, len(charged), CHARGES_PER_LINE):
        some = charged[start : start + CHARGES_PER_LINE]
        pairs = "".join(f" {atom + 1:3d} {charges[atom]:3d}" for atom in some)
        lines.append(f"M  CHG{len(some):3d}{pairs}")
    lines.append("M  END")

    for name, value in items.items():
        lines += [f"> <{name}>", str(value), ""]
    return "\n".join([*lines, "$$$$", ""])
