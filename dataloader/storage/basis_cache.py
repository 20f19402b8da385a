"""Basis cache: the edge basis of every graph of a data set, computed once and memory-mapped.

The frames of an edge (see models.near_field.edge_frames) serve both its directions, and its vector
gives their lowest degree, its length and the half-turn flag for a few multiplications. So an
undirected edge is one row: its vector and the packed frames of the degrees 2 .. lmax, 3 + 43 values
or 184 bytes at lmax 3 in float32. A folder is an array store (see dataloader.storage.array_store)
of

    vector.npy        (edges, 3)
    packed.npy        (edges, values)
    nodes.npy         (graphs,)
    edge_offsets.npy  (graphs + 1,)
    ends.npy          (edges, 2) node indices inside the graph, sorted; left out where the graph
                      rule is "complete"

The directed edges of a graph are ordered by (dst, src), as in all batches of this project. A
request for what the cache does not hold is an error, never a wrong row: another data set, other
degrees or another graph rule, a truncated file, a flipped byte. A cache is of no use where
positions change from their stored values or need a gradient; :func:`why_unusable` says so.

float16 halves the file and rounds the frames by up to 2.4e-4 relative, which breaks equivariance at
that level; vectors stay float32. Cost: a gather copies the rows of each graph, which lie together;
both directions of an edge read the same one; opening reads the files once to verify them, or a
sample of them. Measured at the size of QM9: `benchmarks/speed/bench_qm9_cache.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from farfield.dataloader.storage import array_store
from farfield.dataloader.storage.basis_rows import (
    ARRAYS,
    FORMAT,
    WHAT,
    CacheSettings,
    first_degree,
    row_writers,
    write_graphs,
)
from farfield.dataloader.storage.edge_layout import (
    EdgeLayout,
    GraphEdges,
    before,
    complete_layout,
    directed_edges,
)
from farfield.dataloader.storage.files import REBUILD_HINT
from farfield.models.graph_ops import GraphIndex
from farfield.models.near_field.edge_frames import EdgeBasis, packed_size

GRAPHS_PER_STEP = 4096  # whose edge lengths are compared in one step


def why_unusable(
    *, rows_cached: bool = True, augmented: bool = False, position_gradient: bool = False
) -> str | None:
    """Why a batch may not take its basis from a cache, or None if it may.

    rows_cached: the cache holds every graph of the batch (e.g. its start frames). augmented:
    positions are rotated, disturbed by noise or changed in any other way after they were read.
    position_gradient: something is differentiated with respect to positions.
    """
    reasons = (
        (augmented, "positions are changed after they were read (augmentation or noise)"),
        (position_gradient, "positions need a gradient, which cached numbers do not carry"),
        (not rows_cached, "graphs of the batch are not in the cache"),
    )
    return next((reason for holds, reason in reasons if holds), None)


class CachedEdges(NamedTuple):
    """Edges of a batch: topology, basis in its order, and ``rows`` (edges,) in the cache."""

    graph: GraphIndex
    basis: EdgeBasis
    rows: np.ndarray


class BasisCache:
    """An opened cache; made by :meth:`open`.

    It is pickled as a path, so that the workers of a loader share the pages.
    """

    def __init__(self, folder: Path, manifest: dict):
        self.folder, self.manifest = folder, manifest
        self.settings = CacheSettings(**manifest["settings"])
        arrays = array_store.map_arrays(folder, manifest)
        self._vector = arrays["vector"]
        self._packed = arrays["packed"]
        self._ends = arrays.get("ends")
        self._offsets = arrays["edge_offsets"]
        self._nodes = arrays["nodes"].astype(np.int64)

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "manifest": self.manifest}

    def __setstate__(self, state: dict):
        self.__init__(**state)

    def __len__(self) -> int:
        """Number of graphs."""
        return len(self._nodes)

    @property
    def num_edges(self) -> int:
        """Number of undirected edges, i.e. rows."""
        return len(self._vector)

    @property
    def nodes_per_graph(self) -> np.ndarray:
        """(graphs,) int64"""
        return self._nodes

    @property
    def edges_per_graph(self) -> np.ndarray:
        """Undirected edges of each graph (graphs,) int64."""
        return np.diff(self._offsets)

    def longest_edge(self, graph_ids) -> float:
        """Length of the longest edge of the graphs ``graph_ids`` (graphs,); 0 without edges."""
        ids, squared = self._checked(graph_ids), 0.0
        for first in range(0, len(ids), GRAPHS_PER_STEP):
            vectors = self._edge_rows(self._vector, ids[first : first + GRAPHS_PER_STEP])
            squared = max(squared, float(np.square(vectors).sum(1).max(initial=0.0)))
        return squared**0.5

    @property
    def data_hash(self) -> str:
        return self.manifest["data_hash"]

    @property
    def num_bytes(self) -> int:
        """Size of the folder on disk."""
        return sum(file.stat().st_size for file in self.folder.iterdir())

    def gather(self, graph_ids) -> EdgeBasis:
        """Basis of the directed edges of the graphs ``graph_ids`` (graphs,), float32."""
        ids = self._checked(graph_ids)
        return self._basis(ids, self._layout(ids))

    def topology(self, graph_ids) -> GraphIndex:
        """Topology of the graphs ``graph_ids`` (graphs,), edges in the order of :meth:`gather`."""
        ids = self._checked(graph_ids)
        return self._graph(ids, self._layout(ids))

    def batch(self, graph_ids, basis: bool = True) -> CachedEdges:
        """:meth:`topology` and :meth:`gather` in one, and which rows of the cache the edges are.

        basis: whether it is gathered (else None).
        """
        ids = self._checked(graph_ids)
        layout = self._layout(ids)

        # rows count from the first edge of the batch; in the cache from the first edge of all
        shift = self._offsets[ids] - before(self._offsets[ids + 1] - self._offsets[ids])
        rows = layout.rows + np.repeat(shift, layout.counts)
        return CachedEdges(
            self._graph(ids, layout), self._basis(ids, layout) if basis else None, rows
        )

    def _checked(self, graph_ids) -> np.ndarray:
        ids = np.asarray(graph_ids, dtype=np.int64).reshape(-1)
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(
                f"graphs of {self.folder} are 0 .. {len(self) - 1}, got {ids.min()} .. {ids.max()}"
            )
        return ids

    def _layout(self, ids: np.ndarray) -> EdgeLayout:
        if self._ends is None:
            return complete_layout(tuple(self._nodes[ids].tolist()))
        counts = self._offsets[ids + 1] - self._offsets[ids]
        return directed_edges(self._edge_rows(self._ends, ids), counts, self._nodes[ids])

    def _graph(self, ids: np.ndarray, layout: EdgeLayout) -> GraphIndex:
        return GraphIndex(
            torch.from_numpy(layout.src),
            torch.from_numpy(layout.dst),
            torch.from_numpy(self._nodes[ids]),
        )

    def _basis(self, ids: np.ndarray, layout: EdgeLayout) -> EdgeBasis:
        length, first, flipped = first_degree(self._edge_rows(self._vector, ids))
        others = torch.from_numpy(self._edge_rows(self._packed, ids).astype(np.float32, copy=False))
        sizes = [packed_size(l) - packed_size(l - 1) for l in range(2, self.settings.lmax + 1)]

        # undirected edges serve both directions: length and flag are copied, frames are shared
        rows = torch.from_numpy(layout.rows)
        length, flipped = (
            torch.from_numpy(values).index_select(0, rows) for values in (length, flipped)
        )
        packed = (torch.from_numpy(first), *others.split(sizes, -1))
        return EdgeBasis(length, packed, flipped ^ torch.from_numpy(layout.backward), rows)

    def _edge_rows(self, array: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Rows of the undirected edges of the graphs, one graph after the other.

        Rows of one graph lie together, so these are plain copies.
        """
        ends = zip(self._offsets[ids].tolist(), self._offsets[ids + 1].tolist(), strict=True)
        return np.concatenate([array[:0], *(array[first:last] for first, last in ends)])

    @classmethod
    def build(
        cls,
        folder: str | Path,
        graphs: Iterable[GraphEdges],
        settings: CacheSettings,
        data_hash: str,
        progress: Callable[[int], None] | None = None,
    ) -> BasisCache:
        """Compute the basis of ``graphs`` and write the cache ``folder``, replaced if it exists.

        Memory does not grow with the data. data_hash: identifies the data the graphs come from.
        progress: called with the number of graphs done since the last call. ``ValueError`` for
        graphs that do not fit the settings or hold NaN.
        """
        with row_writers(folder, settings, data_hash) as write:
            write_graphs(write, graphs, settings, progress or (lambda done: None))
        return cls._opened(folder)

    @classmethod
    def concatenate(
        cls,
        folder: str | Path,
        parts: Sequence[BasisCache],
        data_hash: str,
        progress: Callable[[int], None] | None = None,
    ) -> BasisCache:
        """Write the cache ``folder`` of the graphs of all ``parts``, in order; equal to one build.

        ``ValueError`` for unequal settings.
        """
        if not parts or any(part.settings != parts[0].settings for part in parts):
            raise ValueError(
                f"{folder}: the {len(parts)} parts of a cache must have one and the same "
                "settings; build them again"
            )

        with row_writers(folder, parts[0].settings, data_hash) as write:
            edges = 0
            for part in parts:
                for name in write.keys() - {"edge_offsets"}:
                    file = part.folder / f"{name}.npy"
                    write[name].append(np.load(file, mmap_mode="r", allow_pickle=False))

                # edges are numbered through all parts
                write["edge_offsets"].append(edges + part._offsets[1:])
                edges += part.num_edges
                if progress is not None:
                    progress(len(part))
        return cls._opened(folder)

    @classmethod
    def _opened(cls, folder: str | Path) -> BasisCache:
        return cls(
            Path(folder), array_store.read_manifest(folder, WHAT, FORMAT, ARRAYS, REBUILD_HINT)
        )

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        data_hash: str,
        lmax: int,
        graph_rule: dict,
        verify: str = "full",
    ) -> BasisCache:
        """Open a cache after checking that it is whole and fits the data, lmax and graph rule.

        verify: ``"full"`` compares every block of every file with its checksum (1 GB/s),
        ``"sample"`` 16 blocks of each file, ``"sizes"`` only types and sizes. Raises
        ``FileNotFoundError`` or ``ValueError``: one line with the file and what to do.
        """
        manifest = array_store.read_manifest(folder, WHAT, FORMAT, ARRAYS, REBUILD_HINT)
        settings = manifest["settings"]
        if settings["lmax"] != lmax:
            raise ValueError(
                f"{folder} holds the basis of lmax {settings['lmax']}, but lmax {lmax} is needed; "
                f"{REBUILD_HINT} --lmax {lmax}"
            )
        if settings["graph_rule"] != graph_rule:
            raise ValueError(
                f"{folder} holds the edges of the graph rule {settings['graph_rule']}, but "
                f"{graph_rule} is needed; {REBUILD_HINT}"
            )
        array_store.check_data(folder, manifest, data_hash, REBUILD_HINT)
        array_store.check_arrays(folder, manifest, REBUILD_HINT, verify)
        return cls(Path(folder), manifest)
