"""MD22: molecular dynamics of seven molecules of 42 to 370 atoms (Chmiela et al. 2023, PBE+MBD);
files, units, protocol.

``md22_MOLECULE.npz``: z (atoms,), R and F (frames, atoms, 3), E (frames, 1), kcal/mol and Angstrom,
with ``theory``, ``r_unit`` and ``e_unit`` in words, which are checked and shown: files of the same
format with labels of another method say so. Protocol (LSR-MP, Li et al. 2023): a random sample of
:data:`SAMPLE_SIZES` frames, 95 % train, 5 % validation, all others test.
"""

from __future__ import annotations

from pathlib import Path

from farfield.dataloader.sources.download import RemoteFile
from farfield.dataloader.sources.npz import read_npz
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import Units

FILE_UNITS = Units("kcal/mol", "Angstrom")
ADDRESSES = (
    "http://www.quantum-machine.org/gdml/repo/datasets/",
    "http://www.quantum-machine.org/gdml/data/npz/",
)
SPLIT_SEED = 48  # of the protocol
SAMPLE_SIZES = {
    "Ac-Ala3-NHMe": 6000,
    "DHA": 8000,
    "stachyose": 8000,
    "AT-AT": 3000,
    "AT-AT-CG-CG": 2000,
    "buckyball-catcher": 600,
    "double-walled_nanotube": 800,
}


def official_file(molecule: str) -> RemoteFile:
    """Where a molecule is published; ``ValueError`` for an unknown one."""
    if molecule not in SAMPLE_SIZES:
        raise ValueError(f"molecule must be one of {', '.join(SAMPLE_SIZES)}, got {molecule!r}")
    name = f"md22_{molecule}.npz"
    return RemoteFile(name, tuple(address + name for address in ADDRESSES))


def local_file(folder: str | Path, molecule: str) -> Path | None:
    """The file of a molecule in ``folder``, whatever the case of its letters, or None."""
    name = official_file(molecule).name
    if not Path(folder).is_dir():
        return None
    return next(
        (path for path in sorted(Path(folder).iterdir()) if path.name.lower() == name.lower()), None
    )


def read_md22(path: str | Path) -> Structures:
    """Structures of a file in the format of MD22, in eV and Angstrom; errors as in
    :func:`read_npz`.
    """
    structures = read_npz(path, FILE_UNITS)
    structures.theory = structures.theory or "PBE+MBD (MD22)"
    return structures
