"""A training step of E2Former on a large molecule, near field and hybrid, and of mace-torch.

    # Farfield alone
    python -m benchmarks.speed.bench_training_step

    # with mace-torch; benchmarks/rivals/compare_mace.py says how to make its environment
    python -m benchmarks.speed.bench_training_step --mace-python .venv-mace/bin/python

One structure (a generated double-walled nanotube, 370 atoms, edges up to 5 Angstrom, or
``--geometry``), 2 layers, lmax 2, and the same channels for all networks. A step is energy, forces
and the gradient of all weights, without an optimiser. Times are medians of CPU milliseconds of one
thread, all programs taking turns (mace-torch in a process of its own); memory is the peak of a
fresh process above the loaded program.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_training_step.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import contextlib
import functools
import statistics
import tempfile
from collections.abc import Callable

from benchmarks import harness  # before torch: it sets the thread count

import numpy as np  # isort: skip
import torch

from benchmarks.compared_networks import FORMER_FAR_FIELD
from benchmarks.speed.near_field_cases import double_walled_nanotube, load_geometry
from benchmarks.worker import Worker
from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.structures import Structures
from farfield.models.factory import build_model

CUTOFF, LMAX = 5.0, 2
SCHEDULES = {"near": "first-order", "hybrid": "hybrid-first-order"}
MACE_IRREPS = ("{0}x0e+{0}x1o", "{0}x0e+{0}x1o+{0}x2e")
COLUMNS = {
    "program": "program",
    "weights": "weights",
    "edges": "edges",
    "milliseconds": "ms",
    "ratio": "/ hybrid",
    "memory": "peak MB",
}
# The far field of the published rows.
FAR_FIELD = {
    **FORMER_FAR_FIELD,
    "far_heads": 4,
    "far_value_channels": 4,
    "far_kernel_lmax": 2,
    "far_kappa_max": 0.8,
}


def structures_of(numbers: np.ndarray, positions: np.ndarray) -> Structures:
    """Equally large structures, slightly off their symmetric places.

    numbers: (structures, atoms). positions: (structures, atoms, 3), Angstrom.
    """
    count, atoms = numbers.shape
    noise = 0.05 * np.random.default_rng(0).standard_normal(positions.shape)
    positions = (positions + noise).reshape(-1, 3)
    return Structures(
        atomic_numbers=numbers.reshape(-1),
        positions=positions,
        counts=np.full(count, atoms),
        energy=np.zeros(count),
        forces=np.zeros_like(positions),
    )


def structure(geometry: str | None) -> Structures:
    """The structure of the comparison as a set of one."""
    numbers, positions = load_geometry(geometry) if geometry else double_walled_nanotube()
    return structures_of(numbers[None], positions[None])


def training_step(
    name: str, structures: Structures, channels: int, schedule: str, **options
) -> harness.Program:
    """E2Former of two layers and degrees 0 .. ``LMAX`` on all structures at once."""
    batch = MoleculeDataset(structures, CUTOFF)[range(len(structures))].to(dtype=torch.float32)
    torch.manual_seed(0)
    sizes = {
        "irreps": "+".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(LMAX + 1)),
        "schedule": schedule,
        "layers": 2,
        "cutoff": CUTOFF,
    }
    # What a training script reads off its data; the data set puts centroids at zero.
    measured = {
        "avg_degree": batch.num_edges / batch.num_nodes,
        "avg_atoms": batch.num_nodes / batch.num_graphs,
        "far_design_radius": float(batch.positions.norm(dim=1).max()),
    }
    config = {"name": "e2former", **FAR_FIELD, **sizes, **measured, **options}
    model = build_model(config).train()

    def run() -> tuple[torch.Tensor, ...]:
        """Energy and forces, with a graph for the gradient of the weights."""
        out = model(batch)
        return out["energy"], out["forces"]

    return harness.Program(name, model, run)


def ours(name: str, channels: int, geometry: str | None) -> harness.Program:
    """Our network on the structure of the comparison."""
    return training_step(name, structure(geometry), channels, SCHEDULES[name])


def start_mace(python: str, irreps: str, geometry: Path) -> Worker:
    """mace-torch in a process of its own."""
    script = str(Path(__file__).parents[1] / "rivals" / "mace_step.py")
    command = [python, script, str(geometry), "--irreps", irreps, "--cutoff", str(CUTOFF)]
    return Worker(command, hint="benchmarks/rivals/mace_step.py by itself says why")


def mace_step(worker: Worker, row: dict) -> float:
    """CPU milliseconds of one step; its memory is kept in ``row``."""
    answer = worker.ask("step")
    row["memory"] = answer["memory"]
    return answer["milliseconds"]


def our_step(program: harness.Program) -> float:
    """CPU milliseconds of one step."""
    return 1e3 * harness.seconds(program.train)


def our_programs(options) -> list[tuple[dict, Callable[[], float]]]:
    """Rows of our networks without their times, and their steps."""
    found = []
    for name in SCHEDULES:
        program = ours(name, options.channels, options.geometry)
        arguments = (name, options.channels, options.geometry)
        row = {
            "program": f"Farfield {name}",
            "weights": program.num_parameters,
            "edges": structure_edges(options.geometry),
            "memory": harness.peak_memory_mb(ours, arguments, "train"),
        }
        found.append((row, functools.partial(our_step, program)))
    return found


def mace_programs(options, stack: contextlib.ExitStack) -> list[tuple[dict, Callable[[], float]]]:
    """Rows of mace-torch without their times, and their steps; ``stack`` ends the processes."""
    place = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "geometry.npz"
    one = structure(options.geometry)
    np.savez(place, numbers=one.atomic_numbers, positions=one.positions)
    found = []
    for pattern in MACE_IRREPS:
        irreps = pattern.format(options.channels)
        worker = stack.enter_context(start_mace(options.mace_python, irreps, place))
        row = {"program": f"mace-torch {irreps}", **worker.start}
        found.append((row, functools.partial(mace_step, worker, row)))
    return found


def rows_of(options) -> list[dict]:
    """A row for every program."""
    with contextlib.ExitStack() as stack:
        programs = our_programs(options)
        if options.mace_python:
            programs += mace_programs(options, stack)

        # The programs take turns; the first round warms up.
        rounds = [[step() for _, step in programs] for _ in range(options.rounds + 1)]

    rows = [row for row, _ in programs]
    for row, *times in zip(rows, *rounds[1:], strict=True):
        row["milliseconds"] = statistics.median(times)
    hybrid = next(row["milliseconds"] for row in rows if row["program"] == "Farfield hybrid")
    return [{**row, "ratio": row["milliseconds"] / hybrid} for row in rows]


def structure_edges(geometry: str | None) -> int:
    """Directed edges up to the cutoff."""
    return int(MoleculeDataset(structure(geometry), CUTOFF).edges_per_structure.sum())


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_training_step", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--channels", int, 64, low=4, help="channels of every degree")
    bench.add(
        "--geometry",
        str,
        None,
        help="npz file with the structure instead of the generated nanotube",
    )

    # How it is measured, and against what.
    bench.add("--rounds", int, 5, low=1, help="timed rounds")
    bench.add("--mace-python", str, None, help="python of an environment that has mace-torch")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(("torch",), options.json)
    rows = rows_of(options)
    harness.finish(rows, COLUMNS, options, report)


if __name__ == "__main__":
    run_script(main)
