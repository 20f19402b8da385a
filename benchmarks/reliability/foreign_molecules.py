"""Small files of structures and molecules as users bring them, with their readers."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase.data import chemical_symbols

from benchmarks.reliability.small_programs import displaced_molecules, pair_labels, write_frames
from farfield.dataloader.from_ase import read_structures
from farfield.dataloader.sources.file_formats import FILE_FORMATS, FileReading
from farfield.dataloader.sources.md17 import read_md17
from farfield.dataloader.sources.md22 import read_md22
from farfield.dataloader.sources.qm9 import UNCHARACTERISED_COUNT, read_uncharacterised
from farfield.dataloader.sources.qm9_archives import read_archive, read_sdf
from farfield.dataloader.sources.qm9_arrays import DGL_HARTREE, read_edge_npz, read_ragged
from farfield.dataloader.sources.qm9_targets import ATOMISED, HARTREE, TABLE, free_atom_energy
from farfield.dataloader.split_protocols import SplitOptions
from farfield.dataloader.splits import make_split
from farfield.simulate.rollout_frames import read_frames

STRUCTURES = 30


def only_file(folder: Path, *suffixes: str) -> Path:
    """The file of a folder, of one of the suffixes where some are given."""
    found = [one for one in sorted(folder.iterdir()) if not suffixes or one.suffix in suffixes]
    return found[0]


def noted(count: int) -> None:
    """Progress that nobody looks at."""


# ---- structures


def make_xyz(folder: Path) -> None:
    """Extended xyz of open and of periodic structures."""
    write_frames(folder / "frames.xyz", 6)
    text = (folder / "frames.xyz").read_text()
    text = text.replace('pbc="F F F"', 'Lattice="8 0 0 0 8 0 0 0 8" pbc="T T T"')
    (folder / "crystals.xyz").write_text(text)


def read_user_file(folder: Path) -> Any:
    """A file of the user, by its suffix."""
    path = only_file(folder)
    return FILE_FORMATS[path.suffix].read(path, FileReading(), noted)


def fixed_arrays(count: int = 5, **more: Any) -> dict[str, Any]:
    """Arrays of frames of one molecule, as MD17 and MD22 have them."""
    frames = [displaced_molecules(1, seed)[0] for seed in range(count)]
    labels = [pair_labels(atoms.positions) for atoms in frames]
    return {
        "z": frames[0].numbers,
        "R": np.stack([atoms.positions for atoms in frames]),
        "E": np.array([[energy] for energy, _ in labels]),
        "F": np.stack([forces for _, forces in labels]),
        **more,
    }


def make_npz(folder: Path) -> None:
    """Frames of one molecule, and a ragged set."""
    np.savez(folder / "fixed.npz", **fixed_arrays())

    # structures of several sizes, end to end
    frames = displaced_molecules(5)
    labels = [pair_labels(atoms.positions) for atoms in frames]
    np.savez(
        folder / "ragged.npz",
        n_atoms=np.array([len(atoms) for atoms in frames]),
        Z=np.concatenate([atoms.numbers for atoms in frames]),
        R=np.concatenate([atoms.positions for atoms in frames]),
        E=np.array([energy for energy, _ in labels]),
        F=np.concatenate([forces for _, forces in labels]),
        charge=np.zeros(5),
        theory=np.array("made up"),
    )


def make_published_npz(folder: Path) -> None:
    """Files in the layouts of MD17 and MD22."""
    units = {"e_unit": np.array("kcal/mol"), "r_unit": np.array("Ang")}
    np.savez(folder / "md17.npz", **fixed_arrays(name=np.array("made up"), **units))
    np.savez(folder / "md22.npz", **fixed_arrays(**units))


def read_published_npz(folder: Path) -> Any:
    """By the name of the file."""
    path = only_file(folder)
    return read_md17(path) if path.stem == "md17" else read_md22(path)


def make_trajectories(folder: Path) -> None:
    """Frames of one molecule in three formats."""
    frames = [displaced_molecules(1, seed)[0] for seed in range(4)]
    for suffix in ("extxyz", "traj"):
        ase.io.write(folder / f"frames.{suffix}", frames)
    np.savez(folder / "frames.npz", **fixed_arrays())


def read_trajectory(folder: Path) -> Any:
    """Frames, and where ASE reads the file, its structures."""
    path = only_file(folder)
    frames = read_frames(path)
    if path.suffix == ".npz":
        return frames
    return [frames, [atoms.positions for atoms in read_structures(path)]]


# ---- molecules of QM9


def _mol_block(place: int, atoms: Any) -> str:
    rows = [f"gdb_{place + 1}", "  made up", ""]
    rows += [f"{len(atoms):3d}{len(atoms) - 1:3d}  0  0  0  0  0  0  0  0999 V2000"]
    for number, point in zip(atoms.numbers, atoms.positions, strict=True):
        rows.append("".join(f"{x:10.4f}" for x in point) + f" {chemical_symbols[number]:<3} 0  0")
    rows += [f"  1{other:3d}  1  0" for other in range(2, len(atoms) + 1)]
    return "\n".join([*rows, "M  END", "$$$$", ""])


def _sdf_and_table() -> tuple[str, str]:
    frames = displaced_molecules(4)
    sdf = "".join(_mol_block(place, atoms) for place, atoms in enumerate(frames))
    head = "mol_id,A,B,C,mu,alpha,homo,lumo,gap,r2,zpve,u0,u298,h298,g298,cv"
    row = "157.7,157.7,157.7,0.1,13.21,-0.3877,0.1171,0.5048,35.36,0.0447,-40.47,-40.47,-40.47"
    rows = [f"gdb_{place + 1},{row},-40.49,6.469" for place in range(len(frames))]
    return sdf, "\n".join([head, *rows, ""])


def make_sdf(folder: Path) -> None:
    """An sdf with its table."""
    sdf, table = _sdf_and_table()
    (folder / "pair").mkdir()
    (folder / "pair" / "g.sdf").write_text(sdf)
    (folder / "pair" / "g.sdf.csv").write_text(table)


def read_sdf_pair(folder: Path) -> Any:
    """The molecules, their bonds and the report."""
    structures, bonds, report = read_sdf(folder / "g.sdf")
    return [structures, bonds, repr(report)]


def _qm9_xyz(place: int, atoms: Any) -> str:
    values = "\t".join(["0.5"] * 15)
    lines = [str(len(atoms)), f"gdb {place + 1}\t{values}"]
    for number, (x, y, z) in zip(atoms.numbers, atoms.positions, strict=True):
        lines.append(f"{chemical_symbols[number]}\t{x:.8f}\t{y:.8f}\t{z:.8f}\t-0.1")
    frequencies = "\t".join(["1234.5"] * (3 * len(atoms) - 6))
    return "\n".join([*lines, frequencies, "C\tC\t", "InChI=1S/x\tInChI=1S/x", ""])


def _write_tar(path: Path, texts: dict[str, str], mode: str) -> None:
    with tarfile.open(path, mode) as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def make_archives(folder: Path) -> None:
    """QM9 as an archive of xyz files, and as an archive of the sdf; packed and not."""
    frames = displaced_molecules(4)
    texts = {f"m_{place}.xyz": _qm9_xyz(place, atoms) for place, atoms in enumerate(frames)}
    _write_tar(folder / "xyz.tar", texts, "w")
    _write_tar(folder / "xyz.tar.bz2", texts, "w:bz2")
    sdf, table = _sdf_and_table()
    _write_tar(folder / "gdb9.tar", {"gdb9.sdf": sdf, "gdb9.sdf.csv": table}, "w")
    _write_tar(folder / "gdb9.tar.gz", {"gdb9.sdf": sdf, "gdb9.sdf.csv": table}, "w:gz")


def read_qm9_archive(folder: Path) -> Any:
    """By the name of the archive."""
    path = only_file(folder)
    read = read_archive if path.name.startswith("xyz") else read_sdf
    structures, bonds, report = read(path)
    return [structures, bonds, repr(report)]


def make_qm9_npz(folder: Path) -> None:
    """A ragged file, and one in the layout of DGL's edition."""
    frames = displaced_molecules(5)
    counts = np.array([len(atoms) for atoms in frames])
    numbers = np.concatenate([atoms.numbers for atoms in frames])
    positions = np.concatenate([atoms.positions for atoms in frames])
    properties = {"mu": np.ones(5), "alpha": 10 * np.ones(5)}
    np.savez(folder / "ragged.npz", n_atoms=counts, Z=numbers, R=positions, **properties)

    # every atom is bound to the first one, in both directions
    ends = [[(0, other) for other in range(1, count)] for count in counts]
    both = [pair for one in ends for pair in [*one, *(pair[::-1] for pair in one)]]
    src, dst = np.array(both).T
    features = np.zeros((len(numbers), 11))
    features[np.arange(len(numbers)), np.searchsorted((1, 6, 7, 8, 9), numbers)] = 1
    features[:, 5] = numbers
    np.savez(
        folder / "edges.npz",
        n_node=counts,
        n_edge=2 * (counts - 1),
        node_attr=features,
        node_pos=positions.astype(np.float32),
        edge_attr=np.eye(4)[np.zeros(len(src), int)],
        src=src,
        dst=dst,
        targets=_dgl_targets(numbers, counts).astype(np.float32),
    )


