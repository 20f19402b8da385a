"""Molecules with properties in npz files: DGL's edition of QM9, and files of your own.

The arrays are described in dataloader.sources.qm9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from farfield.dataloader.chemistry.bonds import BondTable
from farfield.dataloader.sources import qm9
from farfield.dataloader.sources.download import RemoteFile
from farfield.dataloader.sources.qm9 import QM9_FORMS, QM9Form
from farfield.dataloader.sources.qm9_assembly import NUMBER, Molecules, Report, assemble
from farfield.dataloader.sources.qm9_targets import (
    ATOMISED,
    ELEMENTS,
    HARTREE,
    TABLE,
    TABLE_KCAL,
    TARGETS,
    free_atom_energy,
)
from farfield.dataloader.storage import files
from farfield.dataloader.structures import Structures

EDGE_FILE = RemoteFile("qm9_edge.npz", ("https://data.dgl.ai/dataset/qm9_edge.npz",))
EDGE_ARRAYS = ("n_node", "n_edge", "node_attr", "node_pos", "edge_attr", "src", "dst", "targets")
EDGE_HINT = f"download {EDGE_FILE.name} again"
DGL_HARTREE, DGL_KCAL = 27.2113825435, 0.04336414  # eV, what qm9_edge.npz was made with
MOST_SHIFT = 0.02  # eV by which U0 and U0_atom of a file in single precision may disagree
BOND_KIND_COUNT = 4

COUNTS, NUMBERS, POSITIONS, SMILES = "n_atoms", "Z", "R", "smiles"  # arrays of a file of your own
OWN_HINT = f"give an npz file with {COUNTS}, {NUMBERS}, {POSITIONS} and properties in QM9's units"


def read_ragged(
    path: str | Path, uncharacterised: np.ndarray | None = None
) -> tuple[Structures, BondTable | None, Report]:
    """Molecules of a ragged npz file; other arrays with one value a molecule are kept as they are.

    ``FileNotFoundError`` or ``ValueError`` with the file: damaged, an array that is missing or does
    not fit.
    """
    files.read_npz(path, (COUNTS, NUMBERS, POSITIONS), OWN_HINT)
    with np.load(path, allow_pickle=False) as archive:
        content = files.read_npz(path, archive.files, OWN_HINT)
    _check_numbers(path, content, (COUNTS, NUMBERS, POSITIONS), OWN_HINT)
    counts, numbers, positions = (content.pop(name) for name in (COUNTS, NUMBERS, POSITIONS))
    ids, smiles = content.pop(NUMBER, None), content.pop(SMILES, None)
    theory = str(content.pop("theory", ""))
    values = _take_properties(path, content)

    # shapes of everything that is used: molecules, atoms
    molecules, atoms = len(counts), int(counts.sum())
    expected = {"counts": (molecules,), NUMBERS: (atoms,), POSITIONS: (atoms, 3)}
    arrays = {"counts": counts, NUMBERS: numbers, POSITIONS: positions, **values}
    expected |= {name: (molecules, *TARGETS[name].shape) for name in values}
    for name, array in ((NUMBER, ids), (SMILES, smiles)):
        if array is not None:
            arrays[name], expected[name] = array, (molecules,)
    _check_shapes(path, arrays, expected, molecules, OWN_HINT)

    extra = {
        name: array
        for name, array in content.items()
        if array.shape[:1] == counts.shape and np.issubdtype(array.dtype, np.number)
    }
    try:
        return assemble(
            Molecules(
                source=str(path),
                atomic_numbers=numbers.astype(np.int64),
                positions=positions.astype(np.float64),
                counts=counts.astype(np.int64),
                values=values,
                ids=ids,
                smiles=smiles,
                extra=extra,
                theory=theory,
            ),
            uncharacterised,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _take_properties(path: str | Path, content: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Known properties in the project's units, taken out of ``content``."""
    values = {}
    for name, target in TARGETS.items():
        held = [key for key in target.keys if key in content]
        if len(held) > 1:
            raise ValueError(f"{path} has {' and '.join(held)} for {name}; keep one of them")
        if held:
            values[name] = target.factor * content.pop(held[0]).astype(np.float64)
    return values


def _check_numbers(
    path: str | Path, content: dict[str, np.ndarray], names: Iterable[str], hint: str
) -> None:
    for name in names:
        if content[name].dtype.kind not in "fiub":
            raise ValueError(f"{path}: {name} must be numbers, got {content[name].dtype}; {hint}")


def _check_shapes(
    path: str | Path,
    arrays: dict[str, np.ndarray],
    expected: dict[str, tuple[int, ...]],
    molecules: int,
    hint: str,
) -> None:
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(
                f"{path}: {name} must have the shape {shape} for {molecules} molecules, got "
                f"{arrays[name].shape}; {hint}"
            )


