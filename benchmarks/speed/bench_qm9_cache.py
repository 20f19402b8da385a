"""Basis cache at the size of QM9: size on disk, times to build, open and gather, errors.

    # with qm9_props.npz and qm9_geometries.npz in FOLDER
    python -m benchmarks.speed.bench_qm9_cache --data-path FOLDER
    python -m benchmarks.speed.bench_qm9_cache --data-path FOLDER --graphs bonds \\
        --limit 10000 --workers 2 --json cache.json

The molecules of all ``--files`` (ragged npz files, see dataloader/sources) are put together; caches
of degrees 0 .. 3 are built as preprocess_qm9 builds them. Columns:

    size, QM9     MB on disk with the bond kinds, and MB for the 133,885 molecules of QM9, by the
                  number of molecules
    build         wall seconds of ``--workers`` processes, bonds perceived from the geometry
    open, full    wall seconds to open the cache with 16 blocks of every file verified, and with
                  all blocks; files are in the page cache
    first, again  CPU milliseconds to have topology, basis and bond kinds of a random batch, one
                  thread: when its pages are visited for the first time, as in a first epoch, and
                  as in a later one
    computed      the same with the basis from positions
    error         largest difference of a length (relative) or an entry of the rotation from the
                  basis computed in float64, whole batches
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_qm9_cache.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import statistics
import tempfile
import time

from benchmarks import harness  # before torch: it sets the thread count

import numpy as np  # isort: skip
import torch

from farfield.common.command_line import OptionParser, run_script
from farfield.common.log import progress_bar
from farfield.dataloader.chemistry.molecule_graphs import GRAPH_RULES, graph_rule
from farfield.dataloader.datasets.property_data import (
    BASIS,
    BOND_KINDS,
    centred_positions,
    open_bond_kinds,
)
from farfield.dataloader.sources import qm9
from farfield.dataloader.sources.qm9_arrays import read_ragged
from farfield.dataloader.storage.basis_cache import BasisCache
from farfield.dataloader.storage.basis_rows import CacheSettings
from farfield.dataloader.structures import Structures, rows_of
from farfield.models.edges import edge_vectors
from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.preprocess.basis_shards import make_basis

LMAX = 3
BARS_MB = {"bonds": 900, "complete": 4000}  # what whole QM9 may take
COLUMNS = {
    "graph": "graph",
    "edges": "edges/mol",
    "size_mb": "size MB",
    "whole_mb": "QM9 MB",
    "build_s": "build s",
    "open_s": "open s",
    "full_s": "full s",
    "first_ms": "first ms",
    "again_ms": "again ms",
    "computed_ms": "computed ms",
    "error": "error",
}


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_qm9_cache", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--data-path", str, "data/raw", help="folder of the npz files")
    bench.add(
        "--files", str, "qm9_props.npz,qm9_geometries.npz", help="npz files, with commas between"
    )
    bench.add(
        "--graphs",
        str,
        "bonds,complete",
        help=f"comma list of {', '.join(GRAPH_RULES)}, or all",
    )
    bench.add("--cutoff", float, 5.0, above=0, help="reach of the edges of cutoff graphs, Angstrom")
    bench.add("--limit", int, None, low=1, help="number of molecules (default all)")

    # How it is measured.
    bench.add("--workers", int, 1, low=1, help="processes that build")
    bench.add("--batch", int, 128, low=1, help="molecules in a batch")
    bench.add("--rounds", int, 51, low=1, help="timed batches")
    bench.add("--work-path", str, None, help="folder for the caches (default: a temporary one)")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def read_molecules(options) -> Structures:
    """The molecules of all files, in order."""
    parts = [read_ragged(Path(options.data_path) / name)[0] for name in options.files.split(",")]
    for part in parts:
        part.names = None
    return Structures.concatenate(parts)[: options.limit]


def wall_seconds(function) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(folder: Path, structures: Structures, rule: dict, options) -> dict:
    """One row of the table."""
    with_kinds = rule["kind"] != "cutoff"

    def bar(total, what):
        return progress_bar(total, desc=what, unit="molecule", unit_scale=True)

    def build():
        settings = CacheSettings(LMAX, rule)
        make_basis(folder, structures, None, settings, with_kinds, options.workers, bar)

    def opened(verify: str):
        """The cache and the kinds of bonds, verified as told."""
        given = {"data_hash": structures.data_hash, "verify": verify}
        cache = BasisCache.open(folder / BASIS, lmax=LMAX, graph_rule=rule, **given)
        if not with_kinds:
            return cache, None
        path = folder / BOND_KINDS
        return cache, open_bond_kinds(path, structures.data_hash, rule, cache.num_edges, verify)

    build_seconds = wall_seconds(build)
    full_seconds = wall_seconds(lambda: opened("full"))
    open_seconds = wall_seconds(lambda: opened("sample"))
    cache, bond_kinds = opened("sizes")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    return {
        "graph": rule["kind"],
        "molecules": len(cache),
        "edges": cache.num_edges / len(cache),
        "size_mb": size,
        "whole_mb": size * qm9.WHOLE_COUNT / len(cache),
        "build_s": build_seconds,
        "open_s": open_seconds,
        "full_s": full_seconds,
        **measure_batches(cache, bond_kinds, structures, options),
    }


def measure_batches(
    cache: BasisCache, bond_kinds: np.ndarray | None, structures: Structures, options
) -> dict:
    """Times of batches and the largest error in them."""
    positions = torch.from_numpy(centred_positions(structures))
    rng = np.random.default_rng(0)
    batches = [rng.permutation(len(cache))[: options.batch] for _ in range(options.rounds + 1)]

    # Topology by maps of its own: the pages of ``cache`` are to be visited for the first time.
    other = BasisCache(cache.folder, cache.manifest)
    graphs = [other.topology(batch) for batch in batches]

    def vectors(batch, graph, dtype):
        atoms = rows_of(structures.offsets[batch], structures.counts[batch])
        return edge_vectors(positions.index_select(0, torch.from_numpy(atoms)).to(dtype), graph)

    def gather(batch):
        edges = cache.batch(batch)
        return edges, None if bond_kinds is None else bond_kinds[edges.rows]

    def compute(batch, graph):
        return EdgeBasis.from_vectors(vectors(batch, graph, torch.float32), LMAX)

    def visit(name: str) -> dict[str, list[float]]:
        """Every gathering follows a computation, which takes the processor's cache."""
        gathered, computed = iter(batches), iter(zip(batches, graphs, strict=True))
        tasks = {name: lambda: gather(next(gathered)), "computed": lambda: compute(*next(computed))}
        return harness.interleave(tasks, options.rounds)

    times = visit("first") | visit("again")
    row = {f"{name}_ms": 1e3 * statistics.median(each) for name, each in times.items()}

    row["error"] = 0.0
    for batch in batches[:3]:
        graph, basis, _ = cache.batch(batch)
        exact = EdgeBasis.from_vectors(vectors(batch, graph, torch.float64), LMAX)
        lengths = (basis.length - exact.length) / exact.length
        rotations = basis.rotation() - exact.rotation()
        row["error"] = max(row["error"], *(float(x.abs().max()) for x in (lengths, rotations)))
    return row


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    kinds = harness.chosen(options.graphs, GRAPH_RULES, "--graphs")
    report = harness.start(output=options.json)
    structures = read_molecules(options)
    rows = []
    for kind in kinds:
        with tempfile.TemporaryDirectory(dir=options.work_path) as folder:
            rule = graph_rule(kind, options.cutoff)
            rows.append(measure(Path(folder), structures, rule, options))

    print(
        f"{len(structures)} molecules of {structures.counts.mean():.2f} atoms, lmax {LMAX}, "
        f"batch of {options.batch}"
    )
    print(harness.table([row | {"error": f"{row['error']:.1e}"} for row in rows], COLUMNS))
    for row in rows:
        if row["graph"] in BARS_MB:
            print(
                f"whole QM9, {row['graph']} graphs: {row['whole_mb']:.0f} MB of "
                f"{BARS_MB[row['graph']]} MB"
            )
    harness.keep(options, report, rows=rows)


if __name__ == "__main__":
    run_script(main)