def _dgl_targets(numbers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Properties in the order of DGL's table (molecules, 19): each molecule is bound by 3 eV."""
    columns = {name: np.ones(len(counts)) for name in TABLE}
    for name, atomised in ATOMISED.items():
        columns[atomised] = np.full(len(counts), -3.0)
        columns[name] = free_atom_energy(name, numbers, counts) * DGL_HARTREE / HARTREE - 3.0
    return np.stack([columns[name] for name in TABLE], 1)


def read_qm9_npz(folder: Path) -> Any:
    """By the name of the file."""
    path = only_file(folder)
    read = read_ragged if path.stem == "ragged" else read_edge_npz
    structures, bonds, report = read(path)
    return [structures, bonds, repr(report)]


def make_lists(folder: Path) -> None:
    """A file of index lists, and the list of molecules of QM9 that are left out."""
    parts = np.split(np.arange(STRUCTURES), [20, 25])
    np.savez(folder / "split.npz", train=parts[0], val=parts[1], test=parts[2])
    lines = [f"{7 * number + 1}  C  C" for number in range(UNCHARACTERISED_COUNT)]
    (folder / "list.txt").write_text("\n".join(lines))


def read_list(folder: Path) -> Any:
    """By the suffix of the file."""
    path = only_file(folder)
    if path.suffix == ".txt":
        return read_uncharacterised(path)
    return make_split("file", STRUCTURES, "hash", SplitOptions(path=str(path)))