def read_edge_npz(
    path: str | Path, uncharacterised: np.ndarray | None = None
) -> tuple[Structures, BondTable, Report]:
    """Molecules and bonds of DGL's qm9_edge.npz.

    With ``uncharacterised`` the molecules get their numbers, which the file does not hold. Total
    energies of a file in single precision are made from its atomisation energies: 1e4 eV have steps
    of 1e-3 eV there. ``FileNotFoundError`` or ``ValueError`` with the file: damaged, arrays that do
    not fit, other units.
    """
    content = files.read_npz(path, EDGE_ARRAYS, EDGE_HINT)
    _check_numbers(path, content, EDGE_ARRAYS, EDGE_HINT)
    with files.naming(path, EDGE_HINT):
        return _edge_molecules(path, content, uncharacterised)


def _edge_molecules(
    path: str | Path, content: dict[str, np.ndarray], uncharacterised: np.ndarray | None
) -> tuple[Structures, BondTable, Report]:
    """The same, of arrays of numbers."""
    counts = content["n_node"].astype(np.int64).reshape(-1)
    edges = content["n_edge"].astype(np.int64).reshape(-1)
    atoms, total = int(counts.sum()), int(edges.sum())
    expected = {
        "node_pos": (atoms, 3),
        "src": (total,),
        "dst": (total,),
        "targets": (len(counts), len(TABLE)),
        "n_edge": counts.shape,
    }
    _check_shapes(path, content, expected, len(counts), EDGE_HINT)

    numbers = _edge_elements(path, content, atoms, total)
    bonds = _edge_bonds(path, content, counts, edges)
    values = _edge_values(path, content["targets"], numbers, counts)

    # without the uncharacterised ones, these are the molecules of QM9 in order
    ids = None
    if uncharacterised is not None and len(counts) == qm9.WHOLE_COUNT - qm9.UNCHARACTERISED_COUNT:
        ids = np.setdiff1d(np.arange(1, qm9.WHOLE_COUNT + 1), uncharacterised)
    positions = content["node_pos"].astype(np.float64)
    return assemble(
        Molecules(str(path), numbers, positions, counts, values, ids, bonds=bonds), uncharacterised
    )


def _edge_elements(path: str | Path, content: dict, atoms: int, edges: int) -> np.ndarray:
    """Atomic numbers (atoms,); ``ValueError`` unless atoms and edges are one-hot."""
    attributes = content["node_attr"]
    one_hot = attributes[:, : len(ELEMENTS)] if attributes.ndim == 2 else attributes
    kinds = content["edge_attr"].astype(bool)
    good_atoms = one_hot.shape == (atoms, len(ELEMENTS)) and (one_hot.sum(1) == 1).all()
    good_edges = kinds.shape == (edges, BOND_KIND_COUNT) and (kinds.sum(1) <= 1).all()
    if not (good_atoms and good_edges):
        raise ValueError(
            f"{path}: node_attr must start with one of {', '.join(ELEMENTS)} an atom, edge_attr "
            f"name one of {BOND_KIND_COUNT} kinds; {EDGE_HINT}"
        )
    return np.array(list(ELEMENTS.values()))[one_hot.argmax(1)]


def _edge_bonds(
    path: str | Path, content: dict, counts: np.ndarray, edges: np.ndarray
) -> BondTable:
    """Bonds of all molecules; ``ValueError`` for an atom outside its molecule."""
    structure = np.repeat(np.arange(len(counts)), edges)
    ends = np.stack([content["src"], content["dst"]], 1).astype(np.int64)
    if len(ends) and not (ends.min() >= 0 and (ends < counts[structure][:, None]).all()):
        raise ValueError(f"{path}: src and dst must be atoms inside their molecule; {EDGE_HINT}")
    one_hot = content["edge_attr"].astype(bool)
    kinds = np.where(one_hot.any(1), one_hot.argmax(1) + 1, 0)
    return BondTable.sorted(structure, ends, kinds, len(counts))


def _edge_values(
    path, table: np.ndarray, numbers: np.ndarray, counts: np.ndarray
) -> dict[str, np.ndarray]:
    """Columns of the table, energies in eV of today's constants.

    ``ValueError`` if total and atomisation energies disagree.
    """
    steps = {"hartree": HARTREE / DGL_HARTREE, "kcal/mol": TABLE_KCAL / DGL_KCAL}
    values = {
        name: steps.get(TARGETS[name].file_unit, 1.0) * table[:, column].astype(np.float64)
        for column, name in enumerate(TABLE)
    }

    for name, atomised in ATOMISED.items():
        whole = values[atomised] + free_atom_energy(name, numbers, counts)
        shift = np.abs(whole - values[name])
        if np.nanmax(shift, initial=0.0) > MOST_SHIFT:
            raise ValueError(
                f"{path}: {name} and {atomised} disagree by {np.nanmax(shift):.3g} eV (at most "
                f"{MOST_SHIFT}): not in eV?"
            )
        if table.dtype != np.float64:
            values[name] = whole
    return values


def _read_own(path: Path, uncharacterised: np.ndarray | None, progress: Callable) -> qm9.Read:
    return read_ragged(path, uncharacterised)


def _read_edges(path: Path, uncharacterised: np.ndarray | None, progress: Callable) -> qm9.Read:
    return read_edge_npz(path, uncharacterised)


QM9_FORMS.register("edge")(QM9Form(EDGE_FILE, _read_edges))
QM9_FORMS.register("npz")(QM9Form(None, _read_own))
