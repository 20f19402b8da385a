"""Structures of ASE as batches for a network, without a preprocessed folder.

    batch = batch_from_atoms(read_structures("molecules.xyz"), cutoff=4.0)

Positions are centred (open structures) or moved into the cell (periodic ones) in float64 before
they are rounded: float32 resolves more near the origin. Pairs are found by vesin: 0.1 ms for 9
atoms, 5 ms for 370; everything else is linear in atoms and edges and cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.geometry import wrap_positions

from farfield.dataloader.chemistry.bonds import perceive_bonds
from farfield.dataloader.chemistry.molecule_graphs import molecule_graphs
from farfield.dataloader.datasets.property_data import BOND_KINDS, centred_positions
from farfield.dataloader.geometry_checks import check_geometry
from farfield.dataloader.graphs import Neighbors, find_neighbors
from farfield.dataloader.sources.extxyz_columns import check_columns
from farfield.dataloader.storage.edge_layout import directed_edges
from farfield.dataloader.structure_inputs import find_input, is_number
from farfield.dataloader.structures import Structures
from farfield.models.batch import AtomBatch
from farfield.models.elements import MAX_ATOMIC_NUMBER
from farfield.models.graph_ops import GraphIndex

MAX_REASON = 120  # characters of a reader's own message


def batch_from_atoms(
    atoms: Sequence[Atoms],
    cutoff: float,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    inputs: Sequence[str] = (),
    optional_inputs: Sequence[str] = (),
) -> AtomBatch:
    """One batch of all structures, with every pair closer than ``cutoff`` (Angstrom) as an edge.

    Directions that repeat are given by ``atoms.pbc``. A batch with at least one periodic structure
    has cells (graphs, 3, 3), zero for open structures. inputs: names of numbers in ``atoms.info``
    that become ``graph_features`` (total_charge, spin). optional_inputs: names that become so if
    the structures have them. Raises ValueError for a structure without atoms or without an input,
    for an optional input that only some structures have, and for positions or cells that are not
    finite.
    """
    check_structures(atoms)
    positions = [placed(one) for one in atoms]
    neighbors = [
        find_neighbors(points, cutoff, one.cell.array, one.pbc if one.pbc.any() else None)
        for points, one in zip(positions, atoms, strict=True)
    ]
    batch = joined_batch(atoms, positions, neighbors, cutoff, inputs, optional_inputs)
    return batch.to(device=device, dtype=dtype)


def joined_batch(
    atoms: Sequence[Atoms],
    positions: Sequence[np.ndarray],
    neighbors: Sequence[Neighbors],
    cutoff: float,
    inputs: Sequence[str] = (),
    optional_inputs: Sequence[str] = (),
) -> AtomBatch:
    """One batch, float64, of checked structures placed at ``positions`` (atoms, 3) with the edges
    ``neighbors``; the other arguments as of :func:`batch_from_atoms`.
    """
    any_periodic = any(one.pbc.any() for one in atoms)

    # nodes of all structures lie end to end, so indices of edges are shifted
    counts = np.array([len(one) for one in atoms])
    first = np.cumsum(counts) - counts
    src = [found.src + start for found, start in zip(neighbors, first, strict=True)]
    dst = [found.dst + start for found, start in zip(neighbors, first, strict=True)]
    graph = GraphIndex(_joined(src), _joined(dst), torch.from_numpy(counts))

    cell = periodic = shift = None
    if any_periodic:
        cell = torch.from_numpy(np.stack([_cell(one) for one in atoms]))
        periodic = torch.from_numpy(np.stack([one.pbc for one in atoms]))
        shift = _joined([found.shift.astype(np.int32) for found in neighbors])
    return AtomBatch(
        graph,
        positions=_joined(positions),
        atomic_numbers=_joined([one.numbers.astype(np.int64) for one in atoms]),
        cell=cell,
        periodic=periodic,
        image_shift=shift,
        graph_features=_inputs(atoms, inputs, optional_inputs),
        cutoff=float(cutoff),
    )


def inputs_held(atoms: Atoms, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the inputs ``names`` that ``atoms.info`` has, maybe under another name."""
    return tuple(name for name in names if find_input(atoms.info, name) is not None)


