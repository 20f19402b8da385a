"""Basis cache: its size, and the time to have the basis of a batch, against copying ready kernels.

    python -m benchmarks.speed.bench_basis_cache
    python -m benchmarks.speed.bench_basis_cache --bodies 20 --rounds 101 --json basis_cache.json

A batch is 128 random graphs of the default N-body data (complete graphs, 5 bodies, degrees 0..3:
2560 directed edges). Rows:

    kernels    copy the 1092 values per directed edge of all kernels of degrees 0..3 from a warm
               memory map, laid out in one array
    16 arrays  the same values in one array per pair of degrees, as the public programs keep them
    float32    gather the packed frames of the cache; "ready" also expands them to the dense
               rotation that the network multiplies with
    float16    the same from a cache of half the size; "error" is the largest error of an entry of
               the rotation
    computed   no cache: the frames from positions
    harmonics  no cache and no frames: lengths and harmonics of degrees 0..2, which is all that an
               E2Former needs of the geometry

All rows take turns in one process, every round with another random batch; times are medians of CPU
milliseconds. Kernels are stored for ``--kernel-graphs`` graphs only, because their values do not
matter here; their size is scaled to all graphs.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_basis_cache.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import statistics
import tempfile

from benchmarks import harness  # before torch: it sets the thread count

import numpy as np  # isort: skip
import torch

from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.storage.basis_cache import BasisCache
from farfield.dataloader.storage.basis_rows import CacheSettings
from farfield.dataloader.storage.edge_layout import COMPLETE, GraphEdges, complete_pairs
from farfield.models.complete_graphs import complete_graphs
from farfield.models.edges import edge_vectors
from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.models.near_field.edge_geometry import NearFieldGeometry

LMAX, E2FORMER_LMAX = 3, 2
PAIRS = [(a, b) for a in range(LMAX + 1) for b in range(LMAX + 1)]
# Values of each kernel on a directed edge; 1092 in all.
KERNEL_SIZES = [(2 * a + 1) * (2 * b + 1) * (2 * min(a, b) + 1) for a, b in PAIRS]
WARM_UP = 3
COLUMNS = {
    "row": "basis",
    "size_mb": "size MB",
    "gather_ms": "gather ms",
    "ready_ms": "ready ms",
    "error": "error",
}


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_basis_cache", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add(
        "--graphs",
        int,
        7000,
        low=1,
        help="graphs in the cache (5000 / 1000 / 1000 simulations, first frame)",
    )
    bench.add("--kernel-graphs", int, 1000, low=1, help="graphs whose kernels are written")
    bench.add("--bodies", int, 5, low=2, high=128, help="nodes of a graph")

    # The batches that take turns.
    bench.add("--batch", int, 128, low=1, help="graphs in a batch")
    bench.add("--rounds", int, 51, low=1, help="timed rounds")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def make_caches(folder: Path, positions: np.ndarray) -> dict[str, BasisCache]:
    """Caches of all types of complete graphs with ``positions`` (graphs, bodies, 3)."""
    pairs = complete_pairs(positions.shape[1])
    caches = {}
    for dtype in ("float32", "float16"):
        graphs = (
            GraphEdges(len(points), pairs, points[pairs[:, 1]] - points[pairs[:, 0]])
            for points in positions
        )
        caches[dtype] = BasisCache.build(
            folder / dtype, graphs, CacheSettings(LMAX, COMPLETE, dtype), data_hash="benchmark"
        )
    return caches


def make_kernels(path: Path, graphs: int, edges: int, size: int) -> torch.Tensor:
    """Memory map (graphs, edges, size) of float32 kernels."""
    kernels = np.lib.format.open_memmap(path, "w+", np.float32, (graphs, edges, size))
    kernels[:] = 1.0
    kernels.flush()
    return torch.from_numpy(np.load(path, mmap_mode="c"))


class Makers:
    """Every way to have something of a batch of graphs, as functions of the graphs' numbers."""

    def __init__(self, folder: Path, options, rng: np.random.Generator):
        shape = (options.graphs, options.bodies, 3)
        self.positions = rng.standard_normal(shape).astype(np.float32)
        self.caches = make_caches(folder, self.positions)
        self.kernel_graphs = min(options.kernel_graphs, options.graphs)
        self.edges = options.bodies * (options.bodies - 1)
        sizes = (self.kernel_graphs, self.edges)
        self.kernels = make_kernels(folder / "all.npy", *sizes, sum(KERNEL_SIZES))
        self.kernels_by_pair = [
            make_kernels(folder / f"pair{index}.npy", *sizes, size)
            for index, size in enumerate(KERNEL_SIZES)
        ]
        self.graph = complete_graphs(min(options.batch, self.kernel_graphs), options.bodies)

    def points(self, batch: np.ndarray) -> torch.Tensor:
        """Positions (nodes, 3)."""
        return torch.from_numpy(self.positions[batch]).flatten(0, 1)

    def copied(self, batch: np.ndarray) -> torch.Tensor:
        """Kernels from one array."""
        return self.kernels.index_select(0, torch.from_numpy(batch))

    def copied_by_pair(self, batch: np.ndarray) -> list[torch.Tensor]:
        """Kernels from one array per pair of degrees."""
        return [part.index_select(0, torch.from_numpy(batch)) for part in self.kernels_by_pair]

    def computed(self, batch: np.ndarray) -> EdgeBasis:
        """Frames from positions."""
        return EdgeBasis.from_vectors(edge_vectors(self.points(batch), self.graph), LMAX)

    def harmonics(self, batch: np.ndarray) -> torch.Tensor:
        """Lengths and harmonics from positions."""
        nothing = {"envelope": torch.zeros_like, "invariants": torch.zeros_like}
        geometry = NearFieldGeometry.from_positions(self.graph, self.points(batch), **nothing)
        return geometry.harmonics(E2FORMER_LMAX)


