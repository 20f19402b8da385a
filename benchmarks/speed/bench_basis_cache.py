"""Basis cache: size on disk, and the time to have the basis of a batch, against copying ready
kernels from a memory-mapped file.

    python benchmarks/speed/bench_basis_cache.py
    python benchmarks/speed/bench_basis_cache.py --bodies 20 --rounds 101 --json basis_cache.json

A batch is 128 random graphs of the default N-body data (complete graphs, 5 bodies, degrees 0..3:
2560 directed edges). Rows:

    kernels    copy the 1092 numbers per directed edge of all kernels of degrees 0..3 from a warm
               memory map, laid out in one array
    16 arrays  the same numbers in one array per pair of degrees, as the public programs keep them
    float32    gather the packed frames of the cache; "ready" also expands them to the dense
               rotation that the network multiplies with
    float16    the same from a cache of half the size; "error" is the largest error of an entry of
               the rotation
    computed   no cache: the frames from positions
    harmonics  no cache and no frames: lengths and harmonics of degrees 0..2, which is all that an
               E2Former asks of the geometry

All rows take turns in one process, every round with another random batch; times are medians of CPU
milliseconds. The kernels are stored for ``--kernel-graphs`` graphs only (their numbers do not
matter here), their size is scaled to all graphs.
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
from farfield.dataloader.storage.files import write_json
from farfield.models.complete_graphs import complete_graphs
from farfield.models.edges import edge_vectors
from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.models.near_field.edge_geometry import NearFieldGeometry

LMAX, E2FORMER_LMAX = 3, 2
PAIRS = [(a, b) for a in range(LMAX + 1) for b in range(LMAX + 1)]
KERNEL_SIZES = [
    (2 * a + 1) * (2 * b + 1) * (2 * min(a, b) + 1) for a, b in PAIRS
]  # numbers per directed edge; 1092 in all
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


def make_kernels(path: Path, graphs: int, edges: int, numbers: int) -> torch.Tensor:
    """Memory map (graphs, edges, numbers) of float32 kernels."""
    kernels = np.lib.format.open_memmap(path, "w+", np.float32, (graphs, edges, numbers))
    kernels[:] = 1.0
    kernels.flush()
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def measure(folder: Path, options) -> list[dict]:
    """Rows of the table."""
    rng = np.random.default_rng(0)
    positions = rng.standard_normal((options.graphs, options.bodies, 3)).astype(np.float32)
    caches = make_caches(folder, positions)
    edges = options.bodies * (options.bodies - 1)
    kernel_graphs = min(options.kernel_graphs, options.graphs)
    kernels = make_kernels(folder / "all.npy", kernel_graphs, edges, sum(KERNEL_SIZES))
    by_pair = [
        make_kernels(folder / f"pair{index}.npy", kernel_graphs, edges, size)
        for index, size in enumerate(KERNEL_SIZES)
    ]
    batches = [
        rng.permutation(kernel_graphs)[: options.batch] for _ in range(options.rounds + WARM_UP)
    ]
    graph = complete_graphs(len(batches[0]), options.bodies)

    def compute(batch: np.ndarray) -> EdgeBasis:
        return EdgeBasis.from_vectors(
            edge_vectors(torch.from_numpy(positions[batch]).flatten(0, 1), graph), LMAX
        )

    def harmonics(batch: np.ndarray) -> torch.Tensor:
        points = torch.from_numpy(positions[batch]).flatten(0, 1)
        nothing = {"envelope": torch.zeros_like, "invariants": torch.zeros_like}
        return NearFieldGeometry.from_positions(graph, points, **nothing).harmonics(E2FORMER_LMAX)

    def task(function):
        turns = iter(batches)
        return lambda: function(next(turns))

    makers = {name: cache.gather for name, cache in caches.items()} | {"computed": compute}
    tasks = {"kernels": task(lambda batch: kernels.index_select(0, torch.from_numpy(batch)))}
    tasks["16 arrays"] = task(
        lambda batch: [part.index_select(0, torch.from_numpy(batch)) for part in by_pair]
    )
    tasks |= {f"{name} gather": task(maker) for name, maker in makers.items()}
    tasks |= {
        f"{name} ready": task(lambda batch, maker=maker: maker(batch).rotation())
        for name, maker in makers.items()
    }
    tasks["harmonics"] = task(harmonics)
    times = {
        name: 1e3 * statistics.median(each)
        for name, each in harness.interleave(tasks, options.rounds, warm_up=WARM_UP).items()
    }
    exact = compute(batches[0]).rotation()
    size = 4e-6 * options.graphs * edges * sum(KERNEL_SIZES)
    rows = [
        {"row": row, "size_mb": size, "gather_ms": times[row], "ready_ms": times[row]}
        for row in ("kernels", "16 arrays")
    ]
    rows.append({"row": "harmonics", "ready_ms": times["harmonics"]})
    for name, maker in makers.items():
        row = {"row": name, "size_mb": caches[name].num_bytes / 1e6 if name in caches else None}
        row |= {"gather_ms": times[f"{name} gather"], "ready_ms": times[f"{name} ready"]}
        rows.append(row | {"error": float((maker(batches[0]).rotation() - exact).abs().max())})
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
    if options.json:
        write_json(options.json, {"environment": report, "options": dict(options), "rows": rows})


def _rounded(row: dict) -> dict:
    style = {"size_mb": "{:.1f}", "gather_ms": "{:.2f}", "ready_ms": "{:.2f}", "error": "{:.1e}"}
    return {
        key: style[key].format(value) if key in style and value is not None else value
        for key, value in row.items()
    }


if __name__ == "__main__":
    run_script(main)
