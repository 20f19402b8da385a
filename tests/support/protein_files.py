"""Files of proteins for tests: lines of the PDB format, not by the library that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from farfield.dataloader.backbones import BackboneChain
from farfield.dataloader.chemistry.residues import ATOM_NAMES, STANDARD_RESIDUES


def atom_line(
    name: str,
    residue: str,
    number: int,
    position: Sequence[float],
    chain: str = "A",
    altloc: str = " ",
    occupancy: float = 1.0,
    code: str = " ",
    record: str = "ATOM",
) -> str:
    """One line of an atom; code: of an insertion."""
    x, y, z = position
    return (
        f"{record:<6}{1:>5}  {name:<3}{altloc}{residue:>3} {chain}{number:>4}{code}   "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{0:6.2f}          {name[0]:>2}"
    )


def residue_lines(residue: str, number: int, positions: np.ndarray, **more) -> list[str]:
    """Lines of N, CA, C, O at ``positions`` (4, 3); more: of :func:`atom_line`."""
    return [
        atom_line(name, residue, number, position, **more)
        for name, position in zip(ATOM_NAMES, positions, strict=True)
    ]


def chain_lines(backbone: BackboneChain, first: int = 1, **more) -> list[str]:
    """Lines of a chain whose residues have the numbers ``first``, ``first + 1``, ..."""
    lines = []
    for place, kind in enumerate(backbone.residues.tolist()):
        name = STANDARD_RESIDUES[kind]
        lines += residue_lines(name, first + place, backbone.positions[place], **more)
    return lines


def write_lines(path: Path, *lines: str) -> Path:
    """Write a PDB file of these lines."""
    path.write_text("\n".join([*lines, "END", ""]))
    return path
