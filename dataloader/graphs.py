"""Neighbour graphs of open and periodic structures, found once and gathered for any batch.

Edge j -> i for every atom i and every atom or image j != i with |x_i - x_j| < cutoff; the edge
vector is

    x_dst - x_src + image_shift @ cell,    image_shift integer,

as in models.edges.edge_vectors. An atom sees its own images, never itself. Edges
are sorted by (dst, src, image_shift), so a graph needs only the senders and the number of incoming
edges of each atom:

    src.npy           (edges,) index inside the graph
    degree.npy        (nodes,)
    nodes.npy         (graphs,)
    edge_offsets.npy  (graphs + 1,)
    shift.npy         (edges, 3), left out where all structures are open
    manifest.json     (see dataloader.storage.array_store)

Pairs are found by vesin (cell lists, linear cost): 0.1 ms for 9 atoms, 5 ms for 370. Its cells fill
the box around all atoms, so structures that are long along an open direction go by a k-d tree. A
gather is one copy of rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import vesin
from torch import Tensor

from farfield.dataloader.neighbor_tree import find_by_tree
from farfield.dataloader.storage import array_store, files
from farfield.dataloader.storage.files import REBUILD_HINT
from farfield.dataloader.structures import Structures, rows_of
from farfield.models.graph_ops import GraphIndex

FORMAT = 1
WHAT = "farfield neighbour graphs"
ARRAYS = ("src", "degree", "nodes", "edge_offsets")
STRUCTURES_PER_STEP = 512
LONG = 40  # cutoffs, above which a structure with an open direction goes by the tree
MOST_NODES_IN_16_BITS = np.iinfo(np.uint16).max


class Neighbors(NamedTuple):
    """Directed edges of one structure, sorted by (dst, src, shift).

    src, dst (edges,) int64. shift (edges, 3) int64.
    """

    src: np.ndarray
    dst: np.ndarray
    shift: np.ndarray


def check_cutoff(cutoff: float) -> float:
    """The cutoff as a float; ``ValueError`` unless it is finite and > 0."""
    if not (np.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"cutoff must be finite and > 0 Angstrom, got {cutoff}")
    return float(cutoff)


def find_neighbors(
    positions: np.ndarray,
    cutoff: float,
    cell: np.ndarray | None = None,
    periodic: np.ndarray | None = None,
) -> Neighbors:
    """Edges of one structure.

    positions (atoms, 3). cell (3, 3): lattice vectors in rows. periodic (3,) bool: which of them
    repeat. None: open.
    """
    return _find(_finder(cutoff), positions, cell, periodic)


def _finder(cutoff: float) -> vesin.NeighborList:
    return vesin.NeighborList(cutoff=check_cutoff(cutoff), full_list=True, n_threads=1)


def _find(finder: vesin.NeighborList, positions, cell, periodic) -> Neighbors:
    open_structure = periodic is None or not np.any(periodic)

    # vectors along which nothing repeats may be zero
    box = np.zeros((3, 3)) if open_structure else np.asarray(cell)
    repeats = np.zeros(3, bool) if open_structure else np.asarray(periodic, dtype=bool)
    if not repeats.all() and np.ptp(positions, axis=0).max() > LONG * finder.cutoff:
        src, dst, shift = find_by_tree(positions, finder.cutoff, box, repeats)
    else:
        # vesin: x_j - x_i + shift @ box for a pair (i, j)
        pairs, shift = finder.compute(positions, box, repeats, "PS")
        src, dst = pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)
    if open_structure:
        order = np.argsort(dst * len(positions) + src)
        return Neighbors(src[order], dst[order], np.zeros((len(src), 3), np.int64))
    shift = shift.astype(np.int64)
    order = np.lexsort((*shift.T[::-1], src, dst))
    return Neighbors(src[order], dst[order], shift[order])


class NeighborStore:
    """Neighbour graphs of a set of structures; made by :meth:`compute`, :meth:`build` or
    :meth:`open`.

    cutoff: Angstrom. len: number of graphs. num_edges: directed edges in all. edges_per_graph,
    nodes_per_graph: (graphs,) int64.
    """

    def __init__(self, arrays: dict[str, np.ndarray], cutoff: float):
        self.cutoff = cutoff
        self._src, self._degree, self._shift = arrays["src"], arrays["degree"], arrays.get("shift")
        self.nodes_per_graph = arrays["nodes"].astype(np.int64)
        self._edge_offsets = arrays["edge_offsets"].astype(np.int64)
        self._node_offsets = np.concatenate([[0], np.cumsum(self.nodes_per_graph)])
        self.edges_per_graph = np.diff(self._edge_offsets)

    def __len__(self) -> int:
        return len(self.nodes_per_graph)

    @property
    def num_edges(self) -> int:
        return len(self._src)

    @property
    def periodic(self) -> bool:
        """Whether some structure has images."""
        return self._shift is not None

    def gather(self, graph_ids: np.ndarray) -> tuple[GraphIndex, Tensor | None]:
        """Topology of the graphs ``graph_ids`` (graphs,) as a batch, and their image shifts.

        The shifts are (edges, 3) int32, or None where all structures are open.
        """
        ids = np.asarray(graph_ids, dtype=np.int64).reshape(-1)
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(f"graphs are 0 .. {len(self) - 1}, got {ids.min()} .. {ids.max()}")
        nodes, edges = self.nodes_per_graph[ids], self.edges_per_graph[ids]

        # senders count from the first node of their graph; receivers follow from the degrees
        edge_rows = rows_of(self._edge_offsets[ids], edges)
        src = self._src[edge_rows].astype(np.int64) + np.repeat(np.cumsum(nodes) - nodes, edges)
        degree = self._degree[rows_of(self._node_offsets[ids], nodes)].astype(np.int64)
        dst = np.repeat(np.arange(len(degree)), degree)
        graph = GraphIndex(torch.from_numpy(src), torch.from_numpy(dst), torch.from_numpy(nodes))

        if self._shift is None:
            return graph, None
        return graph, torch.from_numpy(self._shift[edge_rows].astype(np.int32))

    @classmethod
    def compute(
        cls,
        structures: Structures,
        cutoff: float,
        progress: Callable[[int], None] | None = None,
        images: bool = False,
    ) -> NeighborStore:
        """Graphs of ``structures`` in memory; for sets that are small or used once.

        images: keep the shifts of images, all zero, also where no structure repeats.
        """
        shifts = images or _has_images(structures)
        parts: dict[str, list[np.ndarray]] = {
            name: [np.zeros((0, *shape), kind)]
            for name, (shape, kind) in _layout(structures, shifts).items()
        }
        for rows in _graphs(structures, check_cutoff(cutoff), progress, shifts):
            for name, values in rows.items():
                parts[name].append(values.astype(parts[name][0].dtype))
        return cls({name: np.concatenate(values) for name, values in parts.items()}, float(cutoff))

    @classmethod
    def build(
        cls,
        folder: str | Path,
        structures: Structures,
        cutoff: float,
        progress: Callable[[int], None] | None = None,
    ) -> NeighborStore:
        """Find the graphs of ``structures`` and write the store ``folder``, replaced if it exists.

        Memory does not grow with the data. progress: called with the number of structures done
        since the last call.
        """
        settings = {"cutoff": check_cutoff(cutoff)}
        with (
            array_store.write_store(
                folder, WHAT, FORMAT, structures.data_hash, settings
            ) as temporary,
            contextlib.ExitStack() as stack,
        ):
            shifts = _has_images(structures)
            layout = _layout(structures, shifts).items()
            write = {
                name: stack.enter_context(files.NpyWriter(temporary / f"{name}.npy", *kind))
                for name, kind in layout
            }
            for rows in _graphs(structures, settings["cutoff"], progress, shifts):
                for name, values in rows.items():
                    write[name].append(values)
        return cls.open(folder, data_hash=structures.data_hash, cutoff=cutoff, verify="sizes")

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        data_hash: str,
        cutoff: float | None = None,
        verify: str = "full",
    ) -> NeighborStore:
        """Open a store after checking that it is whole and belongs to the data.

        cutoff: that the graphs must have, Angstrom (None: any). verify: "full", "sample" or "sizes"
        as in :meth:`BasisCache.open`. ``FileNotFoundError`` or ``ValueError``: one line with the
        file and what to do.
        """
        manifest = array_store.read_manifest(folder, WHAT, FORMAT, ARRAYS, REBUILD_HINT)
        found = manifest["settings"].get("cutoff")
        if cutoff is not None and found != cutoff:
            raise ValueError(
                f"{folder} holds the neighbours within {found} Angstrom, but {cutoff} is needed; "
                f"{REBUILD_HINT} --cutoff {cutoff}"
            )
        array_store.check_data(folder, manifest, data_hash, REBUILD_HINT)
        array_store.check_arrays(folder, manifest, REBUILD_HINT, verify)
        return cls(array_store.map_arrays(folder, manifest), found)


def _layout(structures: Structures, shifts: bool) -> dict[str, tuple[tuple, np.dtype]]:
    """Row shape and type of every array; shifts: of images are among them."""
    largest = int(structures.counts.max(initial=0))
    layout = {
        "src": ((), np.dtype(np.uint16 if largest <= MOST_NODES_IN_16_BITS else np.int32)),
        "degree": ((), np.dtype(np.int32)),
    }
    layout |= {"nodes": ((), np.dtype(np.int32)), "edge_offsets": ((), np.dtype(np.int64))}
    return layout | ({"shift": ((3,), np.dtype(np.int32))} if shifts else {})


def _has_images(structures: Structures) -> bool:
    return structures.periodic is not None and bool(structures.periodic.any())


def _graphs(
    structures: Structures, cutoff: float, progress: Callable[[int], None] | None, shifts: bool
) -> Iterator[dict[str, np.ndarray]]:
    """Rows of the arrays, some hundred structures at a time."""
    finder, edges = _finder(cutoff), 0
    yield {"edge_offsets": np.zeros(1, np.int64)}
    for first in range(0, len(structures), STRUCTURES_PER_STEP):
        group = structures[first : first + STRUCTURES_PER_STEP]
        found = [_find(finder, *_geometry(group, index)) for index in range(len(group))]

        # degree (nodes,): edges that each node receives
        degrees = [
            np.bincount(one.dst, minlength=count)
            for one, count in zip(found, group.counts, strict=True)
        ]
        counts = np.array([len(one.src) for one in found])
        rows = {
            "src": np.concatenate([one.src for one in found]),
            "degree": np.concatenate(degrees),
            "nodes": group.counts,
            "edge_offsets": edges + np.cumsum(counts),
        }
        if shifts:
            rows["shift"] = np.concatenate([one.shift for one in found])
        edges += int(counts.sum())
        yield rows
        if progress is not None:
            progress(len(group))


def _geometry(structures: Structures, index: int) -> tuple:
    first, last = structures.offsets[index], structures.offsets[index + 1]
    if structures.cell is None:
        return structures.positions[first:last], None, None
    return structures.positions[first:last], structures.cell[index], structures.periodic[index]