def measure(folder: Path, options) -> list[dict]:
    """Rows of the table."""
    rng = np.random.default_rng(0)
    makers = Makers(folder, options, rng)
    batches = [
        rng.permutation(makers.kernel_graphs)[: options.batch]
        for _ in range(options.rounds + WARM_UP)
    ]

    def task(function):
        """A call with the next batch: every task sees all batches, in the same order."""
        turns = iter(batches)
        return lambda: function(next(turns))

    bases = {name: cache.gather for name, cache in makers.caches.items()}
    bases["computed"] = makers.computed
    tasks = {"kernels": task(makers.copied), "16 arrays": task(makers.copied_by_pair)}
    for name, basis in bases.items():
        tasks[f"{name} gather"] = task(basis)
    for name, basis in bases.items():
        tasks[f"{name} ready"] = task(lambda batch, basis=basis: basis(batch).rotation())
    tasks["harmonics"] = task(makers.harmonics)
    found = harness.interleave(tasks, options.rounds, warm_up=WARM_UP)
    times = {name: 1e3 * statistics.median(each) for name, each in found.items()}

    size = 4e-6 * options.graphs * makers.edges * sum(KERNEL_SIZES)
    rows = [
        {"row": row, "size_mb": size, "gather_ms": times[row], "ready_ms": times[row]}
        for row in ("kernels", "16 arrays")
    ]
    rows.append({"row": "harmonics", "ready_ms": times["harmonics"]})
    exact = makers.computed(batches[0]).rotation()
    for name, basis in bases.items():
        cache = makers.caches.get(name)
        rows.append(
            {
                "row": name,
                "size_mb": cache.num_bytes / 1e6 if cache else None,
                "gather_ms": times[f"{name} gather"],
                "ready_ms": times[f"{name} ready"],
                "error": float((basis(batches[0]).rotation() - exact).abs().max()),
            }
        )
    return rows


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(output=options.json)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options)
    print(
        f"batch of {options.batch} complete graphs of {options.bodies} nodes, lmax {LMAX}; sizes "
        f"for {options.graphs} graphs"
    )
    print(harness.table([_rounded(row) for row in rows], COLUMNS))
    harness.keep(options, report, rows=rows)


def _rounded(row: dict) -> dict:
    """Values as text, each in its own style."""
    style = {"size_mb": "{:.1f}", "gather_ms": "{:.2f}", "ready_ms": "{:.2f}", "error": "{:.1e}"}
    return {
        key: style[key].format(value) if key in style and value is not None else value
        for key, value in row.items()
    }


if __name__ == "__main__":
    run_script(main)
