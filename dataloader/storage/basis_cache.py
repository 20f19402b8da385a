"""Basis cache: the edge basis of every graph of a data set, computed once, memory-mapped, gathered
for any batch.

The frames of an edge (see models.near_field.edge_frames) serve both its directions, and its vector
gives their lowest degree, its length and the half-turn flag for a few multiplications. So an
undirected edge is one row: its vector and the packed numbers of the degrees 2 .. lmax, 3 + 43
numbers or 184 bytes at lmax 3 in float32. A folder is an array store (see
dataloader.storage.array_store) of

    vector.npy (edges, 3)   packed.npy (edges, numbers)   nodes.npy (graphs,)   edge_offsets.npy
                            (graphs + 1,)
    ends.npy (edges, 2)     node indices inside the graph, sorted; left out where the graph rule is
                            "complete"

The directed edges of a graph are ordered by (dst, src), as in all batches of this project. Whoever
asks for what the cache does not hold gets an error, never a wrong row: another data set, other
degrees or another graph rule, a truncated file, a flipped byte. A cache is of no use where
positions change from their stored values or need a gradient; :func:`why_unusable` says so.

float16 halves the file and rounds the frames by up to 2.4e-4 relative, which breaks equivariance at
that level; vectors stay float32. Cost: a gather copies the rows of each graph, which lie together;
both directions of an edge read the same one; opening reads the files once to verify them, or a
sample of them. Measured at the size of QM9: `benchmarks/speed/bench_qm9_cache.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from farfield.dataloader.storage import array_store, files
from farfield.dataloader.storage.files import REBUILD_HINT
from farfield.models.graph_ops import GraphIndex
from farfield.models.near_field.edge_frames import EdgeBasis, packed_frames, packed_size

FORMAT = 2
WHAT = "farfield basis cache"
ARRAYS = ("vector", "packed", "nodes", "edge_offsets")
DTYPES = ("float32", "float16")
COMPLETE = {"kind": "complete"}  # graph rule: every pair of nodes
EDGES_PER_STEP = 16384
GRAPHS_PER_STEP = 4096
FIRST = packed_size(1)  # packed numbers that the vector gives
ONE = np.array([1, -1], np.float32)  # and the half turn
SMALL = 1 << 16  # nodes of a batch up to which 16 bits number them
EMPTY = (np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, np.int64), np.zeros(0, np.int64))


class GraphEdges(NamedTuple):
    """Undirected edges of one graph: ``num_nodes``, ``ends`` (edges, 2) with a < b, ``vectors``
    (edges, 3) = x_b - x_a.
    """

    num_nodes: int
    ends: np.ndarray
    vectors: np.ndarray


@dataclasses.dataclass(frozen=True)
class CacheSettings:
    """What the rows depend on beside the data.

    lmax: largest degree. graph_rule: which pairs are edges, e.g. ``{"kind": "complete"}`` or
    ``{"kind": "cutoff", "cutoff": 5.0}``. dtype: of the packed frames. selection: which part of the
    data the graphs are, e.g. ``{"starts": [0]}``.
    """

    lmax: int
    graph_rule: dict
    dtype: str = "float32"
    selection: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.lmax < 1:
            raise ValueError(f"lmax of a basis cache must be >= 1, got {self.lmax}")
        if self.dtype not in DTYPES:
            raise ValueError(
                f"dtype of a basis cache must be one of {', '.join(DTYPES)}, got {self.dtype!r}"
            )

    @property
    def hash(self) -> str:
        return files.json_checksum(dataclasses.asdict(self))


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


def complete_pairs(nodes: int) -> np.ndarray:
    """Ends (nodes (nodes - 1) / 2, 2) of the undirected edges of a complete graph, in the order of
    the cache.
    """
    return np.stack(np.triu_indices(nodes, 1), 1)


class CachedEdges(NamedTuple):
    """Edges of a batch: their topology, their basis in its order, and ``rows`` (edges,), the
    undirected edges of the cache they are.
    """

    graph: GraphIndex
    basis: EdgeBasis
    rows: np.ndarray


class BasisCache:
    """An opened cache; see the top of the file. Made by :meth:`open`; pickles as a path, so that
    loader workers share the pages.
    """

    def __init__(self, folder: Path, manifest: dict):
        self.folder, self.manifest = folder, manifest
        self.settings = CacheSettings(**manifest["settings"])
        arrays = array_store.map_arrays(folder, manifest)
        self._vector, self._packed, self._ends = (
            arrays["vector"],
            arrays["packed"],
            arrays.get("ends"),
        )
        self._offsets, self._nodes = arrays["edge_offsets"], arrays["nodes"].astype(np.int64)

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
            vectors = self._pieces(self._vector, ids[first : first + GRAPHS_PER_STEP])
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
        """Basis of the directed edges of graphs ``graph_ids`` (graphs,), in the order of a batch of
        these graphs; float32.
        """
        ids = self._checked(graph_ids)
        return self._basis(ids, self._layout(ids))

    def topology(self, graph_ids) -> GraphIndex:
        """Topology of a batch of the graphs ``graph_ids`` (graphs,), edges in the order of
        :meth:`gather`.
        """
        ids = self._checked(graph_ids)
        return self._graph(ids, self._layout(ids))

    def batch(self, graph_ids, basis: bool = True) -> CachedEdges:
        """:meth:`topology` and :meth:`gather` (None without ``basis``) in one, and which rows of
        the cache the edges are.
        """
        ids = self._checked(graph_ids)
        layout = self._layout(ids)
        shift = self._offsets[ids] - _before(self._offsets[ids + 1] - self._offsets[ids])
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

    def _layout(self, ids: np.ndarray) -> _Layout:
        if self._ends is None:
            return _complete_layout(tuple(self._nodes[ids].tolist()))
        counts = self._offsets[ids + 1] - self._offsets[ids]
        return directed_edges(self._pieces(self._ends, ids), counts, self._nodes[ids])

    def _graph(self, ids: np.ndarray, layout: _Layout) -> GraphIndex:
        return GraphIndex(
            torch.from_numpy(layout.src),
            torch.from_numpy(layout.dst),
            torch.from_numpy(self._nodes[ids]),
        )

    def _basis(self, ids: np.ndarray, layout: _Layout) -> EdgeBasis:
        length, first, flipped = _first_degree(self._pieces(self._vector, ids))
        others = torch.from_numpy(self._pieces(self._packed, ids).astype(np.float32, copy=False))
        sizes = [packed_size(l) - packed_size(l - 1) for l in range(2, self.settings.lmax + 1)]
        rows = torch.from_numpy(layout.rows)
        length, flipped = (
            torch.from_numpy(values).index_select(0, rows) for values in (length, flipped)
        )
        packed = (torch.from_numpy(first), *others.split(sizes, -1))
        return EdgeBasis(length, packed, flipped ^ torch.from_numpy(layout.backward), rows)

    def _pieces(self, array: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Rows of the undirected edges of the graphs, one graph after the other: plain copies,
        since those of one graph lie together.
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
        """Compute the basis of ``graphs`` and write the cache ``folder`` (replaced if it is there);
        memory does not grow with the data.

        data_hash: identifies the data the graphs come from. progress: called with the number of
        graphs done since the last call. Raises ``ValueError`` for graphs that do not fit the
        settings or hold NaN.
        """
        with _writers(folder, settings, data_hash) as write:
            _write_graphs(write, graphs, settings, progress or (lambda done: None))
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
        with _writers(folder, parts[0].settings, data_hash) as write:
            edges = 0
            for part in parts:
                for name in write.keys() - {"edge_offsets"}:
                    write[name].append(
                        np.load(part.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                    )
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
        """Open a cache after checking that it is whole and is the one that is wanted.

        verify: ``"full"`` compares every block of every file with its checksum (1 GB/s),
        ``"sample"`` 16 blocks of each file, ``"sizes"`` only types and sizes. Raises
        ``FileNotFoundError`` or ``ValueError``: one line with the file and what to do.
        """
        manifest = array_store.read_manifest(folder, WHAT, FORMAT, ARRAYS, REBUILD_HINT)
        settings = manifest["settings"]
        if settings["lmax"] != lmax:
            raise ValueError(
                f"{folder} holds the basis of lmax {settings['lmax']}, wanted is lmax {lmax}; "
                f"{REBUILD_HINT} --lmax {lmax}"
            )
        if settings["graph_rule"] != graph_rule:
            raise ValueError(
                f"{folder} holds the edges of the graph rule {settings['graph_rule']}, wanted is "
                f"{graph_rule}; {REBUILD_HINT}"
            )
        array_store.check_data(folder, manifest, data_hash, REBUILD_HINT)
        array_store.check_arrays(folder, manifest, REBUILD_HINT, verify)
        return cls(Path(folder), manifest)


class _Layout(NamedTuple):
    """Directed edges of a batch: undirected edge of the batch, whether the edge runs against its
    stored direction a -> b, ends; and the number of directed edges of each graph.
    """

    rows: np.ndarray
    backward: np.ndarray
    src: np.ndarray
    dst: np.ndarray
    counts: np.ndarray


def _before(counts: np.ndarray) -> np.ndarray:
    """Sum of all counts before each."""
    return np.cumsum(counts) - counts


def directed_edges(ends: np.ndarray, counts: np.ndarray, nodes: np.ndarray) -> _Layout:
    """Both directions, sorted by (dst, src), of undirected edges that are sorted by (a, b) in each
    graph.

    ends (undirected edges, 2), counts of them (graphs,), nodes (graphs,). A node receives first
    from all before it (edges a -> b), then from all behind it (edges b -> a), both already in
    order, so that a stable sort by the receiving node is enough.
    """
    a, b = (ends.astype(np.int64) + np.repeat(_before(nodes), counts)[:, None]).T
    src, dst = np.concatenate([a, b]), np.concatenate([b, a])
    total = int(nodes.sum())
    order = np.argsort(
        dst.astype(np.uint16) if total <= SMALL else dst, kind="stable"
    )  # 16 bits: a radix sort, linear
    rows = np.where(order < len(a), order, order - len(a))
    return _Layout(rows, order >= len(a), src[order], dst[order], 2 * counts)


@functools.cache
def _complete_graph(nodes: int) -> _Layout:
    pairs = complete_pairs(nodes)
    return directed_edges(pairs, np.array([len(pairs)]), np.array([nodes]))


@functools.lru_cache(maxsize=16)
def _complete_layout(sizes: tuple[int, ...]) -> _Layout:
    """Layout of complete graphs of the given sizes: those of each, shifted."""
    graphs, nodes = [_complete_graph(size) for size in sizes], np.array(sizes, np.int64)
    counts = nodes * (nodes - 1)
    rows, backward, src, dst = (
        np.concatenate([empty, *(graph[k] for graph in graphs)]) for k, empty in enumerate(EMPTY)
    )
    first = np.repeat(_before(nodes), counts)
    return _Layout(
        rows + np.repeat(_before(counts // 2), counts), backward, src + first, dst + first, counts
    )


def _first_degree(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Length (edges,), packed numbers of the first degree (edges, 6) and half-turn flag (edges,) of
    vectors (edges, 3).

    As :func:`models.near_field.edge_frames.packed_frames` with lmax 1, ten times faster: columns
    instead of small matrices.
    """
    x, y, z = np.ascontiguousarray(vectors.T)
    length, flipped = np.sqrt(x * x + y * y + z * z), y < 0
    empty = length == 0
    inverse = np.where(flipped, ONE[1], ONE[0]) / np.where(empty, ONE[0], length)
    a, b, c = x * inverse, y * inverse, z * inverse
    scale = 1 / (1 + b)
    turn = a * scale
    packed = np.stack(
        (1 - a * turn, -a, -c * turn, b, c, 1 - c * c * scale), 1
    )  # upper triangle, row by row
    if empty.any():
        packed[empty] = 0.0  # no direction
    return length, packed, flipped


