"""Real molecules (ase's G2 geometries) with made-up labels, written in the forms in which QM9 is
published.
"""

import io
import tarfile
from pathlib import Path

import numpy as np
from ase import units as ase_units
from ase.build import molecule
from ase.data import chemical_symbols

from farfield.dataloader.chemistry.bonds import perceive
from farfield.dataloader.sources.qm9_targets import FREE_ATOMS, LINE, TABLE, TARGETS
from farfield.dataloader.structures import Structures

NAMES = (
    "CH4",
    "NH3",
    "H2O",
    "C2H2",
    "HCN",
    "H2CO",
    "C2H6",
    "CH3OH",
    "C3H4_C3v",
    "CH3CN",
    "C6H6",
    "C5H5N",
    "C4H4O",
    "CH3COF",
)
KCAL = 627.509


def molecules(names=NAMES) -> Structures:
    """Open structures of the named molecules."""
    atoms = [molecule(name) for name in names]
    return Structures(
        atomic_numbers=np.concatenate([one.numbers for one in atoms]),
        positions=np.concatenate([one.positions for one in atoms]),
        counts=np.array([len(one) for one in atoms]),
    )


def raw_labels(structures: Structures, seed=0) -> dict[str, np.ndarray]:
    """Values in the units of QM9's own files, with its number of digits; atomisation energies in
    kcal/mol.
    """
    rng = np.random.default_rng(seed)
    sizes = dict.fromkeys(("homo", "lumo", "gap", "zpve"), 0.5)
    values = {
        name: np.round(sizes.get(name, 90) * rng.uniform(0.01, 1, len(structures)), 4)
        for name in LINE
    }
    for name, free in FREE_ATOMS.items():
        atoms = np.array([free[number] for number in structures.atomic_numbers.tolist()])
        total = np.array([part.sum() for part in np.split(atoms, structures.offsets[1:-1])])
        values[name] = np.round(total - rng.uniform(0.1, 3, len(structures)), 6)
        values[f"{name}_atom"] = KCAL * (values[name] - total)
    return values


def xyz_text(structures: Structures, place: int, number: int, values: dict[str, np.ndarray]) -> str:
    """The file of one molecule."""
    rows = slice(*structures.offsets[place : place + 2])
    count = int(structures.counts[place])
    lines = [
        str(count),
        f"gdb {number}\t" + "".join(f"{values[name][place]:.6f}\t" for name in LINE),
    ]
    for z, (x, y, w) in zip(
        structures.atomic_numbers[rows], structures.positions[rows], strict=True
    ):
        lines.append(f"{chemical_symbols[z]}\t{x:.10f}\t {y:.10f}\t{w:.10f}\t-0.123456")
    lines += ["\t".join(["1234.5"] * (3 * count - 6)), f"C\tC{number}\t", "InChI=1S/x\tInChI=1S/x"]
    return "\n".join(lines) + "\n"


def write_archive(path: Path, texts: dict[str, str], mode="w:bz2"):
    """A tar file with the members ``texts``."""
    with tarfile.open(path, mode) as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def sdf_text(structures: Structures, ends, orders, counts, title="gdb_{}") -> str:
    """All molecules as an sdf with Kekulé bonds."""
    text, first = "", 0
    for place, bonds in enumerate(counts.tolist()):
        rows = slice(*structures.offsets[place : place + 2])
        text += (
            f"{title.format(place + 1)}\n  made "
            f"up\n\n{structures.counts[place]:3d}{bonds:3d}  0  0  0  0  0  0  0  0999 V2000\n"
        )
        for z, point in zip(
            structures.atomic_numbers[rows], structures.positions[rows], strict=True
        ):
            text += (
                "".join(f"{x:10.4f}" for x in point) + f" {chemical_symbols[z]:<3} 0  0  0  0  0\n"
            )
        for (a, b), order in zip(
            ends[first : first + bonds].tolist(),
            orders[first : first + bonds].tolist(),
            strict=True,
        ):
            text += f"{b + 1:3d}{a + 1:3d}{order:3d}  0  0  0  0\n"
        text += "M  END\n$$$$\n"
        first += bonds
    return text


def table_text(values: dict[str, np.ndarray]) -> str:
    """The table of properties beside the sdf."""
    names = (
        {name: name for name in values}
        | {name: f"{name.lower()}298" for name in "UHG"}
        | {"U0": "u0", "Cv": "cv"}
    )
    names |= {f"{name}_atom": f"{name.lower()}298_atom" for name in "UHG"} | {"U0_atom": "u0_atom"}
    rows = [",".join(["mol_id", *(names[name] for name in values)])]
    rows += [
        ",".join([f"gdb_{place + 1}", *(repr(float(values[name][place])) for name in values)])
        for place in range(len(values["U0"]))
    ]
    return "\n".join(rows) + "\n"


def edge_arrays(
    structures: Structures, ends, kinds, counts, values: dict[str, np.ndarray], dtype=np.float32
) -> dict[str, np.ndarray]:
    """What DGL's file holds: every bond in both directions, one-hot kinds, eV."""
    energies = ("homo", "lumo", "gap", "zpve", "U0", "U", "H", "G")
    factors = dict.fromkeys(energies, 27.2113825435) | {
        f"{name}_atom": 0.04336414 for name in FREE_ATOMS
    }
    attributes = np.zeros((structures.num_atoms, 11))
    attributes[
        np.arange(structures.num_atoms), np.searchsorted((1, 6, 7, 8, 9), structures.atomic_numbers)
    ] = 1
    attributes[:, 5] = structures.atomic_numbers
    first = np.cumsum(counts) - counts
    both = np.concatenate(
        [[*range(start, start + count)] * 2 for start, count in zip(first, counts, strict=True)]
    )
    turned = np.concatenate([[False] * count + [True] * count for count in counts])
    src, dst = np.where(turned, ends[both].T[::-1], ends[both].T)
    table = np.stack([factors.get(name, 1.0) * values[name] for name in TABLE], 1)
    return {
        "n_node": structures.counts,
        "n_edge": 2 * counts,
        "node_attr": attributes,
        "node_pos": structures.positions.astype(np.float32),
        "edge_attr": np.eye(5)[kinds[both]][:, 1:],
        "src": src,
        "dst": dst,
        "targets": table.astype(dtype),
    }


def labelled_molecules():
    """Molecules, their labels in the units of QM9's files, and their perceived bonds."""
    whole = molecules()
    return whole, raw_labels(whole), perceive(whole)


def assert_same(structures, whole, raw, positions=1e-9, energies=1e-9):
    """The structures are ``whole`` with the labels ``raw``, in the project's units."""
    assert np.array_equal(structures.atomic_numbers, whole.atomic_numbers)
    assert np.array_equal(structures.counts, whole.counts)
    assert np.abs(structures.positions - whole.positions).max() < positions
    assert structures.energy is None
    for name in TABLE:
        factor = {"hartree": ase_units.Hartree, "kcal/mol": ase_units.Hartree / 627.509}.get(
            TARGETS[name].file_unit, 1.0
        )
        assert structures.extra[name].dtype == np.float64
        assert np.abs(structures.extra[name] - factor * raw[name]).max() < energies * (
            1 if factor != 1 else 1e4
        ), name
