"""Backbones of proteins from PDB and mmCIF files, also gzipped, read by gemmi (licence MPL-2.0).

What is taken of a file: the first model; of a residue with alternative places the one of highest
occupancy; N, CA, C and O of every residue, of whatever type (types other than the 20 standard ones
count as unknown). A chain is cut into pieces

    where C(i) - N(i + 1) is longer than 2.0 Angstrom,
    where the numbers of two residues are neither the same (insertion codes) nor one apart,
    where a residue lacks an atom of its backbone,

and pieces shorter than a limit are left out and counted. Ligands, waters and nucleic acids have no
backbone and only cut. Cost: that of gemmi.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from farfield.dataloader.backbones import BackboneChain
from farfield.dataloader.chemistry.residues import ATOM_NAMES, residue_type

LONGEST_BOND = 2.0  # Angstrom, of C(i) and N(i + 1)
SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif")
PACKED = ".gz"
INSTALL_HINT = "PDB and mmCIF files are read by gemmi, which is missing; type: pip install gemmi"


class ReadBackbones(NamedTuple):
    """What a file gives.

    chains: its pieces. left_out: number of pieces that were too short.
    """

    chains: list[BackboneChain]
    left_out: int


class _Residue(NamedTuple):
    """A residue with all atoms of its backbone: number in the file, type, positions (4, 3)."""

    number: int
    kind: int
    positions: np.ndarray


def find_protein_files(named: Iterable[str | Path]) -> list[Path]:
    """The files of files and folders, sorted by name, whatever order the file system has.

    Folders give their PDB and mmCIF files, sub-folders are not searched. ``FileNotFoundError`` or
    ``ValueError`` for a name that does not exist, a file of another type, a folder without such
    files, and two files of one structure.
    """
    found: dict[str, Path] = {}
    for path in map(Path, named):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give PDB or mmCIF files, or a folder")
        if path.is_dir():
            files = [file for file in path.iterdir() if file.is_file() and is_protein_file(file)]
            if not files:
                raise ValueError(f"{path} holds no PDB or mmCIF files ({', '.join(SUFFIXES)})")
        elif is_protein_file(path):
            files = [path]
        else:
            raise ValueError(
                f"{path} is no PDB or mmCIF file by its name; give files that end in "
                f"{', '.join(SUFFIXES)}, also with {PACKED}"
            )

        # two files of one structure would be in two splits
        for file in files:
            other = found.setdefault(structure_name(file), file)
            if other != file:
                raise ValueError(
                    f"{other} and {file} have the name of one structure, which could then train "
                    "and test; leave one out"
                )
    return sorted(found.values(), key=lambda file: (structure_name(file), str(file)))


def is_protein_file(path: Path) -> bool:
    """Whether a file is one of PDB or mmCIF by its name."""
    return Path(path.name.lower().removesuffix(PACKED)).suffix in SUFFIXES


def structure_name(path: Path) -> str:
    """Name of the structure of a file: ``1abc`` of ``1abc.pdb.gz``."""
    name = path.name
    if name.lower().endswith(PACKED):
        name = name[: -len(PACKED)]
    return Path(name).stem


def read_protein(path: Path, min_residues: int = 1) -> ReadBackbones:
    """The pieces of a file with at least ``min_residues`` residues.

    ``ValueError`` in one line for a file that cannot be read, has no backbone, or has positions
    that are not finite, and where gemmi is missing.
    """
    try:
        return _read_protein(path, min_residues)
    except UnicodeDecodeError as error:  # a name of an atom, a residue or a chain
        raise ValueError(
            f"{path} cannot be read as PDB or mmCIF ({error}); give another file"
        ) from None


def _read_protein(path: Path, min_residues: int) -> ReadBackbones:
    """The same, where all names are text."""
    model = _first_model(path)

    # bonded stretches of every chain
    chains, left_out, seen = [], 0, False
    for chain in model:
        for piece in pieces(_residues(path, chain)):
            seen = True
            if len(piece) < min_residues:
                left_out += 1
                continue
            ends = f"{piece[0].number}-{piece[-1].number}"
            chains.append(
                BackboneChain(
                    f"{structure_name(path)}_{chain.name}_{ends}",
                    np.array([residue.kind for residue in piece]),
                    np.stack([residue.positions for residue in piece]),
                )
            )
    if not seen:
        raise ValueError(
            f"{path} holds no residue with N, CA, C and O; give the file of a protein, with all "
            "atoms of its backbone"
        )
    return ReadBackbones(chains, left_out)


def _first_model(path: Path):
    """The first model of a file as gemmi has it; ``ValueError`` if there is none."""
    try:
        import gemmi
    except ModuleNotFoundError:
        raise ValueError(INSTALL_HINT) from None

    # gemmi tells the format from the name; its reasons may run over several lines
    try:
        structure = gemmi.read_structure(str(path))
    except (ValueError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path} cannot be read as PDB or mmCIF ({reason}); give another file"
        ) from None

    if not len(structure) or not structure[0].count_atom_sites():
        raise ValueError(f"{path} holds no atoms; give the file of a protein")
    return structure[0]


def _residues(path: Path, chain) -> Iterator[_Residue | None]:
    """Residues of a chain in order; None for one without a whole backbone."""
    for (number, code), group in itertools.groupby(chain, key=_number):
        kind, atoms = _likeliest(list(group))
        if set(ATOM_NAMES) - atoms.keys():
            yield None
            continue
        positions = np.array([atoms[name].pos.tolist() for name in ATOM_NAMES])
        if not np.isfinite(positions).all():
            raise ValueError(
                f"{path}: positions of residue {number}{code.strip()} of chain {chain.name} are "
                "not finite; correct them, or leave the file out"
            )
        yield _Residue(number, kind, positions)


def _number(residue) -> tuple[int, str]:
    """Number and insertion code of a residue."""
    return residue.seqid.num, residue.seqid.icode


def _likeliest(alternatives: Sequence) -> tuple[int, dict]:
    """Type and backbone atoms by name of a residue, of highest occupancy.

    alternatives: what gemmi has under one number, a residue of each type. A conformer is the atoms
    with one letter of an alternative place, and all atoms without a letter.
    """
    best: tuple[float, int, dict] | None = None
    for residue in alternatives:
        backbone = [atom for atom in residue if atom.name in ATOM_NAMES]
        letters = sorted({atom.altloc for atom in backbone if atom.has_altloc()}) or ["\0"]
        for letter in letters:
            atoms = {}
            for atom in backbone:
                if atom.altloc in (letter, "\0"):
                    atoms.setdefault(atom.name, atom)
            weight = sum(atom.occ for atom in atoms.values())
            if best is None or weight > best[0]:
                best = (weight, residue_type(residue.name), atoms)
    return best[1], best[2]


def pieces(residues: Iterable[_Residue | None]) -> Iterator[list[_Residue]]:
    """Stretches of residues that are bonded one to the next."""
    piece: list[_Residue] = []
    for residue in residues:
        if piece and (residue is None or not _is_bonded(piece[-1], residue)):
            yield piece
            piece = []
        if residue is not None:
            piece.append(residue)
    if piece:
        yield piece


def _is_bonded(one: _Residue, following: _Residue) -> bool:
    """Whether C of a residue is bonded to N of the following one, and the numbers agree."""
    bond = following.positions[ATOM_NAMES.index("N")] - one.positions[ATOM_NAMES.index("C")]
    is_close = float(np.linalg.norm(bond)) <= LONGEST_BOND
    return is_close and following.number - one.number in (0, 1)