@contextlib.contextmanager
def _writers(
    folder: str | Path, settings: CacheSettings, data_hash: str
) -> Iterator[dict[str, files.NpyWriter]]:
    """Files of the cache ``folder``, to be filled by rows; ``edge_offsets`` has its zero."""
    shapes = {
        "vector": ((3,), "float32"),
        "packed": ((packed_size(settings.lmax) - FIRST,), settings.dtype),
    }
    shapes |= {"nodes": ((), "int32"), "edge_offsets": ((), "int64")}
    if settings.graph_rule != COMPLETE:
        shapes["ends"] = ((2,), "int32")
    content = dataclasses.asdict(settings)
    with (
        array_store.write_store(folder, WHAT, FORMAT, data_hash, content) as temporary,
        contextlib.ExitStack() as stack,
    ):
        write = {
            name: stack.enter_context(files.NpyWriter(temporary / f"{name}.npy", *shape))
            for name, shape in shapes.items()
        }
        write["edge_offsets"].append(np.zeros(1))
        yield write


def _write_graphs(
    write: dict,
    graphs: Iterable[GraphEdges],
    settings: CacheSettings,
    progress: Callable[[int], None],
):
    edges, done = 0, 0
    for group in _groups(graphs):
        for index, graph in enumerate(group, done):
            _check_graph(index, graph, settings)
        vectors = torch.from_numpy(np.concatenate([graph.vectors for graph in group])).float()
        write["vector"].append(vectors.numpy())
        _, packed, _ = packed_frames(
            vectors.double(), settings.lmax
        )  # of the vectors as they are stored
        write["packed"].append(torch.cat(packed, 1)[:, FIRST:].numpy())
        counts = np.array([len(graph.ends) for graph in group])
        write["edge_offsets"].append(edges + counts.cumsum())
        write["nodes"].append(np.array([graph.num_nodes for graph in group]))
        if "ends" in write:
            write["ends"].append(np.concatenate([graph.ends for graph in group]))
        edges, done = edges + int(counts.sum()), done + len(group)
        progress(len(group))