def _inputs(
    atoms: Sequence[Atoms], names: Sequence[str], optional: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Inputs of whole structures by name, the optional ones where the structures have them."""
    there = [name for name in optional if any(inputs_held(one, [name]) for one in atoms)]
    return {name: _input(atoms, name) for name in dict.fromkeys([*names, *there])}


def _input(atoms: Sequence[Atoms], name: str) -> torch.Tensor:
    """The number ``name`` in the info of every structure (graphs,) float64."""
    values = [find_input(one.info, name) for one in atoms]
    for index, value in enumerate(values):
        if not is_number(value):
            raise ValueError(
                f"structure {index} has no number atoms.info[{name!r}], which the network reads; "
                f"got {value!r}"
            )
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def molecule_batch_from_atoms(
    atoms: Sequence[Atoms],
    graph_rule: dict,
    bond_kinds: bool,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    inputs: Sequence[str] = (),
    optional_inputs: Sequence[str] = (),
) -> AtomBatch:
    """One batch of open molecules with the graphs of ``graph_rule``, as preprocess_qm9 makes them.

    graph_rule: see :mod:`farfield.dataloader.chemistry.molecule_graphs`. bond_kinds: whether edges
    carry the kind of their bond, found from the geometry. inputs, optional_inputs: as in
    :func:`batch_from_atoms`. Raises ValueError as that, and for periodic structures.
    """
    structures = structures_from_atoms(atoms)
    if structures.periodic is not None:
        raise ValueError(
            "properties are predicted of open molecules, got a periodic structure; set pbc = False"
        )

    # bonds are perceived only where the graph or the network reads them
    bonds = None
    if bond_kinds or graph_rule["kind"] == "bonds":
        bonds = perceive_bonds(structures)
    kinds: list[np.ndarray] | None = [] if bond_kinds else None
    ends = [graph.ends for graph in molecule_graphs(structures, bonds, graph_rule, kinds)]

    # both directions of every pair (edges, 2)
    pairs = np.concatenate(ends).reshape(-1, 2)
    edges = directed_edges(pairs, np.array([len(one) for one in ends]), structures.counts)
    graph = GraphIndex(
        torch.from_numpy(edges.src),
        torch.from_numpy(edges.dst),
        torch.from_numpy(structures.counts),
    )
    features = {}
    if kinds is not None:
        rows = np.concatenate(kinds)[edges.rows]
        features[BOND_KINDS] = torch.from_numpy(rows.astype(np.int64))
    rounded = np.float64 if dtype == torch.float64 else np.float32
    batch = AtomBatch(
        graph,
        positions=torch.from_numpy(centred_positions(structures, rounded)),
        atomic_numbers=torch.from_numpy(structures.atomic_numbers),
        edge_features=features,
        graph_features=_inputs(atoms, inputs, optional_inputs),
        cutoff=graph_rule.get("cutoff"),
    )
    return batch.to(device=device, dtype=dtype)


def structures_from_atoms(atoms: Sequence[Atoms]) -> Structures:
    """Geometry of ASE structures laid end to end; ValueError as :func:`batch_from_atoms`."""
    check_structures(atoms)
    cells = {}
    if any(one.pbc.any() for one in atoms):
        cells["cell"] = np.stack([_cell(one) for one in atoms])
        cells["periodic"] = np.stack([one.pbc for one in atoms])
    return Structures(
        atomic_numbers=np.concatenate([one.numbers for one in atoms]),
        positions=np.concatenate([one.positions for one in atoms]),
        counts=np.array([len(one) for one in atoms]),
        **cells,
    )


def read_structures(path: str | Path, index: int | str = ":", option: str = "--structure"):
    """Structures of any file that ASE reads: a list, or one of them for a whole number ``index``.

    option: how the user gave the file, for messages. Raises FileNotFoundError or ValueError in one
    line.
    """
    from ase.io import read  # half a second that other scripts do not wait for

    formats = "a file that ASE reads (xyz, extxyz, cif, ...)"
    if not Path(path).is_file():
        raise FileNotFoundError(f"{option} {path} does not exist; give {formats}")
    check_columns(path)
    try:
        # ASE gives the first structure where a count from the end is too large
        if isinstance(index, int) and index < 0:
            return read(path, index=":")[index]
        return read(path, index=index)
    except (IndexError, StopIteration):
        raise ValueError(
            f"{option} {path} has no structure {index}; give another --index"
        ) from None
    except Exception as error:  # the readers of ASE raise whatever they meet
        reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
        raise ValueError(f"{option} {path} cannot be read ({reason}); give {formats}") from None


def check_structures(atoms: Sequence[Atoms]) -> None:
    """Raise ValueError for a structure without atoms, with values that are not finite, or of a
    geometry that no network can read (geometry_checks.py).
    """
    if not len(atoms):
        raise ValueError("there are no structures; give at least one")

    for index, one in enumerate(atoms):
        name = "the structure" if len(atoms) == 1 else f"structure {index}"
        if not len(one):
            raise ValueError(f"{name} has no atoms; give at least one")
        if not ((one.numbers >= 1) & (one.numbers <= MAX_ATOMIC_NUMBER)).all():
            raise ValueError(
                f"atomic numbers of {name} must be in 1 .. {MAX_ATOMIC_NUMBER}, got "
                f"{one.numbers.min()} .. {one.numbers.max()}; correct the structure"
            )
        if not (np.isfinite(one.positions).all() and np.isfinite(one.cell.array).all()):
            raise ValueError(
                f"positions and cell of {name} must be finite, got nan or inf; correct the "
                "structure, or shorten the time step"
            )

    # the geometry is checked where all who read structures check it
    check_geometry(
        np.concatenate([one.positions for one in atoms]),
        np.array([len(one) for one in atoms]),
        np.stack([one.cell.array for one in atoms]),
        np.stack([one.pbc for one in atoms]),
    )


def placed(atoms: Atoms) -> np.ndarray:
    """Positions (atoms, 3) inside the cell, or around the origin where nothing repeats."""
    if atoms.pbc.any():
        return wrap_positions(atoms.positions, atoms.cell.array, atoms.pbc)
    return atoms.positions - atoms.positions.mean(0)


def _cell(atoms: Atoms) -> np.ndarray:
    return atoms.cell.array if atoms.pbc.any() else np.zeros((3, 3))


def _joined(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(arrays))
