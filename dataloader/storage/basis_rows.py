"""Rows of a basis cache: what they depend on, and how they are computed and written.

A row is an undirected edge: its vector and the packed frames of the degrees 2 .. lmax (see
models.near_field.edge_frames). Length, half-turn flag and the first degree are computed from the
vector for every batch (:func:`first_degree`), which costs a few multiplications.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from farfield.dataloader.storage import array_store, files
from farfield.dataloader.storage.edge_layout import COMPLETE, GraphEdges, complete_pairs
from farfield.models.choices import check_choice
from farfield.models.near_field.edge_frames import packed_frames, packed_size

FORMAT = 2
WHAT = "farfield basis cache"
ARRAYS = ("vector", "packed", "nodes", "edge_offsets")
DTYPES = ("float32", "float16")
EDGES_PER_STEP = 16384  # whose frames are computed in one call
FIRST_DEGREE_SIZE = packed_size(1)  # packed values that the vector gives
SIGN = np.array([1, -1], np.float32)  # of the direction, without and with the half turn


@dataclasses.dataclass(frozen=True)
class CacheSettings:
    """What the rows depend on besides the data.

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
        check_choice("dtype of a basis cache", self.dtype, DTYPES)

    @property
    def hash(self) -> str:
        return files.json_checksum(dataclasses.asdict(self))


def first_degree(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Length (edges,), packed first degree (edges, 6) and half-turn flag (edges,) of vectors
    (edges, 3).

    The same values as :func:`models.near_field.edge_frames.packed_frames` with lmax 1, ten times
    faster: columns instead of small matrices.
    """
    x, y, z = np.ascontiguousarray(vectors.T)
    length, flipped = np.sqrt(x * x + y * y + z * z), y < 0

    # direction (a, b, c), turned by half a turn where y < 0; a vector of length 0 has none
    empty = length == 0
    inverse = np.where(flipped, SIGN[1], SIGN[0]) / np.where(empty, SIGN[0], length)
    a, b, c = x * inverse, y * inverse, z * inverse

    # upper triangle of the rotation that takes the direction to y, row by row
    scale = 1 / (1 + b)
    turn = a * scale
    packed = np.stack((1 - a * turn, -a, -c * turn, b, c, 1 - c * c * scale), 1)
    if empty.any():
        packed[empty] = 0.0
    return length, packed, flipped


@contextlib.contextmanager
def row_writers(
    folder: str | Path, settings: CacheSettings, data_hash: str
) -> Iterator[dict[str, files.NpyWriter]]:
    """Files of the cache ``folder``, to be filled by rows; ``edge_offsets`` has its zero."""
    packed = packed_size(settings.lmax) - FIRST_DEGREE_SIZE
    shapes = {
        "vector": ((3,), "float32"),
        "packed": ((packed,), settings.dtype),
        "nodes": ((), "int32"),
        "edge_offsets": ((), "int64"),
    }
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


def write_graphs(
    write: dict[str, files.NpyWriter],
    graphs: Iterable[GraphEdges],
    settings: CacheSettings,
    progress: Callable[[int], object],
) -> None:
    """Compute the rows of ``graphs`` and append them to the files.

    progress: called with the number of graphs done since the last call. ``ValueError`` for a graph
    that does not fit the settings.
    """
    edges = done = 0
    for group in _groups(graphs):
        for index, graph in enumerate(group, done):
            _check_graph(index, graph, settings)

        # frames of the vectors as they are stored, in float32
        vectors = torch.from_numpy(np.concatenate([graph.vectors for graph in group])).float()
        _, packed, _ = packed_frames(vectors.double(), settings.lmax)
        write["vector"].append(vectors.numpy())
        write["packed"].append(torch.cat(packed, 1)[:, FIRST_DEGREE_SIZE:].numpy())

        counts = np.array([len(graph.ends) for graph in group])
        write["edge_offsets"].append(edges + counts.cumsum())
        write["nodes"].append(np.array([graph.num_nodes for graph in group]))
        if "ends" in write:
            write["ends"].append(np.concatenate([graph.ends for graph in group]))
        edges += int(counts.sum())
        done += len(group)
        progress(len(group))


def _groups(graphs: Iterable[GraphEdges]) -> Iterator[list[GraphEdges]]:
    """Graphs in groups of about EDGES_PER_STEP edges: one call for many edges is cheaper than many
    calls.
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


def _check_graph(index: int, graph: GraphEdges, settings: CacheSettings) -> None:
    ends = np.asarray(graph.ends)
    if ends.shape != (len(graph.vectors), 2):
        raise ValueError(
            f"graph {index}: ends must be (edges, 2) for vectors {graph.vectors.shape}, got "
            f"{ends.shape}"
        )
    if not np.isfinite(graph.vectors).all():
        raise ValueError(
            f"graph {index} has an edge vector that is not finite; correct the positions"
        )

    if settings.graph_rule != COMPLETE:
        _check_ends(index, ends, graph.num_nodes)
    elif not np.array_equal(ends, complete_pairs(graph.num_nodes)):
        raise ValueError(
            f"graph {index}: the rule is 'complete', but {len(ends)} edges are not all pairs "
            f"of {graph.num_nodes} nodes"
        )


def _check_ends(index: int, ends: np.ndarray, nodes: int) -> None:
    """Edges run from a smaller to a larger node, sorted, each once."""
    if not len(ends):
        return
    if not (ends.min() >= 0 and ends.max() < nodes and (ends[:, 0] < ends[:, 1]).all()):
        raise ValueError(f"graph {index}: edges must run from a to b with 0 <= a < b < {nodes}")
    if (np.diff(ends[:, 0].astype(np.int64) * nodes + ends[:, 1]) <= 0).any():
        raise ValueError(
            f"graph {index}: edges must be sorted by (a, b), each once; sort the {len(ends)} edges"
        )
