"""Training from one LMDB file of 10^6 molecules: time to open it and to the first shuffled batch,
share of the time that a training step waits for data, and memory.

    python -m benchmarks.speed.bench_lmdb
    python -m benchmarks.speed.bench_lmdb --structures 20000 --steps 40 --json lmdb.json

The file holds random chains of 5 to 13 atoms with energies and forces without meaning; it is made
first, some hundred bytes a molecule, and removed at the end. A fresh process then opens it, makes
the plan of a shuffled epoch and trains E2Former on its batches, with loader processes that
read structures and find neighbours. Times are wall seconds; memory is that of the training process
and of its loader processes, without the pages of the file, which the system takes back when it
needs them.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_lmdb.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import dataclasses
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from benchmarks import harness  # before torch: it sets the thread count

# isort: split
import torch

from farfield.common.command_line import OptionParser, run_script
from farfield.common.log import count_bar
from farfield.dataloader.batch_plan import BatchPlan
from farfield.dataloader.datasets.streamed_data import StreamedDataset
from farfield.dataloader.graphs import NeighborStore
from farfield.dataloader.prepared_folder import load_statistics
from farfield.dataloader.sampled_statistics import SAMPLE, SEED, sample_of, sampled_statistics
from farfield.dataloader.storage import files
from farfield.dataloader.storage.structure_lmdb import StructureLmdbWriter, fields_of
from farfield.dataloader.structures import Structures
from farfield.models.factory import build_model
from farfield.train.data_order import EpochLoader
from farfield.train.losses import StructureLoss
from farfield.train.tasks.energy_force_errors import errors_of

CUTOFF = 4.0  # Angstrom
BOND = 1.4  # Angstrom
SIZES = (5, 14)  # atoms of a chain, from and below
MOLECULES_PER_STEP = 5000
SHARES = {"train": 0.98, "val": 0.01, "test": 0.01}
COLUMNS = {"what": "what", "value": "value", "bar": "bar"}


def random_chains(count: int, rng: np.random.Generator) -> Structures:
    """Chains of H, C, N and O with steps of a bond length in random directions."""
    counts = rng.integers(*SIZES, count)
    atoms = int(counts.sum())
    steps = rng.standard_normal((atoms, 3))
    steps *= BOND / np.linalg.norm(steps, axis=1, keepdims=True)
    return Structures(
        atomic_numbers=rng.choice([1, 6, 7, 8], atoms),
        positions=np.cumsum(steps, axis=0),
        counts=counts,
        energy=-500.0 * counts + rng.standard_normal(count),
        forces=rng.standard_normal((atoms, 3)),
        check=False,
    )


def write_set(path: Path, count: int, seed: int = 0) -> None:
    """Write a file of ``count`` molecules, a few thousand in memory at a time."""
    rng, words = np.random.default_rng(seed), {"splits": {}, "hashes": {}, "summaries": {}}
    counts, edges, kept = [], [], []
    chosen = set(sample_of(round(SHARES["train"] * count)).tolist())

    with files.atomic_write(path) as temporary, count_bar(count, "write", "molecules") as bar:
        writer = StructureLmdbWriter(temporary, fields_of(random_chains(1, rng)))
        for split, share in SHARES.items():
            left = words["splits"][split] = round(share * count)
            words["hashes"][split] = files.json_checksum([split, count, seed])
            words["summaries"][split] = f"{left} random chains"
            while left:
                group = random_chains(min(left, MOLECULES_PER_STEP), rng)
                found = NeighborStore.compute(group, CUTOFF).edges_per_graph
                if split == "train":
                    first = sum(map(len, counts))
                    own = [place for place in range(len(group)) if first + place in chosen]
                    kept.append(group[own])
                    edges.append(found[own])
                    counts.append(group.counts)
                writer.add(group, found)
                left -= len(group)
                bar.update(len(group))

        statistics = sampled_statistics(
            Structures.concatenate(kept), int(np.concatenate(edges).sum()), np.concatenate(counts)
        )
        words |= {
            "elements": dict.fromkeys(SHARES, [1, 6, 7, 8]),
            "theory": "none",
            "cutoff": CUTOFF,
            "protocol": {"name": "in order", "seed": seed},
            "settings": {},
            "source": [],
            "statistics": dataclasses.asdict(statistics),
            "statistics_sample": {"drawn": SAMPLE, "seed": SEED},
        }
        writer.finish(words)


def memory_mb(field: str, processes: list[int]) -> float:
    """Sum of a field of /proc/PID/status over processes, MB."""
    total = 0.0
    for process in processes:
        text = Path(f"/proc/{process}/status").read_text()
        total += int(text.split(f"{field}:")[1].split()[0]) / 1024
    return total


def measure(path: str, batch: int, workers: int, steps: int) -> list[dict]:
    """Rows of a fresh process that opens the file and trains on it."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the loader, as in a script
    start = time.perf_counter()
    statistics = load_statistics(path)
    dataset = StreamedDataset(path, "train", references=statistics.references)
    opened = time.perf_counter() - start

    # the first batch needs the order of the epoch and the loader processes
    start = time.perf_counter()
    loader = EpochLoader(dataset, BatchPlan(dataset, batch_size=batch), workers)
    batches = loader.epoch(0)
    next(batches)
    first = time.perf_counter() - start

    rows = [
        {"what": "open and verify (s)", "value": opened, "bar": "<= 5"},
        {"what": "first shuffled batch (s)", "value": first, "bar": "<= 2"},
    ]
    return rows + _trained(batches, statistics, steps)


