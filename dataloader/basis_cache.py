"""Basis cache: the edge basis of every graph of a data set, computed once, memory-mapped, gathered for any batch.

The frames of an edge (see models.near_field.basis) serve both its directions, so an undirected edge is one row: its length, 49 packed
numbers (lmax 3) and a flag, 201 bytes in float32. A folder holds

    length.npy (edges,)   packed.npy (edges, numbers)   flipped.npy (edges,)   edge_offsets.npy (graphs + 1,)   nodes.npy (graphs,)
    ends.npy (edges, 2)   node indices inside the graph; left out where the graph rule is "complete"
    manifest.json         format, hash of the data, settings and their hash, and of each array shape, type and blockwise SHA-256

The directed edges of a graph are ordered by (dst, src), as in all batches of this project. Whoever asks for what the cache does not hold
gets an error, never a wrong row: another data set, other degrees or another graph rule, a truncated file, a flipped byte. A cache is of
no use where positions change from their stored values or need a gradient; :func:`why_unusable` says so.

float16 halves the file and rounds the frames by up to 2.4e-4 relative, which breaks equivariance at that level; lengths stay float32.
Cost: a gather is one copy of 49 numbers per directed edge; opening reads the files once to verify them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataloader import files
from models.graph_ops import GraphIndex
from models.near_field.basis import EdgeBasis, packed_frames, packed_size

FORMAT = 1
MANIFEST = "manifest.json"
ENTRIES = {"data_hash": str, "settings": dict, "block_bytes": int, "arrays": dict}  # of the manifest
ARRAYS = ("length", "packed", "flipped", "nodes", "edge_offsets")
DTYPES = ("float32", "float16")
COMPLETE = {"kind": "complete"}  # graph rule: every pair of nodes
MEND = "build it again: preprocess script, option --rebuild"
EDGES_PER_STEP = 16384

# how much of each array is compared with its checksums when a cache is opened: number of blocks -> blocks
VERIFY: dict[str, Callable[[int], Iterable[int]]] = {
    "full": range,
    "sample": lambda blocks: sorted({round(step * (blocks - 1) / 15) for step in range(16)} if blocks else ()),
    "sizes": lambda blocks: (),
}


class GraphEdges(NamedTuple):
    """Undirected edges of one graph: ``num_nodes``, ``ends`` (edges, 2) with a < b, ``vectors`` (edges, 3) = x_b - x_a."""

    num_nodes: int
    ends: np.ndarray
    vectors: np.ndarray


@dataclasses.dataclass(frozen=True)
class CacheSettings:
    """What the rows depend on beside the data.

    lmax: largest degree. graph_rule: which pairs are edges, e.g. ``{"kind": "complete"}`` or ``{"kind": "cutoff", "cutoff": 5.0}``.
    dtype: of the packed frames. selection: which part of the data the graphs are, e.g. ``{"starts": [0]}``.
    """

    lmax: int
    graph_rule: dict
    dtype: str = "float32"
    selection: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.lmax < 1:
            raise ValueError(f"lmax of a basis cache must be >= 1, got {self.lmax}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype of a basis cache must be one of {', '.join(DTYPES)}, got {self.dtype!r}")

    @property
    def hash(self) -> str:
        return files.json_checksum(dataclasses.asdict(self))


def why_unusable(*, rows_cached: bool = True, augmented: bool = False, position_gradient: bool = False) -> str | None:
    """Why a batch may not take its basis from a cache, or None if it may.

    rows_cached: the cache holds every graph of the batch (e.g. its start frames). augmented: positions are rotated, disturbed by noise or
    changed in any other way after they were read. position_gradient: something is differentiated with respect to positions.
    """
    reasons = (
        (augmented, "positions are changed after they were read (augmentation or noise)"),
        (position_gradient, "positions need a gradient, which cached numbers do not carry"),
        (not rows_cached, "graphs of the batch are not in the cache"),
    )
    return next((reason for holds, reason in reasons if holds), None)


def complete_pairs(nodes: int) -> np.ndarray:
    """Ends (nodes (nodes - 1) / 2, 2) of the undirected edges of a complete graph, in the order of the cache."""
    return np.stack(np.triu_indices(nodes, 1), 1)


class BasisCache:
    """An opened cache; see the top of the file. Made by :meth:`open`; pickles as a path, so that loader workers share the pages."""

    def __init__(self, folder: Path, manifest: dict):
        self.folder, self.manifest = folder, manifest
        self._map()

    def _map(self):
        self.settings = CacheSettings(**self.manifest["settings"])
        arrays = {}
        for name in self.manifest["arrays"]:  # copy on write: torch refuses read-only memory, and nothing is ever written
            arrays[name] = torch.from_numpy(np.load(self.folder / f"{name}.npy", mmap_mode="c", allow_pickle=False))
        self._length, self._packed, self._flipped = arrays["length"], arrays["packed"], arrays["flipped"]
        self._offsets, self._nodes, self._ends = arrays["edge_offsets"], arrays["nodes"].long(), arrays.get("ends")
        same = self._ends is None and len(self._nodes) > 0 and bool((self._nodes == self._nodes[0]).all())
        self._nodes_of_all = int(self._nodes[0]) if same else None  # complete graphs of one size: the layout is known beforehand

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
        return len(self._length)

    @property
    def data_hash(self) -> str:
        return self.manifest["data_hash"]

    @property
    def num_bytes(self) -> int:
        """Size of the folder on disk."""
        return sum(file.stat().st_size for file in self.folder.iterdir())

    def gather(self, graph_ids) -> EdgeBasis:
        """Basis of the directed edges of graphs ``graph_ids`` (graphs,), in the order of a batch of these graphs; float32."""
        layout = self._layout(graph_ids)
        packed = self._packed.index_select(0, layout.rows)
        flipped = self._flipped.index_select(0, layout.rows).bool() ^ layout.backward
        return EdgeBasis(self._length.index_select(0, layout.rows), packed.float(), flipped, self.settings.lmax)

    def topology(self, graph_ids) -> GraphIndex:
        """Topology of a batch of the graphs ``graph_ids`` (graphs,), edges in the order of :meth:`gather`."""
        layout = self._layout(graph_ids)
        return GraphIndex(layout.src, layout.dst, layout.nodes)

    def _layout(self, graph_ids) -> _Layout:
        ids = torch.as_tensor(np.asarray(graph_ids, dtype=np.int64)).view(-1)
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(self):
            raise IndexError(f"graphs of {self.folder} are 0 .. {len(self) - 1}, got {int(ids.min())} .. {int(ids.max())}")
        if self._nodes_of_all is not None:
            layout = _uniform_layout(len(ids), self._nodes_of_all)
            rows = self._offsets.index_select(0, ids).view(-1, 1) + layout.rows
            return layout._replace(rows=rows.flatten())
        nodes = self._nodes.index_select(0, ids)
        first, last = self._offsets[ids], self._offsets[ids + 1]
        counts = last - first
        before = counts.cumsum(0) - counts
        rows = torch.arange(int(counts.sum())) + torch.repeat_interleave(first - before, counts)
        ends = self._ends.index_select(0, rows).long() if self._ends is not None else _complete_ends(nodes)
        ends = ends + torch.repeat_interleave(nodes.cumsum(0) - nodes, counts).unsqueeze(1)
        return _directed(rows, ends, nodes)

    @classmethod
    def build(
        cls,
        folder: str | Path,
        graphs: Iterable[GraphEdges],
        settings: CacheSettings,
        data_hash: str,
        progress: Callable[[int], None] | None = None,
    ) -> BasisCache:
        """Compute the basis of ``graphs`` and write the cache ``folder`` (replaced if it is there); memory does not grow with the data.

        data_hash: identifies the data the graphs come from. progress: called with the number of graphs done since the last call.
        Raises ``ValueError`` for graphs that do not fit the settings or hold NaN.
        """
        folder = Path(folder)
        with files.atomic_folder(folder) as temporary:
            _write_arrays(temporary, graphs, settings, progress or (lambda done: None))
            manifest = {
                "what": "farfield basis cache",
                "format": FORMAT,
                "data_hash": data_hash,
                "settings": dataclasses.asdict(settings),
                "settings_hash": settings.hash,
                "block_bytes": files.BLOCK_BYTES,
                "arrays": {file.stem: _describe(file) for file in sorted(temporary.glob("*.npy"))},
            }
            files.write_json(temporary / MANIFEST, manifest | {"checksum": files.json_checksum(manifest)})
        return cls(folder, _read_manifest(folder))

    @classmethod
    def open(cls, folder: str | Path, *, data_hash: str, lmax: int, graph_rule: dict, verify: str = "full") -> BasisCache:
        """Open a cache after checking that it is whole and is the one that is wanted.

        verify: ``"full"`` compares every block of every file with its checksum (1 GB/s), ``"sample"`` 16 blocks of each file,
        ``"sizes"`` only types and sizes. Raises ``FileNotFoundError`` or ``ValueError``: one line with the file and the mend.
        """
        if verify not in VERIFY:
            raise ValueError(f"verify must be one of {', '.join(VERIFY)}, got {verify!r}")
        folder = Path(folder)
        manifest = _read_manifest(folder)
        settings = manifest["settings"]
        if settings["lmax"] != lmax:
            raise ValueError(f"{folder} holds the basis of lmax {settings['lmax']}, wanted is lmax {lmax}; {MEND} --lmax {lmax}")
        if settings["graph_rule"] != graph_rule:
            raise ValueError(f"{folder} holds the edges of the graph rule {settings['graph_rule']}, wanted is {graph_rule}; {MEND}")
        if manifest["data_hash"] != data_hash:
            found, wanted = manifest["data_hash"][:12], data_hash[:12]
            raise ValueError(f"{folder} belongs to another data set (hash {found}..., the data here have {wanted}...); {MEND}")
        for name, description in manifest["arrays"].items():
            _check_file(folder / f"{name}.npy", description, manifest["block_bytes"], VERIFY[verify])
        return cls(folder, manifest)


class _Layout(NamedTuple):
    """Directed edges of a batch: row of the cache, whether the edge runs against the stored direction a -> b, ends, nodes per graph."""

    rows: Tensor
    backward: Tensor
    src: Tensor
    dst: Tensor
    nodes: Tensor


def _directed(rows: Tensor, ends: Tensor, nodes: Tensor) -> _Layout:
    """Both directions of undirected edges with ends (edges, 2), sorted by (dst, src)."""
    a, b = ends.unbind(1)
    src, dst = torch.cat([a, b]), torch.cat([b, a])
    order = torch.argsort(dst * int(nodes.sum()) + src, stable=True)
    backward = torch.arange(2) == 1
    backward = backward.repeat_interleave(len(rows))
    return _Layout(torch.cat([rows, rows])[order], backward[order], src[order], dst[order], nodes)


@functools.lru_cache(maxsize=16)
def _uniform_layout(graphs: int, nodes: int) -> _Layout:
    """Layout of equal complete graphs; ``rows`` are those of one graph, counted from its offset."""
    pairs = torch.from_numpy(complete_pairs(nodes))
    one = _directed(torch.arange(len(pairs)), pairs, torch.tensor([nodes]))
    first = torch.arange(graphs).view(-1, 1) * nodes
    ends = [(first + end).flatten() for end in (one.src, one.dst)]
    return _Layout(one.rows, one.backward.repeat(graphs), *ends, torch.full((graphs,), nodes))


def _complete_ends(nodes: Tensor) -> Tensor:
    return torch.from_numpy(np.concatenate([np.empty((0, 2), np.int64), *(complete_pairs(count) for count in nodes.tolist())]))


def _write_arrays(folder: Path, graphs: Iterable[GraphEdges], settings: CacheSettings, progress: Callable[[int], None]):
    shapes = {"length": ((), "float32"), "packed": ((packed_size(settings.lmax),), settings.dtype), "flipped": ((), "uint8")}
    shapes |= {"nodes": ((), "int32"), "edge_offsets": ((), "int64")}
    if settings.graph_rule != COMPLETE:
        shapes["ends"] = ((2,), "int32")
    with contextlib.ExitStack() as stack:
        write = {name: stack.enter_context(files.NpyWriter(folder / f"{name}.npy", *shape)) for name, shape in shapes.items()}
        write["edge_offsets"].append(np.zeros(1))
        edges, done = 0, 0
        for group in _groups(graphs):
            for index, graph in enumerate(group, done):
                _check_graph(index, graph, settings)
            vectors = torch.from_numpy(np.concatenate([graph.vectors for graph in group])).double()
            for name, values in zip(("length", "packed", "flipped"), packed_frames(vectors, settings.lmax), strict=True):
                write[name].append(values.numpy())
            counts = np.array([len(graph.ends) for graph in group])
            write["edge_offsets"].append(edges + counts.cumsum())
            write["nodes"].append(np.array([graph.num_nodes for graph in group]))
            if "ends" in write:
                write["ends"].append(np.concatenate([graph.ends for graph in group]))
            edges, done = edges + int(counts.sum()), done + len(group)
            progress(len(group))


def _groups(graphs: Iterable[GraphEdges]) -> Iterator[list[GraphEdges]]:
    """Graphs in groups of about EDGES_PER_STEP edges, since one call for many edges is cheaper than many calls."""
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
        raise ValueError(f"graph {index}: ends must be (edges, 2) beside vectors {graph.vectors.shape}, got {ends.shape}")
    if not np.isfinite(graph.vectors).all():
        raise ValueError(f"graph {index} has an edge vector that is not finite; mend the positions of the data")
    if settings.graph_rule == COMPLETE:
        if not np.array_equal(ends, complete_pairs(graph.num_nodes)):
            raise ValueError(f"graph {index}: the rule is 'complete', but {len(ends)} edges are not all pairs of {graph.num_nodes} nodes")
    elif len(ends) and not (ends.min() >= 0 and ends.max() < graph.num_nodes and (ends[:, 0] < ends[:, 1]).all()):
        raise ValueError(f"graph {index}: edges must run from a to b with 0 <= a < b < {graph.num_nodes}")


def _describe(file: Path) -> dict:
    array = np.load(file, mmap_mode="r")
    size = file.stat().st_size
    return {"shape": list(array.shape), "dtype": array.dtype.str, "bytes": size, "blocks": files.block_checksums(file)}


def _read_manifest(folder: Path) -> dict:
    """The manifest of a cache if it is whole and of this format."""
    path = folder / MANIFEST
    manifest = files.read_json(path, MEND)
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{path} has the format version {manifest.get('format')!r}, this program reads {FORMAT}; {MEND}")
    checksum = manifest.pop("checksum", None)
    if checksum != files.json_checksum(manifest):
        raise ValueError(f"{path} is damaged (its checksum does not fit); {MEND}")
    lacks = [name for name, kind in ENTRIES.items() if not isinstance(manifest.get(name), kind)]
    lacks = lacks or [f"array {name}" for name in ARRAYS if name not in manifest["arrays"]]
    if lacks:
        raise ValueError(f"{path} is of another program (it has no {lacks[0]}); {MEND}")
    return manifest


def _check_file(path: Path, description: dict, block_bytes: int, blocks_of: Callable[[int], Iterable[int]]):
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {MEND}")
    size = path.stat().st_size
    if size != description["bytes"]:
        raise ValueError(f"{path} is truncated or damaged: {size} bytes, {description['bytes']} were written; {MEND}")
    blocks = list(blocks_of(len(description["blocks"])))
    for block, found in zip(blocks, files.block_checksums(path, blocks, block_bytes), strict=True):
        if found != description["blocks"][block]:
            raise ValueError(f"{path} is damaged: block {block} (bytes {block * block_bytes} and on) has another checksum; {MEND}")
