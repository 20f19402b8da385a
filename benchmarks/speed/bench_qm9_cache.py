"""Basis cache at the size of QM9: size on disk, time to build and to open, time to gather a batch,
error.

    # with qm9_props.npz and qm9_geometries.npz
    python -m benchmarks.speed.bench_qm9_cache --data-path FOLDER
    python -m benchmarks.speed.bench_qm9_cache --data-path FOLDER --graphs bonds --limit 10000 \\
        --workers 2 --json cache.json

The molecules of all ``--files`` (ragged npz, see dataloader.sources.qm9) are put together; caches
of degrees 0 .. 3 are built as preprocess_qm9 builds them. Columns:

    size, QM9     MB on disk with the bond kinds, and for the 133,885 molecules of QM9 by the number
                  of molecules
    build         wall seconds of ``--workers`` processes, bonds perceived from the geometry
    open, full    wall seconds to open the cache with 16 blocks of every file verified, and with
                  all; files are in the page cache
    first         CPU milliseconds to have topology, basis and bond kinds of a random batch, one
                  thread, when its pages are visited for the first time, as in a first epoch; again:
                  as in a later one; computed: basis from positions
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
from farfield.dataloader.storage.files import write_json
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
        help=f"some of {', '.join(GRAPH_RULES)}, with commas between",
    )
    bench.add("--cutoff", float, 5.0, above=0, help="Angstrom, of cutoff graphs")
    bench.add("--limit", int, None, low=1, help="only so many molecules (default all)")
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
    settings, kinds = CacheSettings(LMAX, rule), rule["kind"] != "cutoff"

    def bar(total, what):
        return progress_bar(total, desc=what, unit="molecule", unit_scale=True)

    build = wall_seconds(
        lambda: make_basis(folder, structures, None, settings, kinds, options.workers, bar)
    )
    data_hash = structures.data_hash

    def opened(verify: str):
        cache = BasisCache.open(
            folder / BASIS, data_hash=data_hash, lmax=LMAX, graph_rule=rule, verify=verify
        )
        return cache, open_bond_kinds(
            folder / BOND_KINDS, data_hash, rule, cache.num_edges, verify
        ) if kinds else None

    full, sample = wall_seconds(lambda: opened("full")), wall_seconds(lambda: opened("sample"))
    cache, bond_kinds = opened("sizes")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    row = {
        "graph": rule["kind"],
        "molecules": len(cache),
        "edges": cache.num_edges / len(cache),
        "size_mb": size,
    }
    row |= {
        "whole_mb": size * qm9.WHOLE_COUNT / len(cache),
        "build_s": build,
        "open_s": sample,
        "full_s": full,
    }
    return row | measure_batches(cache, bond_kinds, structures, options)


def measure_batches(
    cache: BasisCache, bond_kinds: np.ndarray | None, structures: Structures, options
) -> dict:
    """Times of batches and the largest error in them."""
    positions, rng = torch.from_numpy(centred_positions(structures)), np.random.default_rng(0)
    batches = [rng.permutation(len(cache))[: options.batch] for _ in range(options.rounds + 1)]
    graphs = [
        BasisCache(cache.folder, cache.manifest).topology(batch) for batch in batches
    ]  # by maps of its own: those of cache are new

    def vectors(batch, graph, dtype):
        atoms = rows_of(structures.offsets[batch], structures.counts[batch])
        return edge_vectors(positions.index_select(0, torch.from_numpy(atoms)).to(dtype), graph)

    def gather(batch):
        edges = cache.batch(batch)
        return edges, None if bond_kinds is None else bond_kinds[edges.rows]

    def visit(name: str) -> dict[str, list[float]]:
        gathered, computed = iter(batches), iter(zip(batches, graphs, strict=True))
        tasks = {name: lambda: gather(next(gathered))}
        tasks["computed"] = lambda: EdgeBasis.from_vectors(
            vectors(*next(computed), torch.float32), LMAX
        )
        return harness.interleave(tasks, options.rounds)

    times = visit("first") | visit(
        "again"
    )  # in both after a computation, which takes the cache of the processor
    error = 0.0
    for batch in batches[:3]:
        graph, basis, _ = cache.batch(batch)
        exact = EdgeBasis.from_vectors(vectors(batch, graph, torch.float64), LMAX)
        lengths = (basis.length - exact.length) / exact.length
        error = max(
            error,
            float(lengths.abs().max()),
            float((basis.rotation() - exact.rotation()).abs().max()),
        )
    return {f"{name}_ms": 1e3 * statistics.median(each) for name, each in times.items()} | {
        "error": error
    }


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    if options.json:
        harness.check_folder(options.json)
    rules = [graph_rule(kind, options.cutoff) for kind in options.graphs.split(",")]
    torch.set_num_threads(1)
    structures, rows = read_molecules(options), []
    for rule in rules:
        with tempfile.TemporaryDirectory(dir=options.work_path) as folder:
            rows.append(measure(Path(folder), structures, rule, options))
    report = harness.environment()
    print(harness.describe_environment(report))
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
    if options.json:
        write_json(options.json, {"environment": report, "options": dict(options), "rows": rows})


if __name__ == "__main__":
    run_script(main)