def _trained(batches, statistics, steps: int) -> list[dict]:
    """Rows of the training: waiting, time of a step, memory at its quarters."""
    model = build_model({"name": "e2former", "avg_degree": statistics.average_neighbors})
    model.set_reference(statistics.references)
    weights, costs = {"energy": 0.2, "forces": 1.0}, {"energy": "mae", "forces": "vector_norm"}
    scales = {"energy": 0.01, "forces": 0.02}
    objective = StructureLoss(weights, statistics.average_atoms, costs, scales)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    processes = [multiprocessing.current_process().pid, *_children()]

    waiting, memory = [], []
    start = time.perf_counter()
    for step in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waiting.append(time.perf_counter() - asked)

        errors = errors_of(model, batch, model(batch))
        loss, _ = objective(errors, batch.graph.nodes_per_graph.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % max(1, steps // 4) == 0:
            memory.append(memory_mb("RssAnon", processes))

    seconds = time.perf_counter() - start
    share = sum(waiting) / seconds
    rows = [
        {"what": "training step (ms)", "value": 1000 * seconds / steps, "bar": ">= 30"},
        {"what": "share of the time waiting for data (%)", "value": 100 * share, "bar": "<= 3"},
    ]
    for quarter, found in enumerate(memory, 1):
        what = f"memory after {quarter}/4 of the steps (MB)"
        rows.append({"what": what, "value": found, "bar": "flat"})
    whole = memory_mb("VmRSS", processes)
    return [*rows, {"what": "resident, with pages of the file (MB)", "value": whole, "bar": ""}]


def _children() -> list[int]:
    """Numbers of the processes that this one has started."""
    pid = multiprocessing.current_process().pid
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_lmdb", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--structures", int, 1_000_000, low=200, help="number of molecules in the file")
    bench.add("--batch-size", int, 8, low=1, help="molecules per batch")
    bench.add("--workers", int, 2, low=1, help="number of loader processes")
    bench.add("--steps", int, 300, low=4, help="number of training steps")
    bench.add("--out", str, None, help="folder for the file (default: a temporary one)")
    bench.add("--json", str, None, help="json file to write the rows to as well")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(output=options.json)
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        path = Path(folder) / "chains.lmdb"
        start = time.perf_counter()
        write_set(path, options.structures)
        written = time.perf_counter() - start
        size = path.stat().st_size / 2**20

        # nothing that writing has left in memory may help
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as fresh:
            arguments = (str(path), options.batch_size, options.workers, options.steps)
            rows = fresh.submit(measure, *arguments).result()

    rows = [
        {"what": "size of the file (MB)", "value": size, "bar": "< 1000"},
        {"what": "write it, edges counted (s)", "value": written, "bar": ""},
        *rows,
    ]
    print(f"{options.structures} molecules, batches of {options.batch_size}")
    harness.finish(rows, COLUMNS, options, report)


if __name__ == "__main__":
    run_script(main)