def _groups(graphs: Iterable[GraphEdges]) -> Iterator[list[GraphEdges]]:
    """Graphs in groups of about EDGES_PER_STEP edges, since one call for many edges is cheaper than
    many calls.
    """
    group, edges = [], 0
    for graph in graphs:
        group.append(graph)
        edges += len(graph.ends)
        if edges >= EDGES_PER_STEP:
            yield group
            group, edges = [], 0
    if group:
        yield group


def _check_graph(index: int, graph: GraphEdges, settings: CacheSettings):
    ends = np.asarray(graph.ends)
    if ends.shape != (len(graph.vectors), 2):
        raise ValueError(
            f"graph {index}: ends must be (edges, 2) beside vectors {graph.vectors.shape}, got "
            f"{ends.shape}"
        )
    if not np.isfinite(graph.vectors).all():
        raise ValueError(
            f"graph {index} has an edge vector that is not finite; correct the positions"
        )
    if settings.graph_rule == COMPLETE:
        if not np.array_equal(ends, complete_pairs(graph.num_nodes)):
            raise ValueError(
                f"graph {index}: the rule is 'complete', but {len(ends)} edges are not all pairs "
                f"of {graph.num_nodes} nodes"
            )
    elif len(ends) and not (
        ends.min() >= 0 and ends.max() < graph.num_nodes and (ends[:, 0] < ends[:, 1]).all()
    ):
        raise ValueError(
            f"graph {index}: edges must run from a to b with 0 <= a < b < {graph.num_nodes}"
        )
    elif (np.diff(ends[:, 0].astype(np.int64) * graph.num_nodes + ends[:, 1]) <= 0).any():
        raise ValueError(
            f"graph {index}: edges must be sorted by (a, b), each once; sort the {len(ends)} edges"
        )
